"""Reading a request: its body as plain data, its path's and query's numbers."""

from __future__ import annotations

import json
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import gevent
from flask import request
from gunicorn.http.errors import ParseException
from pydantic import TypeAdapter, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from api.wire.problems import Problem, field_errors
from sql.fields import ChatId, Id

_id = TypeAdapter(Id)
_chat_id = TypeAdapter(ChatId)


BODY_SECONDS = 30  # for all of a body, however steadily it drips


class SlowBody(Exception):
    """The body has not come in time."""


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
    """All of it: of a body that was cut off on the way, a form would make a shorter chat."""
    try:
        with gevent.Timeout(BODY_SECONDS, SlowBody):
            data = request.get_data()
    except SlowBody:
        raise Problem(408, f"the body took longer than {BODY_SECONDS} s") from None
    except (ParseException, OSError) as error:  # gunicorn's word on chunks that are none
        raise Problem(400, f"the body cannot be read: {error}") from None
    most = request.max_content_length
    if request.content_length is None and most is not None and len(data) >= most:
        raise RequestEntityTooLarge  # in chunks: it was cut there
    if request.content_length not in (None, len(data)):
        raise Problem(400, "the body ended early")
    return data


def _form(data: bytes) -> dict[str, str]:
    """A form's fields, of each the first. Others' encodings are refused: read as UTF-8 they would be another text."""
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
    raise ValueError(f"{name} is no JSON value")


def id_or_none(text: str | None, chat: bool = False) -> int | None:
    """The id that a text is; None: it cannot be one. Blanks around it are none: they would get into a Link header."""
    if text is None or text != text.strip():
        return None
    try:
        return (_chat_id if chat else _id).validate_python(text)
    except ValidationError:
        return None


def path_id(text: str, missing: str, chat: bool = False) -> int:
    """The id in a path. What cannot be one is not found: raises Problem 404 with the text `missing`."""
    number = id_or_none(text, chat)
    if number is None:
        raise Problem(404, missing)
    return number


def query_flag(name: str) -> bool:
    """A true or false in the query string, false where there is none. Raises Problem 400 that names it."""
    text = request.args.get(name, "false")
    if text not in ("true", "false"):
        reason = "expected true or false"
        raise Problem(400, f"{name}: {reason}", field_errors(name, reason))
    return text == "true"


def query_number(name: str, default: int, least: int, most: int) -> int:
    """A number in the query string. Raises Problem 400 that names it."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
        reason = f"expected a whole number from {least} to {most}"
        raise Problem(400, f"{name}: {reason}", field_errors(name, reason))
    return int(text)
