"""Starting, reading and cancelling chats."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response

from api.context import announcer, engine, rates, reply
from api.gate import access
from api.wire import answers
from api.wire.fields import MOST_CHATS, BriefChatIn, ChatEditIn, parse
from api.wire.openapi import describe
from api.wire.problems import Problem, of_sqlstate
from api.wire.requests import body, path_id
from sql.database import query
from sql.fields import ChatIn
from sql.tables import chat_states
from sql.tables import chats as chats_table

chats = Blueprint("chats", __name__)

MOST_TOLD = 100  # of a list's held chats: a page that people look at needs no more

MESSAGES = {
    "queued": "success, your message has been sent",
    "held": "success, your message will be sent when the store opens",
}


@chats.post("/app/startChat/")
@describe(
    "Start a chat, or go on with one",
    needs="send",
    of="chats in the body",
    takes=BriefChatIn,
    gives=answers.BriefChat,
    problems=(400, 403, 404, 409, 413, 415),
)
def start_chat() -> Response:
    row = _enqueue(parse(BriefChatIn, body()))
    answer = answers.chat(row) | {"message": MESSAGES[row.state], "status": 200}
    return reply(answer, 200, **_replayed(row))


@chats.post("/v1/chats")
@describe(
    f"Send a chat, or a list of up to {MOST_CHATS}, each answered by itself in the same order",
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
    if row.replayed:
        return reply(answers.chat(row), 200, **_replayed(row))
    return reply(answers.chat(row), 201, Location=f"/v1/chats/{row.chat_id}")


@chats.get("/v1/chats/<chat_id>")
@describe("Read a chat", needs="read", of="chat", gives=answers.SentChat, problems=(404,))
def get_chat(chat_id: str) -> Response:
    return reply(answers.sent_chat(_read(path_id(chat_id, NO_SUCH_CHAT, chat=True))))


@chats.patch("/v1/chats/<chat_id>")
@describe(
    "Edit a chat that still waits",
    needs="send",
    of="chat",
    takes=ChatEditIn,
    gives=answers.SentChat,
    problems=(400, 404, 409, 413, 415),
)
def edit_chat(chat_id: str) -> Response:
    number = path_id(chat_id, NO_SUCH_CHAT, chat=True)
    edit = parse(ChatEditIn, body())
    with engine().connect() as connection:
        connection.execute(query("edit_chat"), {"chat_id": number, "payload": edit.payload})
    row = _read(number)
    announcer().changed(row)
    return reply(answers.sent_chat(row))


@chats.delete("/v1/chats/<chat_id>")
@describe("Cancel a chat that is not sent", needs="send", of="chat", gives=answers.SentChat, problems=(404, 409))
def cancel_chat(chat_id: str) -> Response:
    number = path_id(chat_id, NO_SUCH_CHAT, chat=True)
    with engine().connect() as connection:
        connection.execute(query("cancel_chat"), {"chat_id": number})
    row = _read(number)
    announcer().changed(row)
    return reply(answers.sent_chat(row))


NO_SUCH_CHAT = "There is no chat with the specified id."


def _enqueue(chat: ChatIn) -> sa.Row[Any]:
    if (objection := access.objections_to([chat])[0]) is not None:
        raise objection
    with engine().connect() as connection:
        row = connection.execute(query("enqueue_chat"), chat.model_dump()).one()
    _tell_held([row])
    return row


def _tell_held(rows: list[sa.Row[Any]]) -> None:
    """Lets open pages show what waits for its store to open; what goes at once comes to them by the log."""
    for row in [row for row in rows if row.state == "held" and not row.replayed][-MOST_TOLD:]:
        announcer().changed(row)


def _replayed(row: sa.Row[Any]) -> dict[str, str]:
    return {"Idempotent_Replayed": "true"} if row.replayed else {}


def _read(chat_id: int) -> sa.Row[Any]:
    c, s = chats_table.c, chat_states.c
    select = sa.select(chats_table, s.state, s.release_at, s.sent_at).join(chat_states, c.chat_id == s.chat_id)
    with engine().connect() as connection:
        row = connection.execute(select.where(c.chat_id == chat_id)).one_or_none()
    if row is None:
        raise Problem(404, NO_SUCH_CHAT)
    return row


def _enqueue_all(items: list[Any]) -> list[dict[str, Any]]:
    """One answer for each item, in order: the chat with its status, or the problem it has."""
    if not 1 <= len(items) <= MOST_CHATS:
        raise Problem(400, f"a list of chats must have 1 to {MOST_CHATS}")
    if access.caller().party is not None:
        rates().count(access.caller(), len(items) - 1)
    results: list[dict[str, Any]] = []
    good: list[tuple[int, ChatIn]] = []
    for place, item in enumerate(items):
        try:
            good.append((place, parse(ChatIn, item)))
            results.append({})
        except Problem as problem:
            results.append(problem.as_dict())
    objections = access.objections_to([chat for _, chat in good])
    for (place, _), objection in zip(good, objections, strict=True):
        results[place] = objection.as_dict() if objection else {}
    good = [pair for pair, objection in zip(good, objections, strict=True) if objection is None]
    if good:
        with engine().connect() as connection:
            rows = list(connection.execute(query("enqueue_chats"), _columns([chat for _, chat in good])))
        for (place, _), row in zip(good, rows, strict=True):
            results[place] = _one_answer(row)
        _tell_held(rows)
    return results


def _columns(items: list[ChatIn]) -> dict[str, list[Any]]:
    return {
        "conversation_ids": [chat.conversation_id for chat in items],
        "client_ids": [chat.client_id for chat in items],
        "operator_ids": [chat.operator_id for chat in items],
        "payloads": [chat.payload for chat in items],
        "senders": [chat.sender for chat in items],
        "chat_ids": [chat.chat_id for chat in items],
        "urgents": [chat.urgent for chat in items],
    }


def _one_answer(row: sa.Row[Any]) -> dict[str, Any]:
    if row.error_state:
        return of_sqlstate(row.error_state, row.error_reason, row.error_field or None).as_dict()
    return answers.chat(row) | {"status": 200 if row.replayed else 201}
