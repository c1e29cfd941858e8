"""Minimal views over the same pool and server: insert a row, select fifty. The limit for the REST API."""

from __future__ import annotations

import json

import sqlalchemy as sa
from flask import Flask, Response, request

from sql.database import make_engine
from sql.settings import Settings
from sql.tables import chats

INSERT = sa.text("insert into bench_plain (conversation_id, payload) values (:conversation_id, :payload) returning id")


def create_app() -> Flask:
    """The app for one process."""
    engine = make_engine(Settings.from_environment().database_url, "minimal")
    select = sa.select(chats).order_by(chats.c.seq)
    app = Flask("minimal", static_folder=None)

    @app.post("/app/startChat/")
    def insert() -> Response:
        data = request.get_json()
        values = {"conversation_id": data["conversation_id"], "payload": data["payload"]}
        with engine.connect() as connection:
            return Response(json.dumps({"id": connection.execute(INSERT, values).scalar_one()}))

    @app.get("/app/getConversation/<int:conversation_id>/")
    def read(conversation_id: int) -> Response:
        with engine.connect() as connection:
            rows = connection.execute(select.where(chats.c.conversation_id == conversation_id)).mappings().all()
        return Response(json.dumps([dict(row) for row in rows], default=str), mimetype="application/json")

    return app
