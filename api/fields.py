"""What requests may hold: each model's fields, declared once; what a chat from outside may hold is in sql.fields.

The models check the input and are what the OpenAPI document is made from.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from api.problems import Problem
from sql.fields import ChatIn, Id, Name, Party, Payload, field_error

MOST_CHATS = 1000  # in one request


class ClientIn(BaseModel):
    """A client to add."""

    client_id: Id
    username: Name
    location: Name


class OperatorIn(BaseModel):
    """An operator to add; a store that is not known yet begins to exist with the default hours."""

    operator_id: Id
    operator_name: Name
    operator_group: Name
    store_id: Id


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
