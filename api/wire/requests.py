"""Reading a request: its body as plain data, the values in its path and query."""

from __future__ import annotations

import json
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import gevent
from flask import request
from gunicorn.http.errors import ParseException
from pydantic import TypeAdapter, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from api.wire.problems import Problem, field_errors, no_such
from sql.fields import ChatId, Id

_id = TypeAdapter(Id)
_chat_id = TypeAdapter(ChatId)

BODY_SECONDS = 30  # for a whole body, even if it keeps trickling in


class SlowBody(Exception):
    """The body did not arrive in time."""


def body(json_only: bool = False) -> Any:
    """The body: JSON of any kind, or a form's fields. Raises Problem 400 and 415."""
    data = _whole_body()
    if request.mimetype == "application/json":
        return _json(data)
    if not json_only and request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return _form(data)
    others = "" if json_only else ", application/x-www-form-urlencoded or multipart/form-data"
    raise Problem(415, f"send application/json{others}")


def _whole_body() -> bytes:
    """The whole body. A truncated form would parse as a shorter chat, so the length is checked."""
    try:
        with gevent.Timeout(BODY_SECONDS, SlowBody):
            data = request.get_data()
    except SlowBody:
        raise Problem(408, f"the body took longer than {BODY_SECONDS} s") from None
    except (ParseException, OSError) as error:  # gunicorn's, for malformed chunks
        raise Problem(400, f"the body cannot be read: {error}") from None
    most = request.max_content_length
    if request.content_length is None and most is not None and len(data) >= most:
        raise RequestEntityTooLarge  # chunked: it was truncated there
    if request.content_length not in (None, len(data)):
        raise Problem(400, "the body is shorter than its Content-Length")
    return data


def _form(data: bytes) -> dict[str, str]:
    """A form's fields, the first of each name. Encodings other than UTF-8 are rejected: the text would be garbled."""
    try:
        if request.mimetype == "application/x-www-form-urlencoded":
            return dict(reversed(parse_qsl(data.decode(), keep_blank_values=True, errors="strict")))
    except ValueError:
        raise Problem(400, "the form is not UTF-8") from None
    fields = request.form.to_dict()
    if any("\ufffd" in value and value.encode() not in data for value in fields.values()):
        raise Problem(400, "the form is not UTF-8")
    return fields


def _json(data: bytes) -> Any:
    try:
        return json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise Problem(400, "the body is nested too deep") from None
    except ValueError as error:  # bad syntax, bad UTF-8, a number of thousands of digits
        raise Problem(400, f"the body is not JSON: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON")


def id_or_none(text: str | None, chat: bool = False) -> int | None:
    """The text as an id; None: not a valid one. Blanks around it are not valid: they would get into a Link header."""
    if text is None or text != text.strip():
        return None
    try:
        return (_chat_id if chat else _id).validate_python(text)
    except ValidationError:
        return None


def path_id(text: str, kind: str) -> int:
    """The id of an object of this kind in a path. An invalid id is not found either: raises Problem 404."""
    number = id_or_none(text, chat=kind == "chat")
    if number is None:
        raise no_such(kind)
    return number


def query_flag(name: str) -> bool:
    """A true or false in the query string; false if missing. Raises Problem 400, naming it."""
    text = request.args.get(name, "false")
    if text not in ("true", "false"):
        reason = "expected true or false"
        raise Problem(400, f"{name}: {reason}", field_errors(name, reason))
    return text == "true"


def query_number(name: str, default: int, least: int, most: int) -> int:
    """A number in the query string. Raises Problem 400, naming it."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        reason = f"expected a whole number from {least} to {most}"
        raise Problem(400, f"{name}: {reason}", field_errors(name, reason))
    return int(text)
