"""Reading conversations: whole, as the brief has it, or page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response

from api import answers
from api.context import engine, reply
from api.openapi import describe
from api.problems import Problem
from api.requests import path_id, query_number
from sql.tables import chat_states, chats, sent_log
from sql.tables import conversations as conversations_table

conversations = Blueprint("conversations", __name__)

PAGE = 1000  # chats read at once; keeps memory flat for conversations of any length
LARGEST_SEQ = 2**31 - 1
# Where a stream has to begin to continue the very snapshot that the chats are read in.
CURSOR = sa.select(sa.func.coalesce(sa.func.max(sent_log.c.position), 0)).scalar_subquery().label("cursor")
NO_SUCH_CONVERSATION = "There is no conversation with the specified id."


@conversations.get("/app/getConversation/<conversation_id>/")
@describe("Read a conversation with all its chats", gives=answers.BriefConversation, problems=(404,))
def brief_conversation(conversation_id: str) -> Response:
    head, _, pages = _whole(conversation_id)
    return _streamed('{"conversation":', head, pages, ',"status":200}')


@conversations.get("/v1/conversations/<conversation_id>")
@describe("Read a conversation with all its chats", gives=answers.ConversationNow, problems=(404,))
def get_conversation(conversation_id: str) -> Response:
    head, cursor, pages = _whole(conversation_id)
    return _streamed("", head | {"cursor": str(cursor)}, pages, "")


@conversations.get("/v1/conversations/<conversation_id>/chats")
@describe(
    "Read some chats of a conversation in order; the Link header has the next page",
    gives=answers.ChatPage,
    problems=(400, 404),
    query={"after": (0, LARGEST_SEQ), "limit": (1, PAGE)},
)
def get_chats(conversation_id: str) -> Response:
    number = path_id(conversation_id, NO_SUCH_CONVERSATION)
    after = query_number("after", 0, 0, LARGEST_SEQ)
    limit = query_number("limit", 100, 1, PAGE)
    with engine().connect() as connection:
        _conversation(connection, number)
        page = _page(connection, number, after, limit + 1)
    headers = {}
    if len(page) > limit:
        page.pop()
        headers["Link"] = f'</v1/conversations/{number}/chats?after={page[-1].seq}&limit={limit}>; rel="next"'
    return reply({"chat": [answers.chat(row) for row in page]}, 200, **headers)


def _conversation(connection: sa.Connection, number: int) -> dict[str, Any]:
    c = conversations_table.c
    select = sa.select(c.conversation_id, c.store_id, c.operator_id, c.client_id, c.operator_group)
    row = connection.execute(select.where(c.conversation_id == number)).mappings().one_or_none()
    if row is None:
        raise Problem(404, NO_SUCH_CONVERSATION)
    return dict(row)


def _page(connection: sa.Connection, number: int, after: int, limit: int) -> list[sa.Row[Any]]:
    """The conversation's chats whose seq is above `after`, at most `limit`, each with the snapshot's cursor."""
    c, s = chats.c, chat_states.c
    select = (
        sa.select(chats, s.state, s.release_at, CURSOR)
        .join(chat_states, c.chat_id == s.chat_id)
        .where(c.conversation_id == number, c.seq > after)
        .order_by(c.seq)
        .limit(limit)
    )
    return list(connection.execute(select))


def _whole(conversation_id: str) -> tuple[dict[str, Any], int, Iterator[list[sa.Row[Any]]]]:
    """The conversation's own members, the cursor, and its chats by pages, of which the first is read already."""
    number = path_id(conversation_id, NO_SUCH_CONVERSATION)
    database = engine()
    with database.connect() as connection:
        head = _conversation(connection, number)
        first = _page(connection, number, 0, PAGE)

    def pages() -> Iterator[list[sa.Row[Any]]]:
        page = first
        while page:
            yield page
            if len(page) < PAGE:
                return
            with database.connect() as connection:
                page = _page(connection, number, page[-1].seq, PAGE)

    return head, first[0].cursor, pages()


def _streamed(before: str, head: dict[str, Any], pages: Iterator[list[sa.Row[Any]]], after: str) -> Response:
    """The answer as it is read, so that a conversation of a million chats needs the memory of one page."""

    def text() -> Iterator[str]:
        yield before + json.dumps(head)[:-1] + ', "chat":['
        separator = ""
        for page in pages:
            yield separator + json.dumps([answers.chat(row) for row in page])[1:-1]
            separator = ","
        yield "]}" + after

    return Response(text(), mimetype="application/json")
