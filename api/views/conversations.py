"""Reading conversations: whole, as the brief requires, or page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response

from api.context import engine, reply
from api.gate.access import caller
from api.gate.keys import Caller
from api.wire import answers
from api.wire.openapi import describe
from api.wire.problems import no_such
from api.wire.requests import path_id, query_number
from sql.database import query
from sql.tables import conversations as conversations_table

conversations = Blueprint("conversations", __name__)

PAGE = 1000  # chats per read; memory stays constant for conversations of any length
LARGEST_SEQ = 2**31 - 1


@conversations.get("/app/getConversation/<conversation_id>/")
@describe(
    "Read a conversation with all its chats",
    needs="read",
    of="conversation",
    gives=answers.BriefConversation,
    problems=(404,),
)
def brief_conversation(conversation_id: str) -> Response:
    head, _, pages = _read_whole(conversation_id)
    return _stream('{"conversation":', head, pages, ',"status":200}')


@conversations.get("/v1/conversations/<conversation_id>")
@describe(
    "Read a conversation with all its chats",
    needs="read",
    of="conversation",
    gives=answers.ConversationNow,
    problems=(404,),
)
def get_conversation(conversation_id: str) -> Response:
    head, cursor, pages = _read_whole(conversation_id)
    with engine().connect() as connection:
        row = connection.execute(query("api/conversation_head"), {"conversation_id": head["conversation_id"]}).one()
    now = {
        "username": row.username,
        "operator_name": row.operator_name,
        "timezone": row.timezone,
        "read": {"client": row.client_read, "operator": row.operator_read},
        "delivered": {"client": row.client_delivered, "operator": row.operator_delivered},
        "present": {party: any(one.startswith(party) for one in row.present) for party in ("client", "operator")},
        "cursor": str(cursor),
    }
    return _stream("", head | now, pages, "")


@conversations.get("/v1/conversations/<conversation_id>/chats")
@describe(
    "Read a page of a conversation's chats, in order; the Link header has the next page",
    needs="read",
    of="conversation",
    gives=answers.ChatPage,
    problems=(400, 404),
    query={"after": (0, LARGEST_SEQ), "limit": (1, PAGE)},
)
def get_chats(conversation_id: str) -> Response:
    number = path_id(conversation_id, "conversation")
    after = query_number("after", 0, 0, LARGEST_SEQ)
    limit = query_number("limit", 100, 1, PAGE)
    with engine().connect() as connection:
        page = _read_page(connection, number, after, limit + 1)
        if not page and not _exists(connection, number):
            raise no_such("conversation")
    headers = {}
    if len(page) > limit:
        page.pop()
        headers["Link"] = f'</v1/conversations/{number}/chats?after={page[-1].seq}&limit={limit}>; rel="next"'
    return reply({"chat": _visible_chats(page, caller())}, 200, **headers)


def _exists(connection: sa.Connection, number: int) -> bool:
    c = conversations_table.c
    return connection.execute(sa.select(c.last_seq).where(c.conversation_id == number)).first() is not None


def _read_page(connection: sa.Connection, number: int, after: int, limit: int) -> list[sa.Row[Any]]:
    """Chats of the conversation whose seq is above `after`, at most `limit`, each with the conversation's columns."""
    bounds = {"conversation_id": number, "after": after, "page": limit}
    return list(connection.execute(query("api/read_conversation"), bounds))


def _visible_chats(page: list[sa.Row[Any]], to: Caller) -> list[dict[str, Any]]:
    return [answers.chat(row) for row in page if to.sees(row.sender, row.state)]


def _read_whole(conversation_id: str) -> tuple[dict[str, Any], int, Iterator[list[sa.Row[Any]]]]:
    """The conversation's own members, the cursor, and its chats by pages; the first page is already read."""
    number = path_id(conversation_id, "conversation")
    database = engine()
    with database.connect() as connection:
        first = _read_page(connection, number, 0, PAGE)
    members = ("conversation_id", "store_id", "operator_id", "client_id", "operator_group")
    if not first:  # it does not exist, or all its chats are pruned
        return *_read_head(number, members), iter(())
    head = {name: getattr(first[0], name) for name in members}

    def pages() -> Iterator[list[sa.Row[Any]]]:
        page = first
        while page:
            yield page
            if len(page) < PAGE:
                return
            with database.connect() as connection:
                page = _read_page(connection, number, page[-1].seq, PAGE)

    return head, first[0].cursor, pages()


def _read_head(number: int, members: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    """The members of a conversation without chats, and the cursor. Raises Problem 404."""
    c = conversations_table.c
    with engine().connect() as connection:
        cursor = connection.execute(query("shared/log_bounds")).one().latest
        row = connection.execute(sa.select(*(c[name] for name in members)).where(c.conversation_id == number)).first()
    if row is None:
        raise no_such("conversation")
    return row._asdict(), cursor


def _stream(before: str, head: dict[str, Any], pages: Iterator[list[sa.Row[Any]]], after: str) -> Response:
    """Streams the answer while reading it, so that a conversation of a million chats needs the memory of one page."""
    reader = caller()

    def text() -> Iterator[str]:
        yield before + json.dumps(head)[:-1] + ', "chat":['
        separator = ""
        for page in pages:
            if chats := _visible_chats(page, reader):
                yield separator + json.dumps(chats)[1:-1]
                separator = ","
        yield "]}" + after

    return Response(text(), mimetype="application/json")
