"""The metrics of a relay. How far the channels are behind comes from the database, at the /metrics of web."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

DELIVERIES = Counter(
    "shoptalk_deliveries",
    "Chats of channels: delivered, or refused for good (dead letters); and batches that failed and are retried.",
    ["outcome"],
)
for outcome in ("delivered", "refused", "failed"):
    DELIVERIES.labels(outcome)  # shown from the start, so that the first one is seen as an increase
DELIVERY_SECONDS = Histogram(
    "shoptalk_delivery_seconds",
    "How long the receiver took for a batch.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0),
)
LEASES_LOST = Counter("shoptalk_leases_lost", "Leases that went to another relay while this one still worked.")
