"""The counters of a web process; `api.views.metrics` serves them, summed over all processes of this gunicorn."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from sql.metrics import DELAY_BUCKETS

REQUEST_SECONDS = Histogram(
    "shoptalk_http_request_seconds",
    "Requests, until the answer begins.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)
STREAMS = Gauge("shoptalk_streams", "Open streams.", multiprocess_mode="livesum")
STREAM_CHATS = Counter("shoptalk_stream_chats", "Chats read from the log for streams, once per process.")
STREAM_OVERRUNS = Counter("shoptalk_stream_overruns", "Streams that were too slow and went back to reading the log.")
STREAM_DELAY = Histogram(
    "shoptalk_enqueue_to_stream_seconds",
    "From enqueue to the streams; one value per read of the log, of its oldest chat that was never held.",
    buckets=DELAY_BUCKETS,
)
