"""The web application: puts settings, database, views and errors together."""

from __future__ import annotations

import hmac

import gevent.monkey
import psycopg.waiting
from flask import Flask, request

from api import context, problems
from api.attention import attention
from api.channels import channels
from api.chats import chats
from api.conversations import conversations
from api.desk import desk
from api.hours import hours
from api.pages import pages
from api.people import people
from api.status import OPEN_PATHS, status
from api.stream import stream
from sql.database import make_engine
from sql.schema import check_version
from sql.settings import Settings

LARGEST_BODY_BYTES = 5 * 2**20  # a thousand of the longest chats, every character escaped


def create_app(settings: Settings | None = None) -> Flask:
    """The app for one process. Raises BadSetting, WrongSchema, and psycopg.Error without a database."""
    _insist_on_yielding_waits()
    settings = settings or Settings.from_environment()
    check_version(settings.database_url)
    app = Flask("api", static_folder=None)
    app.url_map.strict_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    context.install(app, settings, make_engine(settings.database_url, "shoptalk web", pooled=settings.pooled))
    problems.register(app)
    for blueprint in (people, chats, conversations, hours, attention, desk, stream, channels, status, pages):
        app.register_blueprint(blueprint)
    app.before_request(_ask_for_key)
    return app


def _ask_for_key() -> None:
    keys = context.settings().api_keys
    if not keys or request.path in OPEN_PATHS or request.blueprint == pages.name:
        return
    given = request.headers.get("Authorization", "").encode()
    # In constant time, so that the time taken tells nothing of a key's letters.
    if not any(hmac.compare_digest(given, f"Bearer {key}".encode()) for key in keys):
        raise problems.Problem(401, "send one of the keys of SHOPTALK_API_KEYS as `Authorization: Bearer …`")


def _insist_on_yielding_waits() -> None:
    """psycopg picks its waiting function when imported: before gevent's patch, it would stop every stream."""
    if gevent.monkey.is_object_patched("select", "select") and psycopg.waiting.wait.__module__ != "psycopg.waiting":
        raise RuntimeError("psycopg was imported before gevent patched the process")
