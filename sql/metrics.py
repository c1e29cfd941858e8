"""Metrics that worker, relay and web share, and GET /metrics of the first two, on a port of their own."""

from __future__ import annotations

import hmac
import socket
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import REGISTRY, Counter, Gauge, make_wsgi_app
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer

from sql.log import Log

log = Log("metrics")

# Chats are sent within milliseconds, or, when something is wrong, hours late.
DELAY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0)

# Of the LISTEN connection of each process: "web", "worker", "relay".
LISTENER_UP = Gauge(
    "shoptalk_listener_up", "1 while the LISTEN connection is up.", ["listener"], multiprocess_mode="livemin"
)
LISTENER_LOST = Counter("shoptalk_listener_lost", "Lost LISTEN connections.", ["listener"])
DATABASE_TROUBLES = Counter("shoptalk_database_troubles", "Failed statements that were retried.")


def listener_is_up(listener: str) -> None:
    """Records that this listener is up."""
    LISTENER_UP.labels(listener).set(1)


def listener_is_lost(listener: str) -> None:
    """Records that this listener has lost its connection."""
    LISTENER_UP.labels(listener).set(0)
    LISTENER_LOST.labels(listener).inc()


class BatchHistogram:
    """A histogram that records a whole batch at once; the library's own takes one call per chat."""

    def __init__(self, name: str, help_text: str, label: str) -> None:
        self._name, self._help, self._label = name, help_text, label
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self._lock = threading.Lock()
        REGISTRY.register(self)

    def observe(self, label: str, seconds: float, times: int) -> None:
        """Records so many observations of the same duration."""
        with self._lock:
            counts = self._counts.setdefault(label, [0] * (len(DELAY_BUCKETS) + 1))
            counts[bisect_left(DELAY_BUCKETS, seconds)] += times
            self._sums[label] = self._sums.get(label, 0.0) + seconds * times

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Called by the library."""
        family = HistogramMetricFamily(self._name, self._help, labels=[self._label])
        with self._lock:
            for label, counts in self._counts.items():
                total, buckets = 0, []
                for bound, count in zip((*map(str, DELAY_BUCKETS), "+Inf"), counts, strict=True):
                    total += count
                    buckets.append((bound, total))
                family.add_metric([label], buckets, self._sums[label])
        yield family


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds for a request, so that a silent connection does not keep its thread

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: a scrape comes every few seconds."""


class _Server(ThreadingWSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing: a scraper that disconnects is not an error."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


def serve(address: tuple[str, int] | None, keys: tuple[str, ...]) -> None:
    """Serves GET /metrics at the address; if there are keys, a request needs one. None: serves nothing.

    Chats matter more than metrics: if the port cannot be bound, that is logged and the process continues.
    """
    if address is None:
        return
    try:
        kind = _ServerV6 if ":" in address[0] else _Server
        server = make_server(*address, _require_key(keys), kind, handler_class=_Quiet)
    except OSError as error:
        log("metrics_unavailable", host=address[0], port=address[1], reason=error)
        return
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _require_key(keys: tuple[str, ...]) -> Callable[..., Iterable[bytes]]:
    metrics = make_wsgi_app()

    def app(request: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = request.get("HTTP_AUTHORIZATION", "").encode("latin-1")
        if keys and not any(hmac.compare_digest(given, f"Bearer {key}".encode()) for key in keys):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")])
            return [b"missing or unknown API key: send one of SHOPTALK_API_KEYS\n"]
        if request["PATH_INFO"] != "/metrics":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"only /metrics is served here\n"]
        return metrics(request, start_response)  # type: ignore[no-any-return]

    return app
