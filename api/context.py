"""What every view shares: this process's engine and settings, and the shape of a plain answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import sqlalchemy as sa
from flask import Flask, Response, current_app

from api.gate.keys import KeyRing
from api.gate.limits import Pressure, Rates
from api.push.feed import Feed
from api.push.presence import Presence
from api.push.signals import Announcer
from sql.settings import Settings


@dataclass(frozen=True)
class Shared:
    """One process's own."""

    settings: Settings
    engine: sa.Engine
    feed: Feed
    announcer: Announcer
    presence: Presence
    keys: KeyRing
    rates: Rates
    pressure: Pressure


def install(app: Flask, settings: Settings, database: sa.Engine) -> None:
    """Gives the app what the functions below answer."""
    node = None
    if settings.fanout == "amqp":
        from api.push.nodes import Node

        node = Node(settings.amqp_urls)
    feed = Feed(settings.direct_url, database, node)
    app.extensions["shoptalk"] = Shared(
        settings,
        database,
        feed,
        Announcer(database),
        Presence(database),
        KeyRing(database, settings.api_keys),
        Rates(settings),
        Pressure(database, settings),
    )


def settings() -> Settings:
    """The settings of this process."""
    return _shared().settings


def engine() -> sa.Engine:
    """The engine of this process, in autocommit."""
    return _shared().engine


def feed() -> Feed:
    """The process's reader of the sent log."""
    return _shared().feed


def announcer() -> Announcer:
    """The process's sender of what streams carry besides the log."""
    return _shared().announcer


def presence() -> Presence:
    """The process's record of who looks."""
    return _shared().presence


def keys() -> KeyRing:
    """Who the process's callers are."""
    return _shared().keys


def rates() -> Rates:
    """How much the process's callers have asked for."""
    return _shared().rates


def pressure() -> Pressure:
    """How the queue was when the process last looked."""
    return _shared().pressure


def _shared() -> Shared:
    return cast(Shared, current_app.extensions["shoptalk"])


def reply(data: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer; underscores in header names become dashes."""
    response = cast(Response, current_app.json.response(data))
    response.status_code = status
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response
