"""Read marks and typing: what the parties do besides sending chats."""

from __future__ import annotations

import time

import sqlalchemy as sa
from flask import Blueprint, Response

from api.context import announcer, engine, reply
from api.gate.access import require_party
from api.wire import answers
from api.wire.fields import ReadIn, TypingIn, parse
from api.wire.openapi import describe
from api.wire.problems import no_such
from api.wire.requests import body, path_id
from sql.database import call
from sql.tables import conversations as conversations_table

attention = Blueprint("attention", __name__)

TYPING_SECONDS = 2.0  # each process announces a party of a conversation at most this often
MOST_TYPING = 10_000  # parties remembered at once

_typed_at: dict[tuple[int, str], float] = {}


@attention.put("/v1/conversations/<conversation_id>/read")
@describe(
    "Set the chat up to which a party has read; it never moves back",
    needs="send",
    of="conversation",
    takes=ReadIn,
    gives=answers.ReadMark,
    problems=(400, 404, 409, 413, 415),
)
def put_read(conversation_id: str) -> Response:
    mark = parse(ReadIn, body())
    require_party(mark.reader, "reader")
    number = path_id(conversation_id, "conversation")
    with engine().connect() as connection:
        row = connection.execute(*call("mark_read", conversation_id=number, party=mark.reader, seq=mark.seq)).one()
    if row.moved:
        announcer().announce("read", number, reader=mark.reader, seq=row.marked)
    return reply({"conversation_id": number, "reader": mark.reader, "seq": row.marked})


@attention.post("/v1/conversations/<conversation_id>/typing")
@describe(
    "Announce that a party is typing; shown for about 5 s",
    needs="send",
    of="conversation",
    takes=TypingIn,
    status=204,
    problems=(400, 404, 413, 415),
)
def post_typing(conversation_id: str) -> Response:
    typing = parse(TypingIn, body())
    require_party(typing.sender, "sender")
    number = path_id(conversation_id, "conversation")
    if _may_announce((number, typing.sender)):
        c = conversations_table.c
        with engine().connect() as connection:
            if connection.execute(sa.select(c.last_seq).where(c.conversation_id == number)).first() is None:
                raise no_such("conversation")
        announcer().announce("typing", number, sender=typing.sender)
    return Response(status=204)


def _may_announce(party: tuple[int, str]) -> bool:
    """Whether the party's last announcement is long enough ago."""
    now = time.monotonic()
    if now - _typed_at.get(party, float("-inf")) < TYPING_SECONDS:
        return False
    if len(_typed_at) >= MOST_TYPING:
        _typed_at.clear()
    _typed_at[party] = now
    return True
