"""The metrics of a worker: updated once per batch, never once per chat."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from sql.metrics import BatchHistogram

SENT = Counter("shoptalk_chats_sent", "Chats that this worker has moved to the log.")
BATCH_SECONDS = Histogram(
    "shoptalk_batch_seconds",
    "How long sending a batch took.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
)
FAILURES = Counter("shoptalk_sending_failures", "Failed attempts to send a chat.", ["outcome"])
for outcome in ("retry", "dead_letter"):
    FAILURES.labels(outcome)  # shown from the start, so that the first one is seen as an increase
STANDING_BY = Gauge("shoptalk_worker_standing_by", "1 while another worker sends.")
HOURS_KEPT = Gauge("shoptalk_hours_kept_timestamp_seconds", "When the schedule last checked the stores' hours.")
DELAY = BatchHistogram(
    "shoptalk_enqueue_to_sent_seconds",
    "From when a chat was due (live: enqueued, held: its store opened) until it was sent; the longest of each batch.",
    "lane",
)


def count_batch(report: Any, seconds: float) -> None:
    """Counts a batch, by the report of send_chats()."""
    if report.claimed:
        BATCH_SECONDS.observe(seconds)
        SENT.inc(report.sent)
    if report.live_waited is not None:
        DELAY.observe("live", report.live_waited.total_seconds(), report.live_sent)
    if report.held_waited is not None:
        DELAY.observe("held", report.held_waited.total_seconds(), report.sent - report.live_sent)
