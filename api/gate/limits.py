"""How much anybody may ask for: requests a minute, slow bodies, and chats while the queue is too long already.

Counted in the memory of each web process: with two of them a caller gets up to twice as much.
"""

from __future__ import annotations

import ipaddress
import threading
import time

import limits as library
import sqlalchemy as sa
from flask import Flask, request
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from werkzeug.middleware.proxy_fix import ProxyFix

from api.gate.keys import ANYBODY, Caller
from api.wire.problems import Problem
from sql.database import query
from sql.settings import Settings

STUCK_SECONDS = 80.0  # a peer that neither sends nor takes a byte for so long; above gunicorn's keepalive
LARGEST_TOKEN_BODY_BYTES = 2**16
MOST_COUNTED = 10_000  # callers and addresses at once; with more, all begin anew
LOOK_SECONDS = 1.0  # how often a process looks at the queue, however many chats come
QUEUE_RETRY_SECONDS = 5


def install(app: Flask, settings: Settings) -> None:
    """Lets each request know its true peer, and cuts off the ones that are stuck."""
    if settings.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    app.before_request(_cut_off_stuck_peers)


def _cut_off_stuck_peers() -> None:
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STUCK_SECONDS)


class Rates:
    """Counts requests: of a key, of a token's party, and of an address that shows neither."""

    def __init__(self, settings: Settings) -> None:
        self._storage = MemoryStorage()
        self._windows = FixedWindowRateLimiter(self._storage)
        self._key = _per_minute(settings.key_per_minute)
        self._token = _per_minute(settings.token_per_minute)
        self._address = _per_minute(settings.address_per_minute)

    def count(self, caller: Caller, cost: int = 1) -> None:
        """Raises Problem 429 where the caller has used up this minute. Nothing is counted without keys."""
        if caller is not ANYBODY:
            self._count(self._key if caller.party is None else self._token, caller.name, cost)

    def count_address(self) -> None:
        """The same for the request's address. This machine's own is not limited: it may be a proxy."""
        try:
            address = ipaddress.ip_address(request.remote_addr or "")
        except ValueError:
            return
        if not address.is_loopback:
            # Whoever has an IPv6 address has 2^64 of them.
            network = ipaddress.ip_network(f"{address}/64", strict=False) if address.version == 6 else address
            self._count(self._address, str(network), 1)

    def _count(self, rate: library.RateLimitItem | None, who: str, cost: int) -> None:
        if len(self._storage.storage) > MOST_COUNTED:
            self._storage.reset()  # it looks through all of them up to a hundred times a second
        if rate is None or self._windows.hit(rate, who, cost=cost):
            return
        seconds = max(1, round(self._windows.get_window_stats(rate, who).reset_time - time.time()))
        raise Problem(429, f"more than {rate.amount} requests in a minute", retry_after_seconds=seconds)


def _per_minute(number: int) -> library.RateLimitItem | None:
    return library.RateLimitItemPerMinute(number) if number else None


class Pressure:
    """Refuses chats while the queue is longer, or its oldest chat older, than the settings allow; 0: no such limit.

    One look a second, at figures that cost the same however long the queue is (queue_pressure() in schema.sql).
    """

    def __init__(self, engine: sa.Engine, settings: Settings) -> None:
        self._engine = engine
        self._most, self._oldest = settings.most_waiting, settings.oldest_queued_seconds
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._objection = ""

    def insist(self) -> None:
        """Raises Problem 429. Without a database nothing is known, and the chat itself will say so."""
        if (self._most or self._oldest) and time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._look()
        if self._objection:
            raise Problem(429, self._objection, retry_after_seconds=QUEUE_RETRY_SECONDS)

    def _look(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # somebody is looking: until then, what was known
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query("queue_pressure")).one()
            self._objection = ""
            if self._most and row.waiting > self._most:
                self._objection = f"more than {self._most} chats wait to be sent, try again later"
            elif self._oldest and row.oldest_seconds > self._oldest:
                self._objection = f"chats wait for more than {self._oldest} s to be sent, try again later"
        except sa.exc.SQLAlchemyError:
            self._objection = ""
        finally:
            self._looked_at = time.monotonic()
            self._lock.release()
