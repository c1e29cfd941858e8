"""The desk's data: conversations of an operator or a store, newest activity first, and whether the store is open."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response, request

from api.context import engine, reply
from api.wire import answers
from api.wire.openapi import describe
from api.wire.problems import Problem, field_errors, no_such
from api.wire.requests import path_id, query_number
from sql.database import query
from sql.fields import LARGEST_ID
from sql.tables import operators, stores

desk = Blueprint("desk", __name__)

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
PAGING = {
    "limit": (1, 100),
    "before": {"type": "string", "pattern": "^[0-9]{1,16}-[0-9]{1,10}$", "description": "from the Link header"},
}
PAGED = "; the Link header has the next page"


@desk.get("/v1/operators/<operator_id>/conversations")
@describe(
    "List an operator's conversations, newest activity first" + PAGED,
    needs="read",
    of="operator",
    gives=answers.ConversationList,
    problems=(400, 404),
    query=PAGING,
)
def operator_conversations(operator_id: str) -> Response:
    number = path_id(operator_id, "operator")
    return _list_conversations(operators.c.operator_id == number, "operator", operator_id=number)


@desk.get("/v1/stores/<store_id>/conversations")
@describe(
    "List a store's conversations, newest activity first" + PAGED,
    needs="read",
    of="store",
    gives=answers.ConversationList,
    problems=(400, 404),
    query=PAGING,
)
def store_conversations(store_id: str) -> Response:
    number = path_id(store_id, "store")
    return _list_conversations(stores.c.store_id == number, "store", store_id=number)


@desk.get("/v1/stores/<store_id>")
@describe(
    "Read whether a store is open, and when it next opens and closes",
    needs="read",
    of="opening",
    gives=answers.Store,
    problems=(404,),
)
def get_store(store_id: str) -> Response:
    number = path_id(store_id, "store")
    with engine().connect() as connection:
        row = connection.execute(query("api/store_now"), {"store_id": number}).one_or_none()
    if row is None:
        raise no_such("store")
    return reply(
        {
            "store_id": row.store_id,
            "timezone": row.timezone,
            "open": row.open,
            "opens_at": answers.instant(row.opens_at),
            "closes_at": answers.instant(row.closes_at),
        }
    )


def _list_conversations(owner_exists: sa.ColumnElement[bool], kind: str, **owner: int) -> Response:
    """A page of the conversations of the operator or the store. Raises Problem 404 if there is no such owner."""
    limit = query_number("limit", 50, 1, 100)
    before_at, before_id = _before()
    bounds = {"before_at": before_at, "before_id": before_id, "page": limit + 1}
    with engine().connect() as connection:
        statement = query("api/list_conversations")
        rows = list(connection.execute(statement, {"operator_id": None, "store_id": None} | owner | bounds))
        cursor = rows[0].cursor if rows else connection.execute(query("shared/log_bounds")).one().latest
        if not rows and connection.execute(sa.select(sa.literal(1)).where(owner_exists)).first() is None:
            raise no_such(kind)
    headers = {}
    if len(rows) > limit:
        rows.pop()
        at = (rows[-1].last_chat_at - EPOCH) // dt.timedelta(microseconds=1)
        next_page = f"{request.path}?limit={limit}&before={at}-{rows[-1].conversation_id}"
        headers["Link"] = f'<{next_page}>; rel="next"'
    return reply({"conversations": [_conversation(row) for row in rows], "cursor": str(cursor)}, 200, **headers)


def _before() -> tuple[dt.datetime | str, int]:
    """The instant and id below which the page starts. Raises Problem 400."""
    text = request.args.get("before")
    if text is None:
        return "infinity", LARGEST_ID
    at, _, number = text.partition("-")
    if not (text.isascii() and at.isdigit() and number.isdigit() and len(at) <= 16 and len(number) <= 10):
        reason = "expected the value from a Link header"
        raise Problem(400, f"before: {reason}", field_errors("before", reason))
    return EPOCH + dt.timedelta(microseconds=int(at)), min(int(number), LARGEST_ID)


def _conversation(row: sa.Row[Any]) -> dict[str, Any]:
    return {
        "conversation_id": row.conversation_id,
        "store_id": row.store_id,
        "client_id": row.client_id,
        "username": row.username,
        "operator_id": row.operator_id,
        "operator_name": row.operator_name,
        "operator_group": row.operator_group,
        "read": {"client": row.client_read, "operator": row.operator_read},
        "unread": {"client": row.client_unread, "operator": row.operator_unread},
        "last_chat": answers.chat(row),
    }
