"""The fields of a chat: type, range and length of each, for REST, RabbitMQ and XMPP alike.

The models check the input, and the OpenAPI document is generated from them. Sets of names that several programs use are
here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

LARGEST_ID = 2**31 - 1  # ids of clients, operators, stores and conversations: integer in the schema
LARGEST_CHAT_ID = 2**53  # the largest number that JSON carries exactly everywhere
LONGEST_PAYLOAD = 299  # code points; the brief requires "less than 300 characters"
LONGEST_NAME = 100

SCOPES = ("send", "read", "admin")  # of API keys, as the constraint api_keys_scopes has them
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _integer(value: Any) -> Any:
    """An integer, or its digits as a form sends them; 1.0 counts (JSON Schema), true and "1e3" do not."""
    if isinstance(value, str) and len(value) < 20 and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise PydanticCustomError("integer", "expected a whole number")


def _integer_or_same(value: Any) -> Any:
    """The value as an integer, or unchanged."""
    try:
        return _integer(value)
    except PydanticCustomError:
        return value


def _clean_text(value: Any) -> Any:
    """Checks that PostgreSQL can store the text: UTF-8 without NUL."""
    if isinstance(value, str):
        if "\0" in value:
            raise PydanticCustomError("nul", "the character NUL is not allowed")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("surrogate", "a lone surrogate is not a valid character") from None
    return value


def _not_blank(value: str) -> str:
    if value.isspace():
        raise PydanticCustomError("blank", "must not be blank")
    return value


def _number_schema(largest: int) -> WithJsonSchema:
    # The document promises up to nine digits as text, because a pattern cannot express a range; more are accepted.
    number = {"type": "integer", "minimum": 1, "maximum": largest}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}]})


Id = Annotated[int, Field(ge=1, le=LARGEST_ID), BeforeValidator(_integer), _number_schema(LARGEST_ID)]
ChatId = Annotated[int, Field(ge=1, le=LARGEST_CHAT_ID), BeforeValidator(_integer), _number_schema(LARGEST_CHAT_ID)]
Name = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_NAME, json_schema_extra={"pattern": r"^[^\x00]*[^\s\x00][^\x00]*$"}),
    BeforeValidator(_clean_text),
    AfterValidator(_not_blank),
]
Party = Literal["client", "operator"]
Payload = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_PAYLOAD, json_schema_extra={"pattern": r"^[^\x00]+$"}),
    BeforeValidator(_clean_text),
]


def _boolean(value: Any) -> Any:
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    if isinstance(value, bool):
        return value
    raise PydanticCustomError("boolean", "expected true or false")


Flag = Annotated[
    bool,
    BeforeValidator(_boolean),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["true", "false"]}]}),
]


def _either_operator(schema: dict[str, Any]) -> None:
    """Declares in the OpenAPI document that one of the two spellings is required (both are accepted if equal)."""
    schema["required"].remove("operator_id")
    schema["oneOf"] = [{"required": ["operator_id"]}, {"required": ["opertor_id"]}]
    schema["properties"]["opertor_id"] = schema["properties"]["operator_id"]


class ChatIn(BaseModel, json_schema_extra=_either_operator):
    """A chat to send. Without conversation_id it starts a new conversation; without chat_id an id is generated.

    `operator_id` may be spelled `opertor_id`, as the brief does.
    """

    chat_id: ChatId | None = None
    conversation_id: Id | None = None
    payload: Payload = Field(description="`{{ username }}` and `{{ operator }}` are replaced by the parties' names.")
    client_id: Id
    operator_id: Id = Field(validation_alias=AliasChoices("operator_id", "opertor_id"))
    sender: Party = "client"
    urgent: Flag = Field(False, description="Sent at any hour. The store's hours define which parties may set it.")

    @model_validator(mode="before")
    @classmethod
    def _one_operator(cls, data: Any) -> Any:
        both = isinstance(data, dict) and {"operator_id", "opertor_id"} <= data.keys()
        if both and _integer_or_same(data["operator_id"]) != _integer_or_same(data["opertor_id"]):
            raise PydanticCustomError("field", "differs from operator_id", {"field": "opertor_id"})
        return data

    @staticmethod
    def columns(chats: Sequence[ChatIn]) -> dict[str, list[Any]]:
        """The chats as the parallel arrays that enqueue_chats() takes."""
        return {f"{name}s": [getattr(chat, name) for chat in chats] for name in ChatIn.model_fields}


def _format_path(loc: tuple[int | str, ...]) -> str:
    """The path of a field as text: weekly.mon[1]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def list_errors(error: ValidationError) -> list[dict[str, str]]:
    """Each field at fault with the reason, as the `errors` of a problem."""
    return [_to_field_error(details) for details in error.errors(include_url=False, include_input=False)]


def explain(errors: Sequence[dict[str, str]]) -> str:
    """These errors as one text."""
    return "; ".join(f"{error['field']}: {error['reason']}" for error in errors)


def _to_field_error(details: ErrorDetails) -> dict[str, str]:
    return {
        "field": _format_path(details["loc"]) or str(details.get("ctx", {}).get("field", "")),
        "reason": "this field is required" if details["type"] == "missing" else details["msg"],
    }
