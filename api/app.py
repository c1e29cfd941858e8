"""Assembles the web application from settings, database, views and error handlers."""

from __future__ import annotations

import gevent.monkey
import psycopg.waiting
from flask import Flask

from api import context
from api.gate import access, limits, origins
from api.views.attention import attention
from api.views.channels import channels
from api.views.chats import chats
from api.views.conversations import conversations
from api.views.desk import desk
from api.views.hours import hours
from api.views.metrics import install as count_requests
from api.views.metrics import metrics
from api.views.pages import pages
from api.views.people import people
from api.views.status import status
from api.views.stream import stream
from api.views.tokens import tokens
from api.wire import problems
from sql.database import make_engine
from sql.install import check_version
from sql.keys import require_keys
from sql.settings import Settings

LARGEST_BODY_BYTES = 5 * 2**20  # a thousand of the longest chats, with every character escaped


def create_app(settings: Settings | None = None) -> Flask:
    """The app for one process. Raises BadSetting, WrongSchema, and psycopg.Error without a database."""
    _require_yielding_waits()
    settings = settings or Settings.from_environment()
    check_version(settings.database_url)
    require_keys(settings)
    app = Flask("api", static_folder=None)
    app.url_map.strict_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    context.install(app, settings, make_engine(settings.database_url, "shoptalk web", pooled=settings.pooled))
    count_requests(app)
    problems.register(app)
    views = (people, chats, conversations, hours, attention, desk, stream, channels, tokens, status, metrics, pages)
    for blueprint in views:
        app.register_blueprint(blueprint)
    limits.install(app, settings)
    origins.install(app, settings.cors_origins)
    access.install(app)
    return app


def _require_yielding_waits() -> None:
    """psycopg picks its wait function on import: imported before gevent's patch, each wait would block every stream."""
    if gevent.monkey.is_object_patched("select", "select") and psycopg.waiting.wait.__module__ != "psycopg.waiting":
        raise RuntimeError("psycopg was imported before gevent patched the process")
