"""The feed: one LISTEN connection and one reader of the sent log per process, however many streams it has.

With FANOUT=amqp it takes the chats that the relay publishes to all nodes instead, and reads only missing ones from the
log.

The feed hands each chat to the streams that want it. A stream catches up alone, reading the log from its cursor up to
the feed's position when it subscribed; from there on, its queue has every chat. Positions have no gaps and one order,
so no chat is lost in between and none comes twice.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa

from api.counts import STREAM_CHATS, STREAM_DELAY, STREAM_OVERRUNS, STREAMS
from api.gate.keys import ANONYMOUS, Caller
from api.push.signals import CHAT_EVENT, WIDE_CHANGES, Change, Signal
from api.push.signals import encode as encode_signal
from api.wire import answers
from api.wire.fields import TOPIC_FIELDS
from sql.database import connect, query
from sql.log import Log
from sql.metrics import listener_is_lost, listener_is_up

if TYPE_CHECKING:
    from api.push.nodes import Node

log = Log("api")

PAGE = 500  # chats per read
QUEUE_EVENTS = 1000  # a stream further behind than this loses its queue and reads the log from its cursor
POLL_SECONDS = 5.0  # the log is read at least this often, in case a notification is lost
RECONNECT_SECONDS = 1.0

MOST_SIGNALS = 100  # in a stream's queue; more are dropped

Topic = tuple[str, int]  # one of TOPIC_FIELDS and its id


class Subscription:
    """One stream's bounded queue: the chats sent after `since`. `ended`: no more will come.

    If the reader is slower than its chats, the queue is dropped rather than grown: `behind` is set, and the stream
    catches up from the log like a new one.
    """

    def __init__(self, topic: Topic, caller: Caller = ANONYMOUS) -> None:
        self.topic = topic
        self.caller = caller  # gets only chats within its reach
        self.since = 0
        self.behind = False
        self.ended = False
        self._events: deque[tuple[int, bytes]] = deque()  # position 0: a signal, which is not in the log
        self._signals = 0  # how many of these are queued, at most
        self._ready = threading.Event()
        self.parties: tuple[Topic, ...] = ()  # of a conversation's stream: the other topics whose presence it shows
        self.present: set[str] = set()  # present parties, each as 'party:scope'

    def put(self, position: int, event: bytes) -> None:
        """Queues an event, or drops the queue if it is full."""
        if len(self._events) - self._signals >= QUEUE_EVENTS:
            self.behind = True
            self._clear()
        if not self.behind:
            self._events.append((position, event))
        self._ready.set()

    def put_signal(self, event: bytes) -> None:
        """Queues an event that is not in the log, in its order among the chats; a slow reader gets none."""
        if self._signals < MOST_SIGNALS and not self.behind:
            self._signals += 1
            self._events.append((0, event))
            self._ready.set()

    def begin(self, since: int) -> None:
        """Starts over with the chats after the position."""
        self._clear()
        self.since, self.behind = since, False

    def end(self) -> None:
        """Lets the stream end after the queued events."""
        self.ended = True
        self._ready.set()

    def take(self, seconds: float) -> list[tuple[int, bytes]]:
        """The queued events, (position, event) each; waits up to so many seconds for one."""
        if self._ready.wait(seconds) and not self.ended:
            self._ready.clear()
        events = []
        with contextlib.suppress(IndexError):  # empty
            while True:
                events.append(self._events.popleft())
                self._signals -= events[-1][0] == 0
        return events

    def _clear(self) -> None:
        self._events.clear()
        self._signals = 0


class Feed:
    """The process's feed. Its thread starts with the first stream."""

    def __init__(self, database_url: str, engine: sa.Engine, node: Node | None = None) -> None:
        self._database_url = database_url
        self._node = node  # with FANOUT=amqp
        self._engine = engine
        self._streams: dict[Topic, set[Subscription]] = defaultdict(set)
        self._watchers: dict[Topic, set[Subscription]] = defaultdict(set)  # conversations' streams by their parties
        self._lock = threading.Lock()
        self._started = False
        self._closed = False
        self._position = 0  # everything up to here has been handed out
        self.streams = 0
        self._streams_of: Counter[str] = Counter()  # by caller's name

    def streams_of(self, caller: Caller) -> int:
        """How many streams the caller has open."""
        return self._streams_of[caller.name]

    def subscribe(self, topic: Topic, caller: Caller = ANONYMOUS) -> Subscription:
        """A subscription from now on. Raises sqlalchemy.exc.SQLAlchemyError without a database."""
        subscription = Subscription(topic, caller)
        with self._lock:
            if not self.streams:
                # Without streams the feed does not read: start at the end of the log.
                with self._engine.connect() as connection:
                    self._position = connection.execute(query("shared/log_bounds")).one().latest
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="feed", daemon=True).start()
            self._streams[topic].add(subscription)
            self.streams += 1
            self._streams_of[caller.name] += 1
            STREAMS.set(self.streams)
            subscription.ended = self._closed
            subscription.begin(self._position)
            return subscription

    def watch(self, subscription: Subscription, parties: tuple[Topic, ...]) -> None:
        """Gives a conversation's stream the presence of its parties too."""
        with self._lock:
            subscription.parties = parties
            for topic in parties:
                self._watchers[topic].add(subscription)

    def renew(self, subscription: Subscription) -> None:
        """Restarts a subscription that has fallen behind, from now on."""
        STREAM_OVERRUNS.inc()
        with self._lock:
            subscription.begin(self._position)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription."""
        with self._lock:
            _discard(self._streams, subscription.topic, subscription)
            for topic in subscription.parties:
                _discard(self._watchers, topic, subscription)
            self.streams -= 1
            self._streams_of[subscription.caller.name] -= 1
            if not self._streams_of[subscription.caller.name]:
                del self._streams_of[subscription.caller.name]
            STREAMS.set(self.streams)

    def close(self) -> None:
        """Ends every stream; their readers resume from their cursors at another process."""
        self._closed = True
        for streams in list(self._streams.values()):
            for subscription in list(streams):
                subscription.end()

    def _run(self) -> None:
        while not self._closed:
            try:
                if self._node is None:
                    self._listen()
                else:
                    self._take_from(self._node)
            except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
                log("feed_lost", reason=error)
                listener_is_lost("web")
                time.sleep(RECONNECT_SECONDS)
            except Exception:
                # A bug of ours; the streams continue from where they are.
                log("feed_failed", traceback=True)
                time.sleep(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with connect(self._database_url, "shoptalk feed") as connection:
            connection.execute("listen chat_sent")
            connection.execute("listen " + CHAT_EVENT)
            listener_is_up("web")
            notifications: list[psycopg.Notify] = []
            while not self._closed:
                # Right after LISTEN, after every wake-up (which is only a hint), and every few seconds anyway.
                if not notifications or any(one.channel != CHAT_EVENT for one in notifications):
                    self._read_to_end()
                notifications = list(connection.notifies(timeout=POLL_SECONDS, stop_after=1))
                self._pass_on([one.payload for one in notifications if one.channel == CHAT_EVENT])

    def _take_from(self, node: Node) -> None:
        """Takes messages until the broker is lost. Each attempt to reconnect reads the log, about once a second."""
        from api.push.nodes import BrokerLost

        try:
            with node.messages() as messages:
                listener_is_up("web")
                self._read_to_end()  # chats that were published before the queue existed
                for message in messages:
                    if self._closed:
                        return
                    try:
                        self._take(message or {})
                    except (TypeError, ValueError, KeyError, AttributeError) as error:  # the relay did not publish it
                        log("feed_refused", reason=repr(error))
        except BrokerLost as error:
            log("feed_lost", reason=error)
            listener_is_lost("web")
            self._read_to_end()
            time.sleep(RECONNECT_SECONDS)

    def _take(self, message: dict[str, Any]) -> None:
        """Hands out the chats that follow the feed's position; missing ones before them are read from the log."""
        if "signals" in message:
            self._pass_on(message["signals"])
            return
        if self.streams and message.get("after", self._position + 1) > self._position:
            self._read_to_end()
        with self._lock:
            for position, store_id, chat in message.get("chats", ()):
                if self.streams and position == self._position + 1:
                    self._position = position
                    self._hand_out(position, chat | {"store_id": store_id}, partial(_event, position, chat))
                    STREAM_CHATS.inc()

    def _read_to_end(self) -> None:
        """Reads to the end of the log, while there is a stream."""
        while self.streams and self._read() == PAGE:
            pass

    def _read(self) -> int:
        with self._engine.connect() as connection:
            rows = connection.execute(query("shared/read_log"), {"after": self._position, "page": PAGE}).all()
        with self._lock:
            for row in rows:
                if row.position > self._position:  # else: the first stream has opened meanwhile, at the end
                    self._position = row.position
                    self._hand_out(row.position, row._asdict(), partial(encode, row))
        STREAM_CHATS.inc(len(rows))
        ages = [row.age for row in rows if row.age is not None]
        if ages:
            STREAM_DELAY.observe(max(ages).total_seconds())
        return len(rows)

    def _pass_on(self, payloads: list[str]) -> None:
        """Hands signals to the streams that they are for, in their order."""
        signals = []
        for payload in payloads:
            try:
                signals.append(Signal.parse(payload))
            except ValueError as error:
                log("signal_refused", reason=error)
        changed = self._read_changed(signals)
        for signal in signals:
            if signal.change is not None:
                for row in changed.pop(signal.change, ()):
                    self._hand_out_change(row)
            elif signal.scope is not None:
                _show_presence(signal, self._readers(signal))
            else:
                for subscription in self._readers(signal):
                    subscription.put_signal(signal.encode())

    def _readers(self, signal: Signal) -> set[Subscription]:
        with self._lock:
            watchers = self._watchers.get(signal.scope, ()) if signal.scope else ()
            return self._readers_of(signal.to) | set(watchers)

    def _readers_of(self, to: Mapping[str, Any]) -> set[Subscription]:
        """The streams of these topics whose callers reach them. Under the lock."""
        topics = ((name, to[name]) for name in TOPIC_FIELDS if name in to)
        readers = set[Subscription]().union(*(self._streams.get(topic, ()) for topic in topics))
        return {reader for reader in readers if reader.caller.reaches(to)}

    def _read_changed(self, signals: list[Signal]) -> dict[Change, list[sa.Row[Any]]]:
        """The changed chats as they are now, by the change that names them, if there may be a stream for them here.

        One statement for all that are named by their ids: at a closing, thousands of conversations change at once.
        """
        changes = {signal.change: signal for signal in signals if signal.change}
        named = {change for change, signal in changes.items() if change.chat_ids and self._readers(signal)}
        rows: dict[int, sa.Row[Any]] = {}
        if named:
            chat_ids = [chat_id for change in named for chat_id in change.chat_ids]
            rows = {row.chat_id: row for row in self._rows("api/read_changed", chat_ids=chat_ids)}
        found = {change: [rows[chat_id] for chat_id in change.chat_ids if chat_id in rows] for change in named}
        if self.streams:
            with self._lock:
                streams = {f"{name}s": [id_ for kind, id_ in self._streams if kind == name] for name in TOPIC_FIELDS}
            for change in changes.keys() - named:
                if not change.chat_ids:
                    found[change] = self._read_wide(change, streams)
        return found

    def _read_wide(self, change: Change, streams: dict[str, list[int]]) -> list[sa.Row[Any]]:
        """The chats of a changed store, conversation or client that these streams are for."""
        scope = {name: change.id if change.kind == name else None for name in WIDE_CHANGES}
        if change.erased:
            return self._rows("api/read_erased", client_id=change.id, **streams, most=MOST_SIGNALS)
        return self._rows("api/read_waiting", **scope, **streams, most=MOST_SIGNALS)

    def _rows(self, statement: str, **values: Any) -> list[sa.Row[Any]]:
        with self._engine.connect() as connection:
            return list(connection.execute(query(statement), values))

    def _hand_out_change(self, row: sa.Row[Any]) -> None:
        """A changed chat to the streams of its conversation, its parties and its store."""
        with self._lock:
            readers = self._readers_of(row._asdict())
        event = encode_signal("change", answers.chat(row))
        for subscription in readers:
            if subscription.caller.sees(row.sender, row.state):
                subscription.put_signal(event)

    def _hand_out(self, position: int, chat: Mapping[str, Any], encode_chat: Callable[[], bytes]) -> None:
        event = None
        for name in TOPIC_FIELDS:
            for subscription in self._streams.get((name, chat[name]), ()):
                if subscription.caller.reaches(chat):
                    event = event or encode_chat()
                    subscription.put(position, event)


def _discard(streams: dict[Topic, set[Subscription]], topic: Topic, subscription: Subscription) -> None:
    streams[topic].discard(subscription)
    if not streams[topic]:
        del streams[topic]


def _show_presence(signal: Signal, readers: set[Subscription]) -> None:
    """A conversation's stream shows whether a party is present through any stream; other streams show each one."""
    party, scope = signal.data["party"], signal.scope[0] if signal.scope else ""
    for subscription in readers:
        if subscription.topic[0] != "conversation_id":
            subscription.put_signal(signal.encode())
            continue
        before = is_present(party, subscription.present)
        (subscription.present.add if signal.data["present"] else subscription.present.discard)(f"{party}:{scope}")
        after = is_present(party, subscription.present)
        if after != before:
            data = signal.data | {"conversation_id": subscription.topic[1], "present": after}
            subscription.put_signal(encode_signal("presence", data))


def is_present(party: str, present: set[str]) -> bool:
    """Whether the party is among the present ones, each 'party:scope'."""
    return any(one.startswith(party + ":") for one in present)


def encode(row: Any) -> bytes:
    """The event of a sent chat. JSON has no raw line breaks, so no text can inject another field or event."""
    return _event(row.position, answers.sent_chat(row))


def _event(position: int, chat: dict[str, Any]) -> bytes:
    return b"event: chat\nid: %d\ndata: %s\n\n" % (position, json.dumps(chat).encode())
