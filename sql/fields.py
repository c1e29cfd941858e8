"""What a chat from outside may hold: each field's type, range and length, wherever it comes in.

The models check the input and are what the OpenAPI document is made from.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

LARGEST_ID = 2**31 - 1  # ids of clients, operators, stores and conversations: integer in the schema
LARGEST_CHAT_ID = 2**53  # the largest number that JSON carries exactly everywhere
LONGEST_PAYLOAD = 299  # "less than 300 characters", says the brief; code points
LONGEST_NAME = 100


def _integer(value: Any) -> Any:
    """A whole number, also as the digits that forms send; to JSON Schema 1.0 is one, true and "1e3" are not."""
    if isinstance(value, str) and len(value) < 20 and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise PydanticCustomError("integer", "expected a whole number")


def _number(value: Any) -> Any:
    """The number that a value is, or else the value."""
    try:
        return _integer(value)
    except PydanticCustomError:
        return value


def _clean_text(value: Any) -> Any:
    """Text that PostgreSQL can keep: UTF-8 without NUL."""
    if isinstance(value, str):
        if "\0" in value:
            raise PydanticCustomError("nul", "the character NUL is not allowed")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise PydanticCustomError("surrogate", "a lone surrogate is no character") from None
    return value


def _not_blank(value: str) -> str:
    if value.isspace():
        raise PydanticCustomError("blank", "must not be blank")
    return value


def _number_schema(largest: int) -> WithJsonSchema:
    # As text, nine digits are promised and more are taken: a pattern cannot say a range.
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
    """Says in the OpenAPI document that one of the two spellings is needed (both, alike, are taken too)."""
    schema["required"].remove("operator_id")
    schema["oneOf"] = [{"required": ["operator_id"]}, {"required": ["opertor_id"]}]
    schema["properties"]["opertor_id"] = schema["properties"]["operator_id"]


class ChatIn(BaseModel, json_schema_extra=_either_operator):
    """A chat to send. Without conversation_id it begins a new conversation; without chat_id it gets one.

    `operator_id` may be spelled `opertor_id`, as the brief does.
    """

    chat_id: ChatId | None = None
    conversation_id: Id | None = None
    payload: Payload = Field(description="`{{ username }}` and `{{ operator }}` become the parties' names.")
    client_id: Id
    operator_id: Id = Field(validation_alias=AliasChoices("operator_id", "opertor_id"))
    sender: Party = "client"
    urgent: Flag = Field(False, description="Goes at any hour, for those whom the store allows.")

    @model_validator(mode="before")
    @classmethod
    def _one_operator(cls, data: Any) -> Any:
        both = isinstance(data, dict) and {"operator_id", "opertor_id"} <= data.keys()
        if both and _number(data["operator_id"]) != _number(data["opertor_id"]):
            raise PydanticCustomError("field", "differs from operator_id", {"field": "opertor_id"})
        return data


def _place(loc: tuple[int | str, ...]) -> str:
    """As one writes it: weekly.mon[1]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def field_error(details: ErrorDetails) -> dict[str, str]:
    """What is wrong with a field, in the words of an answer."""
    return {
        "field": _place(details["loc"]) or str(details.get("ctx", {}).get("field", "")),
        "reason": "this field is required" if details["type"] == "missing" else details["msg"],
    }
