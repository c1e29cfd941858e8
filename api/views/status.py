"""The system's status: the queue by state, liveness, readiness, the OpenAPI document."""

from __future__ import annotations

import time

import sqlalchemy as sa
from flask import Blueprint, Response, current_app

from api.context import engine, reply
from api.wire import answers
from api.wire.openapi import describe, document
from api.wire.requests import query_flag
from sql.database import query

status = Blueprint("status", __name__)

READY_SECONDS = 0.5


@status.get("/v1/queue")
@describe(
    "Count the chats by state, now and over the last hour",
    needs="read",
    of="all",
    gives=answers.Queue,
    problems=(400,),
    query={"history": {"type": "boolean"}},
)
def get_queue() -> Response:
    with_history = query_flag("history")
    with engine().connect() as connection:
        rows = connection.execute(query("shared/queue_status")).all()
        samples = connection.execute(query("api/queue_history")).all() if with_history else []
    states = [
        {
            "state": row.state,
            "chats": row.chats,
            "oldest": answers.instant(row.oldest),
            "next_release": answers.instant(row.next_release),
        }
        for row in rows
    ]
    history = [sample._asdict() | {"at": answers.instant(sample.at)} for sample in samples]
    return reply({"states": states} | ({"history": history} if with_history else {}))


@status.get("/healthz")
@describe("Whether the process is alive", needs="open", of="probe", gives=answers.Health)
def healthz() -> Response:
    return reply({"status": "ok"})


@status.get("/readyz")
@describe("Whether the process can reach its database", needs="open", of="probe", gives=answers.Health)
def readyz() -> Response:
    # Callers need no credential: however often they call, the database gets two queries a second.
    if time.monotonic() - current_app.extensions.get("shoptalk ready at", float("-inf")) > READY_SECONDS:
        with engine().connect() as connection:
            connection.execute(sa.text("select version from schema_version"))
        current_app.extensions["shoptalk ready at"] = time.monotonic()
    return reply({"status": "ok"})


@status.get("/openapi.json")
@describe("The OpenAPI document", needs="open")
def openapi() -> Response:
    # Callers need no credential, and it never changes: generated once.
    description = current_app.extensions.get("shoptalk description") or document(current_app)
    current_app.extensions["shoptalk description"] = description
    return reply(description)


@status.get("/app/")
@describe("A greeting, as in the brief's first system", needs="any")
def greeting() -> Response:
    return Response("Hello, world. You're at the conversation index.", mimetype="text/plain")
