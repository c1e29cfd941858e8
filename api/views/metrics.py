"""GET /metrics: what all processes of this gunicorn have counted, and the figures that are the database's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy as sa
from flask import Blueprint, Flask, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from api.context import engine
from api.counts import REQUEST_SECONDS
from api.gate import access
from api.wire.openapi import describe
from sql.database import query

metrics = Blueprint("metrics", __name__)


def install(app: Flask) -> None:
    """Counts every request."""

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()

    @app.after_request
    def count(response: Response) -> Response:
        seconds = time.perf_counter() - g.began
        # Of what is no route of ours nothing is kept: a scanner would make a series of each address.
        method, route = (request.method, request.url_rule.rule) if request.url_rule is not None else ("any", "none")
        REQUEST_SECONDS.labels(method, route, response.status_code).observe(seconds)
        return response


@metrics.get("/metrics")
@access.outlives_database  # or shoptalk_database_up is never seen to be 0
@describe("Figures for Prometheus", needs="read", of="all")
def get_metrics() -> Response:
    ours: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        ours = CollectorRegistry()
        MultiProcessCollector(ours)  # type: ignore[no-untyped-call]
    database = CollectorRegistry()
    database.register(_Database(engine()))
    return Response(generate_latest(ours) + generate_latest(database), content_type=CONTENT_TYPE_LATEST)


class _Database:
    """The figures that are the database's, the same from whichever process: one cheap statement a scrape."""

    def __init__(self, database: sa.Engine) -> None:
        self._engine = database

    def collect(self) -> Iterator[Metric]:
        """For the library. Without a database only that is said: who watches has to hear it."""
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query("read_gauges")).one_or_none()
        except (psycopg.Error, sa.exc.SQLAlchemyError):
            yield GaugeMetricFamily("shoptalk_database_up", UP, value=0)
            return
        yield GaugeMetricFamily("shoptalk_database_up", UP, value=1)
        if row is not None:
            yield from _queue(row)
            yield from _channels(row.channels)


UP = "1 while web reaches the database."


def _queue(row: Any) -> Iterator[Metric]:
    chats = GaugeMetricFamily("shoptalk_queue_chats", "Chats by state, of a sample at most 30 s old.", labels=["state"])
    for state in ("held", "queued", "failed", "cancelled"):
        chats.add_metric([state], getattr(row, state))
    yield chats
    oldest = GaugeMetricFamily(
        "shoptalk_queue_oldest_seconds", "How long the chat has been held, or might have gone, that waits longest.",
        labels=["state"],
    )  # fmt: skip
    oldest.add_metric(["held"], row.held_seconds)
    oldest.add_metric(["queued"], row.queued_seconds)
    yield oldest
    yield CounterMetricFamily("shoptalk_log_chats", "Chats in the log: the last position.", value=row.sent)
    yield GaugeMetricFamily(
        "shoptalk_next_release_seconds", "Until the first held chat may go; 0: none.", value=row.next_release_seconds
    )
    yield GaugeMetricFamily(
        "shoptalk_queue_sample_age_seconds", "Of the sample: more than 90 says that no worker runs.",
        value=row.sample_age_seconds,
    )  # fmt: skip


CHANNEL_FIGURES = {
    "channels": ("shoptalk_channels", "Channels."),
    "behind": ("shoptalk_relay_lag_positions", "Positions of the log after the cursor that is furthest back."),
    "lag_seconds": (
        "shoptalk_relay_lag_seconds",
        "Since when the first of them is in the log; below 90 is nothing.",
    ),
    "dead_letters": ("shoptalk_channel_dead_letters", "Chats that a far side has refused for good."),
}


def _channels(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    for figure, (name, text) in CHANNEL_FIGURES.items():
        family = GaugeMetricFamily(name, f"{text} By kind and state.", labels=["kind", "state"])
        for row in rows:
            family.add_metric([row["kind"], row["state"]], float(row[figure]))
        yield family
