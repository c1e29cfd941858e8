"""GET /v1/stream: sent chats and signals, pushed over a connection that stays open (text/event-stream)."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Response, request

from api.context import engine, feed, keys, presence
from api.gate.access import caller
from api.gate.keys import KeyRing
from api.push.feed import PAGE, Feed, Subscription, Topic, encode, is_present
from api.push.presence import Viewer
from api.push.signals import encode as encode_signal
from api.wire.fields import TOPIC_FIELDS
from api.wire.needs import needs
from api.wire.problems import Problem, field_errors
from api.wire.requests import query_number
from sql.database import query
from sql.fields import LARGEST_ID

stream = Blueprint("stream", __name__)

HEARTBEAT_SECONDS = 12.0  # the contract requires at most 15; a heartbeat also detects a vanished reader
PRESENT_HEARTBEAT_SECONDS = 5.0  # of a reader that names its party: its absence is to be noticed soon
# Longer in bytes than the seconds between two: curl's --speed-limit aborts a stream of less than a byte per second.
COMMENT = b": the stream is alive\n\n"
LIFETIME_SECONDS = (300.0, 600.0)  # then the reader reconnects, which spreads streams over the processes again
MOST_STREAMS = 8000  # per process; more are answered 503
MOST_TOKEN_STREAMS = 50  # per process, of one client, operator or conversation with tokens; more are answered 429
WINDOW = 20_000  # positions per catch-up read of a client's, an operator's or a store's stream

# The parties that may read a stream as themselves (?as=).
PARTIES = {
    "conversation_id": ("client", "operator"),
    "client_id": ("client",),
    "operator_id": ("operator",),
    "store_id": ("operator",),
}


@dataclass
class Start:
    """Where a stream starts: after `cursor`. `first`: its first events, a reset or the conversation's current state."""

    cursor: int
    first: bytes = b""


@dataclass
class Comments:
    """Adds a comment to the output at least every so many seconds, however much else is sent."""

    seconds: float
    due: float

    def wait(self) -> float:
        """Seconds until the next one."""
        return max(0.0, self.due - time.monotonic())

    def add_to(self, events: bytes) -> bytes:
        """These complete events, followed by a comment if one is due or there are no events."""
        now = time.monotonic()
        if events and now < self.due:
            return events
        self.due = now + self.seconds
        return events + COMMENT


@stream.get("/v1/stream")
@needs("read", of="stream")
def get_stream() -> Response:
    topic = _topic()
    if feed().streams >= MOST_STREAMS:
        raise Problem(503, "too many open streams, try again")
    reader = caller()
    if reader.party is not None and feed().streams_of(reader) >= MOST_TOKEN_STREAMS:
        reason = f"too many open streams: at most {MOST_TOKEN_STREAMS} for this token's party"
        raise Problem(429, reason, retry_after_seconds=10)
    viewer = _viewer(topic)
    start = _start()
    source = feed()
    subscription = source.subscribe(topic, reader)
    try:
        start.first += _conversation_now(source, subscription, viewer)
    except BaseException:
        source.unsubscribe(subscription)
        raise
    heartbeat = HEARTBEAT_SECONDS if viewer is None else PRESENT_HEARTBEAT_SECONDS
    events = _events(source, engine(), subscription, start, heartbeat, keys())
    response = Response(events, mimetype="text/event-stream")
    response.call_on_close(lambda: source.unsubscribe(subscription))
    if viewer is not None:
        viewers = presence()
        viewers.add(viewer)
        response.call_on_close(lambda: viewers.remove(viewer))
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx buffers the events
    return response


def _topic() -> Topic:
    given = [name for name in TOPIC_FIELDS if name in request.args]
    if len(given) != 1:
        reason = "give exactly one of " + ", ".join(TOPIC_FIELDS)
        raise Problem(400, reason, field_errors((given or list(TOPIC_FIELDS))[0], reason))
    return given[0], query_number(given[0], 0, 1, LARGEST_ID)


def _viewer(topic: Topic) -> Viewer | None:
    """The stream's viewer, if the reader names its party by ?as=. Raises Problem 400."""
    party = request.args.get("as")
    if party is None:
        return None
    if party not in PARTIES[topic[0]]:
        reason = f"expected {' or '.join(PARTIES[topic[0]])} for a stream by {topic[0]}"
        raise Problem(400, f"as: {reason}", field_errors("as", reason))
    return (*topic, party)


def _conversation_now(source: Feed, subscription: Subscription, viewer: Viewer | None) -> bytes:
    """A conversation's read marks and presence as its stream starts. Later signals follow."""
    name, number = subscription.topic
    if name != "conversation_id":
        return b""
    with engine().connect() as connection:
        row = connection.execute(query("api/stream_head"), {"conversation_id": number}).one_or_none()
        if row is None:  # it has no chat yet, which creates it
            return b""
        source.watch(
            subscription, (("client_id", row.client_id), ("operator_id", row.operator_id), ("store_id", row.store_id))
        )
        row = connection.execute(query("api/stream_head"), {"conversation_id": number}).one()
    subscription.present.update(row.present, [f"{viewer[2]}:{name}"] if viewer else [])
    events = []
    for party, party_id, seq in (
        ("client", row.client_id, row.client_read),
        ("operator", row.operator_id, row.operator_read),
    ):
        present = is_present(party, subscription.present)
        state = {"conversation_id": number, "party": party, "id": party_id, "present": present}
        events.append(encode_signal("presence", state))
        if seq:
            events.append(encode_signal("read", {"conversation_id": number, "reader": party, "seq": seq}))
    return b"".join(events)


def _start() -> Start:
    """Where to start, by Last-Event-ID, ?last_event_id= or ?from=. An invalid cursor is answered by a reset event."""
    given = request.headers.get("Last-Event-ID") or request.args.get("last_event_id")
    origin = request.args.get("from")
    if origin not in (None, "start"):
        raise Problem(400, "from: expected start", field_errors("from", "expected start"))
    with engine().connect() as connection:
        bounds = connection.execute(query("shared/log_bounds")).one()
    first = bounds.earliest - 1
    if not given:
        return Start(first if origin else bounds.latest)
    if given.isascii() and given.isdigit() and len(given) < 19 and first <= int(given) <= bounds.latest:
        return Start(int(given))
    return Start(first, _reset(bounds))


def _reset(bounds: Any) -> bytes:
    """The event that tells the reader to continue with the earliest chat in the log."""
    first = bounds.earliest - 1
    text = {"reason": "unknown cursor", "cursor": str(first), "latest": str(bounds.latest)}
    return b"event: reset\nid: %d\ndata: %s\n\n" % (first, json.dumps(text).encode())


def _events(
    source: Feed, database: sa.Engine, subscription: Subscription, start: Start, heartbeat: float, ring: KeyRing
) -> Iterator[bytes]:
    """The stream: reads the log from the cursor to the subscription's start, then takes from its queue."""
    ends_at = time.monotonic() + random.uniform(*LIFETIME_SECONDS)  # noqa: S311  # spreads reconnects
    cursor = start.cursor
    comments = Comments(heartbeat, due=time.monotonic() + heartbeat)
    # The id at once: a reader that is disconnected before its first chat resumes from here.
    yield b"retry: 1000\nid: %d\n\n" % cursor + start.first
    # A stream also ends when its key is revoked or its token expires, within a heartbeat and a few seconds.
    while not subscription.ended and time.monotonic() < ends_at and ring.is_valid(subscription.caller):
        if cursor < subscription.since:
            for events in _catch_up(database, subscription, cursor):
                yield comments.add_to(events)
            cursor = subscription.since
        taken = subscription.take(comments.wait())
        events = b"".join([event for position, event in taken if position > cursor or not position])
        cursor = max([cursor, *(position for position, _ in taken)])
        if subscription.behind:
            source.renew(subscription)
        yield comments.add_to(events)


def _catch_up(database: sa.Engine, subscription: Subscription, after: int) -> Iterator[bytes]:
    """The stream's chats after the position up to its subscription's start, page by page."""
    (name, number), until = subscription.topic, subscription.since
    while after < until:
        with database.connect() as connection:
            if name == "conversation_id":
                window = until
                page = {"conversation_id": number, "after": after, "until": until, "page": PAGE}
                rows = list(connection.execute(query("api/read_log_of_conversation"), page))
                if len(rows) == PAGE:
                    window = rows[-1].position
            else:
                window = min(after + WINDOW, until)
                party = {"client_id": None, "operator_id": None, "store_id": None} | {name: number}
                rows = list(
                    connection.execute(query("api/read_log_of_party"), party | {"after": after, "until": window})
                )
            bounds = connection.execute(query("shared/log_bounds")).one()
        if after < bounds.earliest - 1:  # read after the rows: prune() may have removed some of them meanwhile
            after = bounds.earliest - 1
            yield _reset(bounds)
            continue
        after = window
        # A page without chats of this stream still reports its position: the reader must get something now and then.
        yield (
            b"".join(encode(row) for row in rows if subscription.caller.reaches(row._mapping)) or b"id: %d\n\n" % after
        )
