"""What the parties do besides chatting: they read up to a chat, and they type."""

from __future__ import annotations

import time

import sqlalchemy as sa
from flask import Blueprint, Response

from api.context import announcer, engine, reply
from api.gate.access import speak_as
from api.views.conversations import NO_SUCH_CONVERSATION
from api.wire import answers
from api.wire.fields import ReadIn, TypingIn, parse
from api.wire.openapi import describe
from api.wire.problems import Problem
from api.wire.requests import body, path_id
from sql.database import query
from sql.tables import conversations as conversations_table

attention = Blueprint("attention", __name__)

TYPING_SECONDS = 2.0  # at most one signal in so long for a party of a conversation, from this process
MOST_TYPING = 10_000  # remembered at once

_typed_at: dict[tuple[int, str], float] = {}


@attention.put("/v1/conversations/<conversation_id>/read")
@describe(
    "Say up to which chat a party has read; never goes back",
    needs="send",
    of="conversation",
    takes=ReadIn,
    gives=answers.ReadMark,
    problems=(400, 404, 409, 413, 415),
)
def put_read(conversation_id: str) -> Response:
    mark = parse(ReadIn, body())
    speak_as(mark.reader, "reader")
    number = path_id(conversation_id, NO_SUCH_CONVERSATION)
    with engine().connect() as connection:
        row = connection.execute(query("mark_read"), {"conversation_id": number} | mark.model_dump()).one()
    if row.moved:
        announcer().tell("read", number, reader=mark.reader, seq=row.marked)
    return reply({"conversation_id": number, "reader": mark.reader, "seq": row.marked})


@attention.post("/v1/conversations/<conversation_id>/typing")
@describe(
    "Say that a party is typing; shown for some 5 s",
    needs="send",
    of="conversation",
    takes=TypingIn,
    status=204,
    problems=(400, 404, 413, 415),
)
def post_typing(conversation_id: str) -> Response:
    typing = parse(TypingIn, body())
    speak_as(typing.sender, "sender")
    number = path_id(conversation_id, NO_SUCH_CONVERSATION)
    if _is_due((number, typing.sender)):
        c = conversations_table.c
        with engine().connect() as connection:
            if connection.execute(sa.select(c.last_seq).where(c.conversation_id == number)).first() is None:
                raise Problem(404, NO_SUCH_CONVERSATION)
        announcer().tell("typing", number, sender=typing.sender)
    return Response(status=204)


def _is_due(who: tuple[int, str]) -> bool:
    """Whether the party has been quiet for long enough to be announced again."""
    now = time.monotonic()
    if now - _typed_at.get(who, float("-inf")) < TYPING_SECONDS:
        return False
    if len(_typed_at) >= MOST_TYPING:
        _typed_at.clear()
    _typed_at[who] = now
    return True
