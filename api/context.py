"""The objects that all views of a process share, and the plain JSON answer."""

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
    """One process's shared objects."""

    settings: Settings
    engine: sa.Engine
    feed: Feed
    announcer: Announcer
    presence: Presence
    keys: KeyRing
    rates: Rates
    pressure: Pressure


def install(app: Flask, settings: Settings, database: sa.Engine) -> None:
    """Creates the shared objects that the functions below return."""
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
    """The process's feed."""
    return _shared().feed


def announcer() -> Announcer:
    """The process's sender of signals."""
    return _shared().announcer


def presence() -> Presence:
    """The process's viewers."""
    return _shared().presence


def keys() -> KeyRing:
    """The process's copy of the API keys."""
    return _shared().keys


def rates() -> Rates:
    """The process's request counts."""
    return _shared().rates


def pressure() -> Pressure:
    """The queue's figures as the process last read them."""
    return _shared().pressure


def _shared() -> Shared:
    return cast(Shared, current_app.extensions["shoptalk"])


def reply(data: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer; underscores in header names are replaced by dashes."""
    response = cast(Response, current_app.json.response(data))
    response.status_code = status
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response
