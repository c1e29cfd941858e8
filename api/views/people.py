"""Adding clients and operators."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response
from pydantic import BaseModel

from api.context import engine, reply, settings
from api.gate.access import caller, require_store
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
    # A client belongs to the store whose key adds it, and to every store if a key for all stores adds it.
    own = {"store_id": caller().within.get("store_id")}
    return _add(query("api/add_client"), parse(ClientIn, body()), created_status, own)


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
    opens, closes = settings().hours
    hours = {"timezone": settings().timezone, "opens": opens, "closes": closes}
    wanted = parse(OperatorIn, body())
    require_store(wanted.store_id)
    return _add(query("api/add_operator"), wanted, created_status, hours)


def _add(
    statement: sa.TextClause, wanted: BaseModel, created_status: int, extra: dict[str, Any] | None = None
) -> Response:
    """Adds the client or operator, or answers an equal existing one. Raises Problem 409 if the id is in use."""
    fields = wanted.model_dump(exclude_none=True)
    row = None
    with engine().connect() as connection:
        while row is None:  # it lost a race, see the statement
            row = connection.execute(statement, wanted.model_dump() | (extra or {})).mappings().one_or_none()
    if not row["created"] and row["store_id"] not in (None, caller().within.get("store_id", row["store_id"])):
        raise _id_in_use(fields, "already exists")
    differing = [name for name, value in fields.items() if row[name] != value]
    if differing:
        raise _id_in_use(fields, f"already exists with a different {' and '.join(differing)}")
    shown = {name: row[name] for name in type(wanted).model_fields if row[name] is not None}
    return reply(shown, created_status) if row["created"] else reply(shown, 200, Idempotent_Replayed="true")


def _id_in_use(fields: dict[str, Any], reason: str) -> Problem:
    name, value = next(iter(fields.items()))
    return Problem(409, f"{name} {value} {reason}", field_errors(name, f"{value} {reason}"))
