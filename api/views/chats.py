"""Sending, reading, editing and cancelling chats."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response

from api.context import announcer, engine, rates, reply
from api.gate import access
from api.wire import answers
from api.wire.fields import MOST_CHATS, BriefChatIn, ChatEditIn, parse
from api.wire.openapi import describe
from api.wire.problems import Problem, no_such, of_sqlstate
from api.wire.requests import body, path_id
from sql.database import call
from sql.fields import ChatIn
from sql.tables import chat_states
from sql.tables import chats as chats_table

chats = Blueprint("chats", __name__)

MOST_ANNOUNCED = 100  # of a list's held chats: a page shows no more of them

MESSAGES = {
    "queued": "success, your message has been sent",
    "held": "success, your message will be sent when the store opens",
}


@chats.post("/app/startChat/")
@describe(
    "Start a conversation, or continue one",
    needs="send",
    of="chats in the body",
    takes=BriefChatIn,
    gives=answers.BriefChat,
    problems=(400, 403, 404, 409, 413, 415),
)
def start_chat() -> Response:
    row = _enqueue(parse(BriefChatIn, body()))
    answer = answers.chat(row) | {"message": MESSAGES[row.state], "status": 200}
    return reply(answer, 200, **_repeat_header(row))


@chats.post("/v1/chats")
@describe(
    f"Send a chat, or a list of up to {MOST_CHATS}, each answered separately, in the same order",
    needs="send",
    of="chats in the body",
    takes=ChatIn,
    gives=answers.Chat | list[answers.Accepted | answers.ProblemOut],
    created=answers.Chat,
    list_up_to=MOST_CHATS,
    problems=(400, 403, 404, 409, 413, 415),
)
def post_chats() -> Response:
    data = body()
    if isinstance(data, list):
        return reply(_enqueue_all(data))
    row = _enqueue(parse(ChatIn, data))
    if row.is_repeat:
        return reply(answers.chat(row), 200, **_repeat_header(row))
    return reply(answers.chat(row), 201, Location=f"/v1/chats/{row.chat_id}")


@chats.get("/v1/chats/<chat_id>")
@describe("Read a chat", needs="read", of="chat", gives=answers.SentChat, problems=(404,))
def get_chat(chat_id: str) -> Response:
    return reply(answers.sent_chat(_read(path_id(chat_id, "chat"))))


@chats.patch("/v1/chats/<chat_id>")
@describe(
    "Edit a chat that is not sent yet",
    needs="send",
    of="chat",
    takes=ChatEditIn,
    gives=answers.SentChat,
    problems=(400, 404, 409, 413, 415),
)
def edit_chat(chat_id: str) -> Response:
    number = path_id(chat_id, "chat")
    edit = parse(ChatEditIn, body())
    with engine().connect() as connection:
        connection.execute(*call("edit_chat", chat_id=number, payload=edit.payload))
    row = _read(number)
    return reply(answers.sent_chat(row))


@chats.delete("/v1/chats/<chat_id>")
@describe("Cancel a chat that is not sent yet", needs="send", of="chat", gives=answers.SentChat, problems=(404, 409))
def cancel_chat(chat_id: str) -> Response:
    number = path_id(chat_id, "chat")
    with engine().connect() as connection:
        connection.execute(*call("cancel_chat", chat_id=number))
    row = _read(number)
    return reply(answers.sent_chat(row))


def _enqueue(chat: ChatIn) -> sa.Row[Any]:
    if (problem := access.check_chats([chat])[0]) is not None:
        raise problem
    with engine().connect() as connection:
        row = connection.execute(*call("enqueue_chat", **chat.model_dump())).one()
    _announce_held([row])
    return row


def _announce_held(rows: list[sa.Row[Any]]) -> None:
    """Announces new held chats to open pages; the others reach them through the log."""
    for row in [row for row in rows if row.state == "held" and not row.is_repeat][-MOST_ANNOUNCED:]:
        announcer().announce_held(row)


def _repeat_header(row: sa.Row[Any]) -> dict[str, str]:
    return {"Idempotent_Replayed": "true"} if row.is_repeat else {}


def _read(chat_id: int) -> sa.Row[Any]:
    c, s = chats_table.c, chat_states.c
    select = sa.select(chats_table, s.state, s.release_at, s.sent_at).join(chat_states, c.chat_id == s.chat_id)
    with engine().connect() as connection:
        row = connection.execute(select.where(c.chat_id == chat_id)).one_or_none()
    if row is None:
        raise no_such("chat")
    return row


def _enqueue_all(items: list[Any]) -> list[dict[str, Any]]:
    """One answer for each item, in order: the chat with its status, or its problem."""
    if not 1 <= len(items) <= MOST_CHATS:
        raise Problem(400, f"a list must have 1 to {MOST_CHATS} chats")
    if access.caller().party is not None:
        rates().count(access.caller(), len(items) - 1)
    results: list[dict[str, Any]] = []
    good: list[tuple[int, ChatIn]] = []
    for index, item in enumerate(items):
        try:
            good.append((index, parse(ChatIn, item)))
            results.append({})
        except Problem as problem:
            results.append(problem.as_dict())
    problems = access.check_chats([chat for _, chat in good])
    for (index, _), rejection in zip(good, problems, strict=True):
        results[index] = rejection.as_dict() if rejection else {}
    good = [pair for pair, rejection in zip(good, problems, strict=True) if rejection is None]
    if good:
        with engine().connect() as connection:
            rows = list(connection.execute(*call("enqueue_chats", **ChatIn.columns([chat for _, chat in good]))))
        rows.sort(key=attrgetter("index"))
        for (index, _), row in zip(good, rows, strict=True):
            results[index] = _answer_of(row)
        _announce_held(rows)
    return results


def _answer_of(row: sa.Row[Any]) -> dict[str, Any]:
    if row.error_state:
        return of_sqlstate(row.error_state, row.error_reason, row.error_field or None).as_dict()
    return answers.chat(row) | {"status": 200 if row.is_repeat else 201}
