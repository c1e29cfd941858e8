"""GET /v1/stream: what is sent, pushed over a connection that stays open (text/event-stream)."""

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
from api.gate.access import caller, needs
from api.gate.keys import KeyRing
from api.push.feed import KEYS, PAGE, Feed, Key, Subscription, encode, is_present
from api.push.presence import Place
from api.push.signals import encode as encode_signal
from api.wire.problems import Problem, field_errors
from api.wire.requests import query_number
from sql.database import query
from sql.fields import LARGEST_ID

stream = Blueprint("stream", __name__)

HEARTBEAT_SECONDS = 12.0  # the contract says 15 at most; also how a vanished reader is noticed
PRESENT_HEARTBEAT_SECONDS = 5.0  # of a reader who says who looks: that one has left is to be seen soon
# Longer than the seconds between two: curl's --speed-limit takes a stream of less than a byte a second for dead.
COMMENT = b": the stream is alive\n\n"
LIFETIME_SECONDS = (300.0, 600.0)  # then the reader reconnects: streams spread over the processes again
MOST_STREAMS = 8000  # a process; more are answered 503
MOST_TOKEN_STREAMS = 50  # and of one client, operator or conversation with tokens; more are answered 429
WINDOW = 20_000  # positions that one catch-up read of a client's, an operator's or a store's stream goes over


# Who may say that they look through which stream.
PARTIES = {
    "conversation_id": ("client", "operator"),
    "client_id": ("client",),
    "operator_id": ("operator",),
    "store_id": ("operator",),
}


@dataclass
class Start:
    """Where a stream begins: after `cursor`. `first` is what it begins with: that it was reset, how things stand."""

    cursor: int
    first: bytes = b""


@dataclass
class Comments:
    """Adds a comment to what goes out, at the latest every so many seconds, however much else does."""

    seconds: float
    due: float

    def wait(self) -> float:
        """How long until the next."""
        return max(0.0, self.due - time.monotonic())

    def add_to(self, events: bytes) -> bytes:
        """These whole events, with a comment after them if it is due or there are none."""
        now = time.monotonic()
        if events and now < self.due:
            return events
        self.due = now + self.seconds
        return events + COMMENT


@stream.get("/v1/stream")
@needs("read", of="stream")
def get_stream() -> Response:
    key = _key()
    if feed().streams >= MOST_STREAMS:
        raise Problem(503, "this process has as many streams as it can keep, try again")
    asker = caller()
    if asker.party is not None and feed().streams_of(asker) >= MOST_TOKEN_STREAMS:
        raise Problem(429, f"{MOST_TOKEN_STREAMS} streams are open for this already", retry_after_seconds=10)
    place = _place(key)
    start = _start()
    source = feed()
    subscription = source.subscribe(key, asker)
    try:
        start.first += _conversation_now(source, subscription, place)
    except BaseException:
        source.unsubscribe(subscription)
        raise
    heartbeat = HEARTBEAT_SECONDS if place is None else PRESENT_HEARTBEAT_SECONDS
    events = _events(source, engine(), subscription, start, heartbeat, keys())
    response = Response(events, mimetype="text/event-stream")
    response.call_on_close(lambda: source.unsubscribe(subscription))
    if place is not None:
        record = presence()
        record.come(place)
        response.call_on_close(lambda: record.leave(place))
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the events back
    return response


def _key() -> Key:
    given = [name for name in KEYS if name in request.args]
    if len(given) != 1:
        reason = "give exactly one of " + ", ".join(KEYS)
        raise Problem(400, reason, field_errors((given or list(KEYS))[0], reason))
    return given[0], query_number(given[0], 0, 1, LARGEST_ID)


def _place(key: Key) -> Place | None:
    """Who looks through the stream, where the reader has said so by ?as=. Raises Problem 400."""
    party = request.args.get("as")
    if party is None:
        return None
    if party not in PARTIES[key[0]]:
        reason = f"expected {' or '.join(PARTIES[key[0]])} for a stream by {key[0]}"
        raise Problem(400, f"as: {reason}", field_errors("as", reason))
    return (*key, party)


def _conversation_now(source: Feed, subscription: Subscription, place: Place | None) -> bytes:
    """How a conversation stands as its stream begins: what was read and who is present. Later signals come after it."""
    name, number = subscription.key
    if name != "conversation_id":
        return b""
    with engine().connect() as connection:
        row = connection.execute(query("stream_head"), {"conversation_id": number}).one_or_none()
        if row is None:  # a conversation begins with its first chat
            return b""
        source.watch(
            subscription, (("client_id", row.client_id), ("operator_id", row.operator_id), ("store_id", row.store_id))
        )
        row = connection.execute(query("stream_head"), {"conversation_id": number}).one()
    subscription.present.update(row.present, [f"{place[2]}:{name}"] if place else [])
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
    """Where to begin, by Last-Event-ID, ?last_event_id= or ?from=. Unusable cursors are answered in band."""
    given = request.headers.get("Last-Event-ID") or request.args.get("last_event_id")
    whence = request.args.get("from")
    if whence not in (None, "start"):
        raise Problem(400, "from: expected start", field_errors("from", "expected start"))
    with engine().connect() as connection:
        bounds = connection.execute(query("log_bounds")).one()
    first = bounds.earliest - 1
    if not given:
        return Start(first if whence else bounds.latest)
    if given.isascii() and given.isdigit() and len(given) < 19 and first <= int(given) <= bounds.latest:
        return Start(int(given))
    return Start(first, _reset(bounds))


def _reset(bounds: Any) -> bytes:
    """Says that the reader goes on with the earliest chat that there is."""
    first = bounds.earliest - 1
    text = {"reason": "unknown cursor", "cursor": str(first), "latest": str(bounds.latest)}
    return b"event: reset\nid: %d\ndata: %s\n\n" % (first, json.dumps(text).encode())


def _events(
    source: Feed, database: sa.Engine, subscription: Subscription, start: Start, heartbeat: float, ring: KeyRing
) -> Iterator[bytes]:
    """The stream: reads the log by the cursor to where the subscription begins, and goes on from its queue."""
    ends_at = time.monotonic() + random.uniform(*LIFETIME_SECONDS)  # noqa: S311  # spreads reconnects
    cursor = start.cursor
    comments = Comments(heartbeat, due=time.monotonic() + heartbeat)
    # The id at once: a reader that is cut before its first chat resumes from here.
    yield b"retry: 1000\nid: %d\n\n" % cursor + start.first
    # And to its end at once where its key is revoked or its token has expired, within a heartbeat and a few seconds.
    while not subscription.ended and time.monotonic() < ends_at and ring.still_holds(subscription.asker):
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
    """The stream's chats from the position on to where its subscription begins, some at a time."""
    (name, number), until = subscription.key, subscription.since
    while after < until:
        with database.connect() as connection:
            if name == "conversation_id":
                window = until
                page = {"conversation_id": number, "after": after, "until": until, "page": PAGE}
                rows = list(connection.execute(query("read_log_of_conversation"), page))
                if len(rows) == PAGE:
                    window = rows[-1].position
            else:
                window = min(after + WINDOW, until)
                party = {"client_id": None, "operator_id": None, "store_id": None} | {name: number}
                rows = list(connection.execute(query("read_log_of_party"), party | {"after": after, "until": window}))
            bounds = connection.execute(query("log_bounds")).one()
        if after < bounds.earliest - 1:  # asked after the reading: what prune() has removed meanwhile may be missing
            after = bounds.earliest - 1
            yield _reset(bounds)
            continue
        after = window
        # Where there is nothing of the stream's, how far it has come: the reader has to hear something now and then.
        yield b"".join(encode(row) for row in rows if subscription.asker.reaches(row._mapping)) or b"id: %d\n\n" % after
