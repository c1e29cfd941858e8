"""Channels: where sent chats are delivered outside: made, looked at and mended; the relay works on them.

A store's own are below /v1/stores/<id>/channels; those of the whole system, which the relay makes by its settings,
below /v1/channels.
"""

from __future__ import annotations

import base64
import functools
import json
import secrets
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response, request

from api.context import engine, reply
from api.wire import answers
from api.wire.channel_fields import CHANNEL_NAME, ReplayIn, WebhookIn
from api.wire.fields import parse
from api.wire.openapi import describe
from api.wire.problems import Problem
from api.wire.requests import body, path_id, query_number
from sql.database import query
from sql.fields import LARGEST_CHAT_ID

channels = Blueprint("channels", __name__)

NO_SUCH_CHANNEL = "There is no channel with the specified name."
NO_SUCH_STORE = "There is no store with the specified id."
PAGE = 1000
SECRET_BYTES = 32

View = Callable[..., Response]


def of_a_channel(method: str, path: str, summary: str, **parts: Any) -> Callable[[View], View]:
    """The route of a store's channel, and its twin for one of the whole system, which needs a key of all stores."""

    def attach(view: View) -> View:
        @functools.wraps(view)
        def of_all_stores(**values: Any) -> Response:
            return view(store_id=None, **values)

        for prefix, of, own in (("/v1/stores/<store_id>", "store", view), ("/v1", "all", of_all_stores)):
            described = describe(summary, of=of, **({"problems": (404,)} | parts))(own)
            endpoint = view.__name__ if own is view else f"{view.__name__}_of_all_stores"
            channels.add_url_rule(f"{prefix}/channels{path}", endpoint, described, methods=[method])
        return view

    return attach


@channels.put("/v1/stores/<store_id>/channels/<name>")
@describe(
    "Make a webhook, or change it; a secret that is made here is shown in this answer and never again",
    needs="admin",
    of="store",
    takes=WebhookIn,
    json_only=True,
    gives=answers.ChannelWithSecret,
    created=answers.ChannelWithSecret,
    problems=(400, 404, 413, 415),
)
def put_channel(store_id: str, name: str) -> Response:
    number = path_id(store_id, NO_SUCH_STORE)
    if not CHANNEL_NAME.fullmatch(name):
        raise Problem(404, "A channel's name is 1 to 63 lower-case letters, digits, _ and -.")
    wanted = parse(WebhookIn, body(json_only=True))
    made = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    settings = wanted.model_dump(exclude={"kind", "secret", "from_"}, exclude_none=True)
    values = {
        "store_id": number,
        "name": name,
        "settings": json.dumps(settings),
        "secret": wanted.secret,
        "made": made,
        "from_start": wanted.from_ == "start",
    }
    with engine().connect() as connection:
        row = connection.execute(query("put_webhook"), values).one()
    answer = _channel(_read(number, name))
    if row.secret == made:
        answer["secret"] = made
    return reply(answer, 201 if row.created else 200)


@of_a_channel("GET", "", "The channels, without their secrets", needs="read", gives=answers.Channels)
def list_channels(store_id: str | None) -> Response:
    number = None if store_id is None else path_id(store_id, NO_SUCH_STORE)
    with engine().connect() as connection:
        rows = connection.execute(query("read_channels"), {"store_id": number, "name": None}).all()
    return reply({"channels": [_channel(row) for row in rows]})


@of_a_channel("GET", "/<name>", "A channel and how it does, without its secret", needs="read", gives=answers.Channel)
def get_channel(store_id: str | None, name: str) -> Response:
    return reply(_channel(_read(*_whose(store_id, name))))


@channels.delete("/v1/stores/<store_id>/channels/<name>")
@describe("Remove a channel", needs="admin", of="store", gives=answers.Channel, problems=(404,))
def delete_channel(store_id: str, name: str) -> Response:
    number, name = _whose(store_id, name)
    row = _read(number, name)
    with engine().connect() as connection:
        connection.execute(query("delete_channel"), {"channel_id": row.channel_id})
    return reply(_channel(row))


@of_a_channel("POST", "/<name>/pause", "Deliver nothing until it is resumed", needs="admin", gives=answers.Channel)
def pause_channel(store_id: str | None, name: str) -> Response:
    return _done(query("pause_channel"), *_whose(store_id, name))


@of_a_channel(
    "POST",
    "/<name>/resume",
    "Go on at once: after a pause, disabled, or waiting to retry",
    needs="admin",
    gives=answers.Channel,
)
def resume_channel(store_id: str | None, name: str) -> Response:
    return _done(query("resume_channel"), *_whose(store_id, name))


@of_a_channel(
    "POST",
    "/<name>/replay",
    "Deliver once more all that was sent after a position of the log",
    needs="admin",
    takes=ReplayIn,
    json_only=True,
    gives=answers.Channel,
    problems=(400, 404, 413, 415),
)
def replay_channel(store_id: str | None, name: str) -> Response:
    number, name = _whose(store_id, name)
    return _done(query("replay_channel"), number, name, after=parse(ReplayIn, body(json_only=True)).cursor)


@of_a_channel(
    "GET",
    "/<name>/failures",
    "The channel's dead letters by position; the Link header has the next page",
    needs="read",
    gives=answers.ChannelFailures,
    query={"after": (0, LARGEST_CHAT_ID), "limit": (1, PAGE)},
    problems=(400, 404),
)
def get_failures(store_id: str | None, name: str) -> Response:
    row = _read(*_whose(store_id, name))
    after, limit = query_number("after", 0, 0, LARGEST_CHAT_ID), query_number("limit", 100, 1, PAGE)
    bounds = {"channel_id": row.channel_id, "after": after, "page": limit + 1}
    with engine().connect() as connection:
        rows = list(connection.execute(query("read_channel_failures"), bounds))
    headers = {}
    if len(rows) > limit:
        rows.pop()
        path = f"{request.path}?after={rows[-1].position}&limit={limit}"
        headers["Link"] = f'<{path}>; rel="next"'
    failures = [
        {
            "chat_id": failure.chat_id,
            "position": failure.position,
            "reason": failure.reason,
            "attempts": failure.attempts,
            "failed_at": answers.instant(failure.failed_at),
            "requeue_at": answers.instant(failure.requeue_at),
        }
        for failure in rows
    ]
    return reply({"failures": failures}, 200, **headers)


@of_a_channel(
    "POST", "/<name>/failures/requeue", "Deliver all dead letters once more", needs="admin", gives=answers.Channel
)
def requeue_all(store_id: str | None, name: str) -> Response:
    return _done(query("requeue_on_channel"), *_whose(store_id, name), chat_id=None)


@of_a_channel(
    "POST",
    "/<name>/failures/<chat_id>/requeue",
    "Deliver a dead letter once more",
    needs="admin",
    gives=answers.Channel,
)
def requeue(store_id: str | None, name: str, chat_id: str) -> Response:
    return _done(query("requeue_on_channel"), *_whose(store_id, name), chat_id=_chat(chat_id))


@of_a_channel(
    "DELETE",
    "/<name>/failures/<chat_id>",
    "Give up a dead letter, or the chat that a failing channel waits with",
    needs="admin",
    gives=answers.Channel,
)
def skip(store_id: str | None, name: str, chat_id: str) -> Response:
    return _done(query("skip_on_channel"), *_whose(store_id, name), chat_id=_chat(chat_id))


@of_a_channel(
    "GET", "/<name>/attempts", "The newest attempts of a webhook", needs="read", gives=answers.ChannelAttempts
)
def get_attempts(store_id: str | None, name: str) -> Response:
    row = _read(*_whose(store_id, name))
    with engine().connect() as connection:
        rows = connection.execute(query("read_channel_attempts"), {"channel_id": row.channel_id}).all()
    attempts = [
        {
            "chat_id": attempt.chat_id,
            "attempted_at": answers.instant(attempt.attempted_at),
            "took_seconds": attempt.took_seconds,
            "status": attempt.status,
            "error": attempt.error,
        }
        for attempt in rows
    ]
    return reply({"attempts": attempts})


def _whose(store_id: str | None, name: str) -> tuple[int | None, str]:
    number = None if store_id is None else path_id(store_id, NO_SUCH_CHANNEL)
    return number, name.replace("\0", "")


def _chat(chat_id: str) -> int:
    return path_id(chat_id, "There is no chat with the specified id.", chat=True)


def _read(store_id: int | None, name: str) -> sa.Row[Any]:
    with engine().connect() as connection:
        row = connection.execute(query("read_channels"), {"store_id": store_id, "name": name}).one_or_none()
    if row is None:
        raise Problem(404, NO_SUCH_CHANNEL)
    return row


def _done(statement: sa.TextClause, store_id: int | None, name: str, **values: Any) -> Response:
    """Does it, and answers the channel as it is then. The functions raise ST404."""
    with engine().connect() as connection:
        connection.execute(statement, {"store_id": store_id, "name": name} | values)
    return reply(_channel(_read(store_id, name)))


def _channel(row: sa.Row[Any]) -> dict[str, Any]:
    """Everything but its secrets."""
    return {
        "store_id": row.store_id,
        "name": row.name,
        "kind": row.kind,
        "url": row.url,
        "state": row.state,
        "cursor": row.cursor,
        "behind": row.behind,
        "failures": row.failures,
        "attempts": row.attempts,
        "next_attempt_at": answers.instant(row.retry_at),
        "last_error": row.last_error,
        "last_error_at": answers.instant(row.last_error_at),
    }
