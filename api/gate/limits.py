"""Limits: requests per minute, stuck connections, and new chats while the queue is too long.

Requests are counted in the memory of each web process: with two processes a caller gets up to twice as many.
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

from api.gate.keys import ANONYMOUS, Caller
from api.wire.problems import Problem
from sql.database import call
from sql.settings import Settings

STUCK_SECONDS = (
    80.0  # a peer that neither sends nor receives a byte for this long is cut off; above gunicorn's keepalive
)
LARGEST_TOKEN_BODY_BYTES = 2**16
MOST_COUNTED = 10_000  # callers and addresses at once; above that all counts start over
LOOK_SECONDS = 1.0  # a process reads the queue's figures at most this often, however many chats arrive
QUEUE_RETRY_SECONDS = 5


def install(app: Flask, settings: Settings) -> None:
    """Gives each request its peer's address behind the trusted proxies, and a time limit for stuck peers."""
    if settings.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxies, x_proto=0, x_host=0)  # type: ignore[method-assign]
    app.before_request(_limit_stuck_peers)


def _limit_stuck_peers() -> None:
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STUCK_SECONDS)


class Rates:
    """Counts requests: of a key, of a token's party, and of an address without a credential."""

    def __init__(self, settings: Settings) -> None:
        self._storage = MemoryStorage()
        self._windows = FixedWindowRateLimiter(self._storage)
        self._key = _per_minute(settings.key_per_minute)
        self._token = _per_minute(settings.token_per_minute)
        self._address = _per_minute(settings.address_per_minute)

    def count(self, caller: Caller, cost: int = 1) -> None:
        """Raises Problem 429 where the caller has used up this minute's requests. Without keys nothing is counted."""
        if caller is not ANONYMOUS:
            self._count(self._key if caller.party is None else self._token, caller.name, cost)

    def count_address(self) -> None:
        """The same for the request's address. Loopback addresses are not limited: they may be a proxy's."""
        try:
            address = ipaddress.ip_address(request.remote_addr or "")
        except ValueError:
            return
        if not address.is_loopback:
            # A host with an IPv6 address usually has a /64, 2^64 addresses.
            network = ipaddress.ip_network(f"{address}/64", strict=False) if address.version == 6 else address
            self._count(self._address, str(network), 1)

    def _count(self, rate: library.RateLimitItem | None, who: str, cost: int) -> None:
        if len(self._storage.storage) > MOST_COUNTED:
            self._storage.reset()  # it scans all of them up to a hundred times a second
        if rate is None or self._windows.hit(rate, who, cost=cost):
            return
        seconds = max(1, round(self._windows.get_window_stats(rate, who).reset_time - time.time()))
        raise Problem(429, f"more than {rate.amount} requests per minute", retry_after_seconds=seconds)


def _per_minute(number: int) -> library.RateLimitItem | None:
    return library.RateLimitItemPerMinute(number) if number else None


class Pressure:
    """Rejects new chats while the queue is longer, or its oldest due chat older, than the settings allow; 0: no limit.

    Reads figures once a second that cost the same however long the queue is: queue_pressure().
    """

    def __init__(self, engine: sa.Engine, settings: Settings) -> None:
        self._engine = engine
        self._most, self._oldest = settings.most_waiting, settings.oldest_queued_seconds
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._rejection = ""

    def check(self) -> None:
        """Raises Problem 429. Without a database it passes, and accepting the chat then fails."""
        if (self._most or self._oldest) and time.monotonic() - self._looked_at >= LOOK_SECONDS:
            self._look()
        if self._rejection:
            raise Problem(429, self._rejection, retry_after_seconds=QUEUE_RETRY_SECONDS)

    def _look(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # another request is reading them: until then the last figures hold
        try:
            with self._engine.connect() as connection:
                row = connection.execute(*call("queue_pressure")).one()
            self._rejection = ""
            if self._most and row.waiting > self._most:
                self._rejection = f"more than {self._most} chats wait to be sent, try again later"
            elif self._oldest and row.oldest_seconds > self._oldest:
                self._rejection = f"the oldest due chat has waited for more than {self._oldest} s, try again later"
        except sa.exc.SQLAlchemyError:
            self._rejection = ""
        finally:
            self._looked_at = time.monotonic()
            self._lock.release()
