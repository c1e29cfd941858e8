"""Channels: creating, reading and repairing the destinations to which the relay delivers sent chats.

A store's channels are below /v1/stores/<id>/channels; those of the whole system, which the relay creates from its
settings, are below /v1/channels.
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
from api.wire.requests import body, id_or_none, path_id, query_number
from sql.database import call, query
from sql.fields import LARGEST_CHAT_ID

channels = Blueprint("channels", __name__)

NO_SUCH_CHANNEL = "There is no channel with the specified name."
PAGE = 1000
SECRET_BYTES = 32

View = Callable[..., Response]


def of_a_channel(method: str, path: str, summary: str, **parts: Any) -> Callable[[View], View]:
    """The route for a store's channel, and the same for one of the whole system, which needs a key for all stores."""

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
    "Create or change a webhook; a generated secret is shown in this answer only",
    needs="admin",
    of="store",
    takes=WebhookIn,
    json_only=True,
    gives=answers.ChannelWithSecret,
    created=answers.ChannelWithSecret,
    problems=(400, 404, 413, 415),
)
def put_channel(store_id: str, name: str) -> Response:
    number = path_id(store_id, "store")
    if not CHANNEL_NAME.fullmatch(name):
        raise Problem(404, "A channel's name consists of 1 to 63 lower-case letters, digits, _ and -.")
    wanted = parse(WebhookIn, body(json_only=True))
    generated = "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
    settings = wanted.model_dump(exclude={"kind", "secret", "from_"}, exclude_none=True)
    put = call(
        "put_webhook",
        store_id=number,
        name=name,
        settings=json.dumps(settings),
        secret=wanted.secret,
        made=generated,
        from_start=wanted.from_ == "start",
    )
    with engine().connect() as connection:
        row = connection.execute(*put).one()
    answer = _to_json(_read(number, name))
    if row.secret_now == generated:
        answer["secret"] = generated
    return reply(answer, 201 if row.created else 200)


@of_a_channel("GET", "", "List the channels, without their secrets", needs="read", gives=answers.Channels)
def list_channels(store_id: str | None) -> Response:
    number = None if store_id is None else path_id(store_id, "store")
    with engine().connect() as connection:
        rows = connection.execute(query("api/read_channels"), {"store_id": number, "name": None}).all()
    return reply({"channels": [_to_json(row) for row in rows]})


@of_a_channel("GET", "/<name>", "Read a channel's status, without its secret", needs="read", gives=answers.Channel)
def get_channel(store_id: str | None, name: str) -> Response:
    return reply(_to_json(_read(*_parse_path(store_id, name))))


@channels.delete("/v1/stores/<store_id>/channels/<name>")
@describe("Remove a channel", needs="admin", of="store", gives=answers.Channel, problems=(404,))
def delete_channel(store_id: str, name: str) -> Response:
    number, name = _parse_path(store_id, name)
    row = _read(number, name)
    with engine().connect() as connection:
        connection.execute(query("api/delete_channel"), {"channel_id": row.channel_id})
    return reply(_to_json(row))


@of_a_channel(
    "POST",
    "/<name>/pause",
    "Deliver nothing until the channel is resumed",
    needs="admin",
    gives=answers.Channel,
)
def pause_channel(store_id: str | None, name: str) -> Response:
    return _change("pause_channel", *_parse_path(store_id, name))


@of_a_channel(
    "POST",
    "/<name>/resume",
    "Resume a channel at once: a paused or disabled one, or one that waits to retry",
    needs="admin",
    gives=answers.Channel,
)
def resume_channel(store_id: str | None, name: str) -> Response:
    return _change("resume_channel", *_parse_path(store_id, name))


@of_a_channel(
    "POST",
    "/<name>/replay",
    "Deliver all chats after a position of the log again",
    needs="admin",
    takes=ReplayIn,
    json_only=True,
    gives=answers.Channel,
    problems=(400, 404, 413, 415),
)
def replay_channel(store_id: str | None, name: str) -> Response:
    number, name = _parse_path(store_id, name)
    return _change("replay_channel", number, name, after=parse(ReplayIn, body(json_only=True)).cursor)


@of_a_channel(
    "GET",
    "/<name>/dead-letters",
    "List the channel's dead letters by position; the Link header has the next page",
    needs="read",
    gives=answers.DeadLetters,
    query={"after": (0, LARGEST_CHAT_ID), "limit": (1, PAGE)},
    problems=(400, 404),
)
def get_dead_letters(store_id: str | None, name: str) -> Response:
    row = _read(*_parse_path(store_id, name))
    after, limit = query_number("after", 0, 0, LARGEST_CHAT_ID), query_number("limit", 100, 1, PAGE)
    bounds = {"channel_id": row.channel_id, "after": after, "page": limit + 1}
    with engine().connect() as connection:
        rows = list(connection.execute(query("api/read_channel_dead_letters"), bounds))
    headers = {}
    if len(rows) > limit:
        rows.pop()
        path = f"{request.path}?after={rows[-1].position}&limit={limit}"
        headers["Link"] = f'<{path}>; rel="next"'
    dead_letters = [
        {
            "chat_id": row.chat_id,
            "position": row.position,
            "reason": row.reason,
            "attempts": row.attempts,
            "failed_at": answers.instant(row.failed_at),
            "requeue_at": answers.instant(row.requeue_at),
        }
        for row in rows
    ]
    return reply({"dead_letters": dead_letters}, 200, **headers)


@of_a_channel(
    "POST", "/<name>/dead-letters/requeue", "Deliver all dead letters again", needs="admin", gives=answers.Channel
)
def requeue_all(store_id: str | None, name: str) -> Response:
    return _change("requeue_on_channel", *_parse_path(store_id, name), chat_id=None)


@of_a_channel(
    "POST",
    "/<name>/dead-letters/<chat_id>/requeue",
    "Deliver a dead letter again",
    needs="admin",
    gives=answers.Channel,
)
def requeue(store_id: str | None, name: str, chat_id: str) -> Response:
    return _change("requeue_on_channel", *_parse_path(store_id, name), chat_id=path_id(chat_id, "chat"))


@of_a_channel(
    "DELETE",
    "/<name>/dead-letters/<chat_id>",
    "Give up a dead letter, or the chat at which a failing channel is stuck",
    needs="admin",
    gives=answers.Channel,
)
def skip(store_id: str | None, name: str, chat_id: str) -> Response:
    return _change("skip_on_channel", *_parse_path(store_id, name), chat_id=path_id(chat_id, "chat"))


@of_a_channel(
    "GET", "/<name>/attempts", "List the newest attempts of a webhook", needs="read", gives=answers.ChannelAttempts
)
def get_attempts(store_id: str | None, name: str) -> Response:
    row = _read(*_parse_path(store_id, name))
    with engine().connect() as connection:
        rows = connection.execute(query("api/read_channel_attempts"), {"channel_id": row.channel_id}).all()
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


def _parse_path(store_id: str | None, name: str) -> tuple[int | None, str]:
    number = id_or_none(store_id)
    if store_id is not None and number is None:
        raise Problem(404, NO_SUCH_CHANNEL)
    return number, name.replace("\0", "")


def _read(store_id: int | None, name: str) -> sa.Row[Any]:
    with engine().connect() as connection:
        row = connection.execute(query("api/read_channels"), {"store_id": store_id, "name": name}).one_or_none()
    if row is None:
        raise Problem(404, NO_SUCH_CHANNEL)
    return row


def _change(function: str, store_id: int | None, name: str, **values: Any) -> Response:
    """Calls a function that changes the channel, and answers the channel after it. The functions raise ST404."""
    with engine().connect() as connection:
        connection.execute(*call(function, store_id=store_id, name=name, **values))
    return reply(_to_json(_read(store_id, name)))


def _to_json(row: sa.Row[Any]) -> dict[str, Any]:
    """The channel without its secret."""
    return {
        "store_id": row.store_id,
        "name": row.name,
        "kind": row.kind,
        "url": row.url,
        "state": row.state,
        "cursor": row.cursor,
        "behind": row.behind,
        "dead_letters": row.dead_letters,
        "consecutive_failures": row.consecutive_failures,
        "next_attempt_at": answers.instant(row.next_attempt_at),
        "last_error": row.last_error,
        "last_error_at": answers.instant(row.last_error_at),
    }
