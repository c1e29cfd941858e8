"""Adding clients and operators."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response
from pydantic import BaseModel

from api.context import engine, reply, settings
from api.gate.access import caller, insist_on_store
from api.wire import answers
from api.wire.fields import ClientIn, OperatorIn, parse
from api.wire.openapi import describe
from api.wire.problems import Problem, field_errors
from api.wire.requests import body
from sql.database import query

people = Blueprint("people", __name__)


@people.post("/app/addClient/", endpoint="brief_add_client", defaults={"created_status": 200})
@people.post("/v1/clients", defaults={"created_status": 201})
@describe(
    "Add a client",
    needs="send",
    of="body",
    takes=ClientIn,
    gives=answers.Client,
    created=answers.Client,
    problems=(400, 409, 413, 415),
)
def add_client(created_status: int) -> Response:
    # A client belongs to the store whose key adds it; one that a key of all stores adds, to every store.
    own = {"store_id": caller().within.get("store_id")}
    return _added(query("add_client"), parse(ClientIn, body()), created_status, own)


@people.post("/app/addOperator/", endpoint="brief_add_operator", defaults={"created_status": 200})
@people.post("/v1/operators", defaults={"created_status": 201})
@describe(
    "Add an operator",
    needs="admin",
    of="body",
    takes=OperatorIn,
    gives=answers.Operator,
    created=answers.Operator,
    problems=(400, 409, 413, 415),
)
def add_operator(created_status: int) -> Response:
    hours = {"timezone": settings().timezone, "opens": settings().opens, "closes": settings().closes}
    wanted = parse(OperatorIn, body())
    insist_on_store(wanted.store_id)
    return _added(query("add_operator"), wanted, created_status, hours)


def _added(
    statement: sa.TextClause, wanted: BaseModel, created_status: int, extra: dict[str, Any] | None = None
) -> Response:
    """Adds what is wanted, or answers the same one again. Raises Problem 409 when its id is somebody else's."""
    fields = wanted.model_dump(exclude_none=True)
    row = None
    with engine().connect() as connection:
        while row is None:  # none: it lost a race just now, see the statement
            row = connection.execute(statement, wanted.model_dump() | (extra or {})).mappings().one_or_none()
    if not row["created"] and row["store_id"] not in (None, caller().within.get("store_id", row["store_id"])):
        key = next(iter(fields))
        raise Problem(409, f"{key} {fields[key]} is taken", field_errors(key, f"{fields[key]} is taken"))
    differing = [name for name, value in fields.items() if row[name] != value]
    if differing:
        key = next(iter(fields))
        reason = f"{fields[key]} is taken, with another {' and '.join(differing)}"
        raise Problem(409, f"{key} {reason}", field_errors(key, reason))
    shown = {name: row[name] for name in type(wanted).model_fields if row[name] is not None}
    return reply(shown, created_status) if row["created"] else reply(shown, 200, Idempotent_Replayed="true")
