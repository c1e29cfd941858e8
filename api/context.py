"""What every view shares: this process's engine and settings, and the shape of a plain answer."""

from __future__ import annotations

from typing import Any, cast

import sqlalchemy as sa
from flask import Flask, Response, current_app

from api.feed import Feed
from sql.settings import Settings


def install(app: Flask, settings: Settings, database: sa.Engine) -> None:
    """Gives the app what the functions below answer."""
    app.extensions["shoptalk"] = (settings, database, Feed(settings.database_url, database))


def settings() -> Settings:
    """The settings of this process."""
    return cast(Settings, current_app.extensions["shoptalk"][0])


def engine() -> sa.Engine:
    """The engine of this process, in autocommit."""
    return cast(sa.Engine, current_app.extensions["shoptalk"][1])


def feed() -> Feed:
    """The process's reader of the sent log."""
    return cast(Feed, current_app.extensions["shoptalk"][2])


def reply(data: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer; underscores in header names become dashes."""
    response = cast(Response, current_app.json.response(data))
    response.status_code = status
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response
