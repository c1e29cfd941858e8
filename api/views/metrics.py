"""GET /metrics: the counts of all processes of this gunicorn, and figures from the database."""

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
from api.wire.needs import works_without_database
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
        # Unknown addresses share one series: otherwise a scanner would create one for each.
        method, route = (request.method, request.url_rule.rule) if request.url_rule is not None else ("any", "none")
        REQUEST_SECONDS.labels(method, route, response.status_code).observe(seconds)
        return response


@metrics.get("/metrics")
@works_without_database  # otherwise no scrape would ever show shoptalk_database_up 0
@describe("Metrics for Prometheus", needs="read", of="all")
def get_metrics() -> Response:
    ours: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        ours = CollectorRegistry()
        MultiProcessCollector(ours)  # type: ignore[no-untyped-call]
    database = CollectorRegistry()
    database.register(_Database(engine()))
    return Response(generate_latest(ours) + generate_latest(database), content_type=CONTENT_TYPE_LATEST)


class _Database:
    """Figures from the database, the same from every process: one cheap statement per scrape."""

    def __init__(self, database: sa.Engine) -> None:
        self._engine = database

    def collect(self) -> Iterator[Metric]:
        """Called by the library. Without a database it yields only shoptalk_database_up 0."""
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query("api/read_gauges")).one_or_none()
        except (psycopg.Error, sa.exc.SQLAlchemyError):
            yield GaugeMetricFamily("shoptalk_database_up", UP, value=0)
            return
        yield GaugeMetricFamily("shoptalk_database_up", UP, value=1)
        if row is not None:
            yield from _queue(row)
            yield from _channels(row.channels)


UP = "1 while web can reach the database."


def _queue(row: Any) -> Iterator[Metric]:
    chats = GaugeMetricFamily("shoptalk_queue_chats", "Chats by state, sampled at most 30 s ago.", labels=["state"])
    for state in ("held", "queued", "failed", "cancelled"):
        chats.add_metric([state], getattr(row, state))
    yield chats
    oldest = GaugeMetricFamily(
        "shoptalk_queue_oldest_seconds", "For how long the oldest chat has been held, or due.",
        labels=["state"],
    )  # fmt: skip
    oldest.add_metric(["held"], row.held_seconds)
    oldest.add_metric(["queued"], row.queued_seconds)
    yield oldest
    yield CounterMetricFamily("shoptalk_log_chats", "Chats in the sent log: its last position.", value=row.sent)
    yield GaugeMetricFamily(
        "shoptalk_next_release_seconds",
        "Until the first held chat is due; 0: none.",
        value=row.next_release_seconds,
    )
    yield GaugeMetricFamily(
        "shoptalk_queue_sample_age_seconds", "Age of the sample; above 90 no worker is running.",
        value=row.sample_age_seconds,
    )  # fmt: skip


CHANNEL_FIGURES = {
    "channels": ("shoptalk_channels", "Channels."),
    "behind": ("shoptalk_relay_lag_positions", "Positions of the log after the cursor that is furthest behind."),
    "lag_seconds": (
        "shoptalk_relay_lag_seconds",
        "Age of the first of these in the log; below 90 is normal.",
    ),
    "dead_letters": ("shoptalk_channel_dead_letters", "Chats that a receiver has rejected for good."),
}


def _channels(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    for figure, (name, text) in CHANNEL_FIGURES.items():
        family = GaugeMetricFamily(name, f"{text} By kind and state.", labels=["kind", "state"])
        for row in rows:
            family.add_metric([row["kind"], row["state"]], float(row[figure]))
        yield family
