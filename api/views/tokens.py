"""Minting tokens: a shop's server has an API key, and gets each device a short-lived token for its one party."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import sqlalchemy as sa
from flask import Blueprint, Response
from pydantic import BaseModel, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from api.context import engine, keys, reply
from api.gate.access import caller, parties_store
from api.wire import answers
from api.wire.fields import parse
from api.wire.openapi import describe
from api.wire.problems import Problem, field_errors
from api.wire.requests import body
from sql.fields import LARGEST_ID, Id, Party
from sql.tables import conversations

tokens = Blueprint("tokens", __name__)

LONGEST_SECONDS = 24 * 3600

_Id = Annotated[Id | None, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": LARGEST_ID})]


def _without(*names: str) -> dict[str, object]:
    return {"not": {"anyOf": [{"required": [name]} for name in names]}}


ONE_OF = [
    {"required": ["client_id"], **_without("operator_id", "conversation_id")},
    {"required": ["operator_id"], **_without("client_id", "conversation_id")},
    {"required": ["conversation_id"], **_without("client_id", "operator_id")},
    {"required": ["conversation_id", "client_id", "operator_id"]},
]


class TokenIn(BaseModel, json_schema_extra={"oneOf": ONE_OF}):
    """What a token is for: one client, one operator, or one conversation as one of its parties.

    For a conversation that does not exist yet, give both its parties too.
    """

    client_id: _Id = None
    operator_id: _Id = None
    conversation_id: _Id = None
    as_: Party = Field("client", alias="as", description="of a conversation: the party that the token acts as")
    ttl_seconds: Annotated[int, Field(ge=10, le=LONGEST_SECONDS, description="how long it is valid")] = 3600

    @model_validator(mode="after")
    def _is_for_one(self) -> TokenIn:
        parties = [self.client_id, self.operator_id]
        if self.conversation_id is None and parties.count(None) != 1:
            reason = "give client_id, operator_id or conversation_id"
            raise PydanticCustomError("field", reason, {"field": "client_id"})
        if self.conversation_id is not None and parties.count(None) == 1:
            raise PydanticCustomError(
                "field", "give both client_id and operator_id, or neither", {"field": "operator_id"}
            )
        return self


@tokens.post("/v1/tokens")
@describe(
    "Create a short-lived token for a device: the key's send and read rights, for one client, operator or conversation",
    needs="any",
    of="body",
    takes=TokenIn,
    json_only=True,
    gives=None,
    created=answers.Token,
    problems=(400, 404, 409, 413, 415),
)
def post_token() -> Response:
    wanted = parse(TokenIn, body(json_only=True))
    if not caller().scopes & {"send", "read"}:
        raise Problem(403, "a token inherits its key's scopes send and read, and this key has neither")
    within, party = _reach(wanted)
    token, expires_at = keys().mint(caller(), within, party, wanted.ttl_seconds)
    until = answers.instant(dt.datetime.fromtimestamp(expires_at, dt.UTC))
    return reply({"token": token, "expires_at": until}, 201)


def _reach(wanted: TokenIn) -> tuple[dict[str, int], str]:
    """The token's reach and party. Raises Problem 404 for an object that is not within the key's reach."""
    own = dict(caller().within)
    if wanted.conversation_id is not None:
        return _conversation(wanted, wanted.conversation_id), wanted.as_
    if wanted.operator_id is not None:
        return {"operator_id": wanted.operator_id, "store_id": _store(None, wanted.operator_id)}, "operator"
    assert wanted.client_id is not None
    _store(wanted.client_id, None)
    return own | {"client_id": wanted.client_id}, "client"


def _conversation(wanted: TokenIn, number: int) -> dict[str, int]:
    v = conversations.c
    columns = [v.conversation_id, v.client_id, v.operator_id, v.store_id]
    with engine().connect() as connection:
        found = connection.execute(sa.select(*columns).where(v.conversation_id == number)).mappings().first()
    named = None if wanted.client_id is None else (wanted.client_id, wanted.operator_id)
    if found is not None and named not in (None, (found["client_id"], found["operator_id"])):
        raise _problem(409, "conversation_id", f"conversation {number} is between another client and operator")
    if found is not None and caller().reaches(found):
        return dict(found)
    if found is not None or named is None:
        raise _problem(404, "conversation_id", f"there is no conversation {number}")
    return {
        "conversation_id": number,
        "client_id": wanted.client_id or 0,
        "operator_id": wanted.operator_id or 0,
        "store_id": _store(wanted.client_id, wanted.operator_id),
    }


def _store(client_id: int | None, operator_id: int | None) -> int:
    """The operator's store, 0 without one. Raises Problem 404 unless the key reaches both."""
    row = parties_store(client_id, operator_id)
    if client_id is not None and not row.has_client:
        raise _problem(404, "client_id", f"there is no client {client_id}")
    if operator_id is not None and row.store_id is None:
        raise _problem(404, "operator_id", f"there is no operator {operator_id}")
    return row.store_id or 0


def _problem(status: int, name: str, reason: str) -> Problem:
    return Problem(status, reason, field_errors(name, reason))
