"""The fields of a channel in a request, declared once."""

from __future__ import annotations

import base64
import re
import urllib.parse
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sql.fields import LARGEST_CHAT_ID

CHANNEL_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")  # as the constraint channels_name has it


def _webhook_url(value: str) -> str:
    try:
        url = urllib.parse.urlsplit(value)
        is_valid = url.scheme in ("http", "https") and url.hostname and url.port != 0 and not url.fragment
    except ValueError:
        is_valid = False
    if not is_valid or url.username is not None or url.password is not None or re.search(r"[^!-~]", value):
        raise PydanticCustomError("url", "expected an http or https URL in ASCII, without user name and fragment")
    return value


def _webhook_secret(value: str) -> str:
    try:
        size = len(base64.b64decode(value.removeprefix("whsec_"), validate=True))
    except ValueError:
        size = 0
    if not 24 <= size <= 64:
        raise PydanticCustomError("secret", "expected whsec_ and 24 to 64 bytes in base64")
    return value


class WebhookIn(BaseModel):
    """A store's webhook (Standard Webhooks)."""

    kind: Literal["webhook"]
    url: Annotated[
        str,
        Field(
            max_length=2000, json_schema_extra={"pattern": r"^https?://[a-z0-9]{1,20}(\.[a-z0-9]{1,20}){0,3}/[!-~]?$"}
        ),
        AfterValidator(_webhook_url),
    ]
    secret: Annotated[
        str | None,
        AfterValidator(lambda value: None if value is None else _webhook_secret(value)),
        WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]{43}=$"}, {"type": "null"}]}),
    ] = None
    timeout_seconds: Annotated[float, Field(ge=0.1, le=30)] | None = None
    retry_seconds: (
        Annotated[list[Annotated[float, Field(ge=0, le=86400)]], Field(min_length=1, max_length=20)] | None
    ) = Field(None, description="seconds to wait after each failed attempt; after the last one the channel is disabled")
    from_: Literal["now", "start"] = Field(
        "now",
        alias="from",
        description="where a new channel starts: with chats sent from now on, or at the start of the log",
    )


class ReplayIn(BaseModel):
    """Where to start the replay."""

    cursor: Annotated[int, Field(ge=0, le=LARGEST_CHAT_ID)] = Field(
        description="chats after this position of the log are delivered again; 0: all of them"
    )
