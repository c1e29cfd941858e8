"""The fields of requests, declared once; those of a chat are in sql.fields.

The models check the input, and the OpenAPI document is generated from them.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import PydanticCustomError

from api.wire.problems import Problem
from sql.fields import ChatIn, Id, Name, Party, Payload, explain, list_errors
from sql.jid import BadJid, bare_jid

MOST_CHATS = 1000  # in one request
TOPIC_FIELDS = ("conversation_id", "client_id", "operator_id", "store_id")  # a stream is about one of these


def _bare_jid(value: str) -> str:
    try:
        return bare_jid(value)
    except BadJid:
        raise PydanticCustomError("jid", "expected an address such as ann@example.org, without a resource") from None


XmppJid = Annotated[
    str,
    Field(
        max_length=2047,
        description="XMPP address; stored in the normalized form in which servers compare it",
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
    """An operator to add. An unknown store is created, with the default hours."""

    operator_id: Id
    operator_name: Name
    operator_group: Name
    store_id: Id
    xmpp_jid: XmppJid | None = None


class BriefChatIn(ChatIn):
    """A chat to send, as in the brief: conversation_id is required."""

    conversation_id: Id = Field()


class ReadIn(BaseModel):
    """A party's read mark: it has read the conversation's chats up to this seq."""

    reader: Party
    seq: Id


class TypingIn(BaseModel):
    """The party that is typing."""

    sender: Party


class ChatEditIn(BaseModel):
    """The new text of a chat that is not sent yet."""

    payload: Payload


Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], data: Any) -> Model:
    """The request's data as an instance of the model. Raises Problem 400, naming each field at fault."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        errors = list_errors(error)
    if not errors[0]["field"]:
        raise Problem(400, "the body must be an object of named fields")
    raise Problem(400, explain(errors), errors)
