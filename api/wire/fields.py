"""What requests may hold: each model's fields, declared once; what a chat from outside may hold is in sql.fields.

The models check the input and are what the OpenAPI document is made from.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError

from api.wire.problems import Problem
from sql.fields import ChatIn, Id, Name, Party, Payload, field_error
from sql.jid import BadJid, bare_jid

MOST_CHATS = 1000  # in one request


def _bare_jid(value: str) -> str:
    try:
        return bare_jid(value)
    except BadJid:
        raise PydanticCustomError("jid", "expected an address such as ann@example.org, without a resource") from None


XmppJid = Annotated[
    str,
    Field(
        max_length=2047,
        description="XMPP address; kept as servers compare it",
        json_schema_extra={"pattern": "^[a-zA-Z0-9._-]{1,60}@[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,3}$"},
    ),
    AfterValidator(_bare_jid),
]


class ClientIn(BaseModel):
    """A client to add."""

    client_id: Id
    username: Name
    location: Name
    xmpp_jid: XmppJid | None = None


class OperatorIn(BaseModel):
    """An operator to add; a store that is not known yet begins to exist with the default hours."""

    operator_id: Id
    operator_name: Name
    operator_group: Name
    store_id: Id
    xmpp_jid: XmppJid | None = None


class BriefChatIn(ChatIn):
    """A chat to send, as the brief has it: the conversation is named."""

    conversation_id: Id = Field()


class ReadIn(BaseModel):
    """Up to which chat of a conversation a party has read."""

    reader: Party
    seq: Id


class TypingIn(BaseModel):
    """Who is typing."""

    sender: Party


class ChatEditIn(BaseModel):
    """The new text of a chat that still waits."""

    payload: Payload


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], data: Any) -> Model:
    """The request's data as the model has it. Raises Problem 400 that names each field at fault."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise refusal(error) from None


def refusal(error: ValidationError) -> Problem:
    """The problem that a failed check is answered with."""
    errors = [field_error(details) for details in error.errors(include_url=False, include_input=False)]
    if not errors[0]["field"]:
        return Problem(400, "the body must be an object of named fields")
    return Problem(400, "; ".join(f"{e['field']}: {e['reason']}" for e in errors), errors)
