"""The sent log as it grows: one LISTEN connection and one reader a process, however many streams it has.

Or, with FANOUT=amqp, what the relay has read and publishes to all nodes, and the log only for what is missing there.

The reader hands each chat to the streams that want it. A stream catches up by itself, from the log by its
cursor, to where the reader stood when it subscribed, and from there on its queue has everything: positions
have no gaps and one order, so nothing is missing in between and nothing comes twice.
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
from api.gate.keys import ANYBODY, Caller
from api.push.signals import CHANNEL, Signal
from api.push.signals import encode as encode_signal
from api.wire import answers
from sql.database import connect, query
from sql.log import Log
from sql.metrics import listener_is_lost, listener_is_up

if TYPE_CHECKING:
    from api.push.nodes import Node

log = Log("api")

PAGE = 500  # chats a read
QUEUE_EVENTS = 1000  # a stream further behind than this loses its queue and reads the log by its cursor
POLL_SECONDS = 5.0  # the floor under NOTIFY
RECONNECT_SECONDS = 1.0

MOST_SIGNALS = 100  # waiting in a stream's queue; more are dropped

KEYS = ("conversation_id", "client_id", "operator_id", "store_id")
Key = tuple[str, int]  # one of KEYS and its number


class Subscription:
    """One stream's bounded queue: what was sent after `since`. `ended` says that no more will come.

    A reader that is slower than its chats has its queue dropped and not grown: `behind` is then set, and
    the stream catches up from the log as one that has just come.
    """

    def __init__(self, key: Key, asker: Caller = ANYBODY) -> None:
        self.key = key
        self.asker = asker  # gets only what is within their reach
        self.since = 0
        self.behind = False
        self.ended = False
        self._events: deque[tuple[int, bytes]] = deque()  # position 0: a signal, which is not in the log
        self._signals = 0  # how many of them, at most
        self._ready = threading.Event()
        self.parties: tuple[Key, ...] = ()  # of a conversation's stream: whose presence it shows besides its own
        self.present: set[str] = set()  # and who is present, each as 'party:scope'

    def put(self, position: int, event: bytes) -> None:
        """Hands over an event, or drops the queue where there is no room for it."""
        if len(self._events) - self._signals >= QUEUE_EVENTS:
            self.behind = True
            self._clear()
        if not self.behind:
            self._events.append((position, event))
        self._ready.set()

    def put_signal(self, event: bytes) -> None:
        """Hands over an event that is not in the log, in its order among the chats; a slow reader gets none."""
        if self._signals < MOST_SIGNALS and not self.behind:
            self._signals += 1
            self._events.append((0, event))
            self._ready.set()

    def begin(self, since: int) -> None:
        """Begins anew, with what is sent after the position."""
        self._clear()
        self.since, self.behind = since, False

    def end(self) -> None:
        """Lets the stream end after what it has."""
        self.ended = True
        self._ready.set()

    def take(self, seconds: float) -> list[tuple[int, bytes]]:
        """What has come, (position, event) each; waits for it at most so long."""
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
    """The process's reader of the log. It starts with the first stream."""

    def __init__(self, database_url: str, engine: sa.Engine, node: Node | None = None) -> None:
        self._database_url = database_url
        self._node = node  # where chats come from RabbitMQ
        self._engine = engine
        self._streams: dict[Key, set[Subscription]] = defaultdict(set)
        self._watchers: dict[Key, set[Subscription]] = defaultdict(set)  # conversations' streams by their parties
        self._lock = threading.Lock()
        self._started = False
        self._closed = False
        self._position = 0  # everything up to here has been handed out
        self.streams = 0
        self._askers: Counter[str] = Counter()

    def streams_of(self, asker: Caller) -> int:
        """How many streams they have open."""
        return self._askers[asker.name]

    def subscribe(self, key: Key, asker: Caller = ANYBODY) -> Subscription:
        """A subscription from now on. Raises sqlalchemy.exc.SQLAlchemyError without a database."""
        subscription = Subscription(key, asker)
        with self._lock:
            if not self.streams:
                # Nobody listened, so nothing was handed out: begin at the end.
                with self._engine.connect() as connection:
                    self._position = connection.execute(query("log_bounds")).one().latest
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="feed", daemon=True).start()
            self._streams[key].add(subscription)
            self.streams += 1
            self._askers[asker.name] += 1
            STREAMS.set(self.streams)
            subscription.ended = self._closed
            subscription.begin(self._position)
            return subscription

    def watch(self, subscription: Subscription, parties: tuple[Key, ...]) -> None:
        """Lets a conversation's stream hear of its parties' presence too."""
        with self._lock:
            subscription.parties = parties
            for key in parties:
                self._watchers[key].add(subscription)

    def renew(self, subscription: Subscription) -> None:
        """Lets a subscription that has fallen behind begin anew from now on."""
        STREAM_OVERRUNS.inc()
        with self._lock:
            subscription.begin(self._position)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription."""
        with self._lock:
            _discard(self._streams, subscription.key, subscription)
            for key in subscription.parties:
                _discard(self._watchers, key, subscription)
            self.streams -= 1
            self._askers[subscription.asker.name] -= 1
            if not self._askers[subscription.asker.name]:
                del self._askers[subscription.asker.name]
            STREAMS.set(self.streams)

    def close(self) -> None:
        """Ends every stream: their readers come back to another process, by their cursors."""
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
                listener_is_lost("feed")
                time.sleep(RECONNECT_SECONDS)
            except Exception:
                # Ours to mend; the streams go on from where they are meanwhile.
                log("feed_failed", traceback=True)
                time.sleep(RECONNECT_SECONDS)

    def _listen(self) -> None:
        with connect(self._database_url, "shoptalk feed") as connection:
            connection.execute("listen chat_sent")
            connection.execute("listen " + CHANNEL)
            listener_is_up("feed")
            heard: list[psycopg.Notify] = []
            while not self._closed:
                # At once after LISTEN, after every wake-up, which is only a hint, and every few seconds anyway.
                if not heard or any(notice.channel != CHANNEL for notice in heard):
                    self._read_on()
                heard = list(connection.notifies(timeout=POLL_SECONDS, stop_after=1))
                self._pass_on([notice.payload for notice in heard if notice.channel == CHANNEL])

    def _take_from(self, node: Node) -> None:
        """Until the broker is lost. The log is then read every second: nobody says that it has grown."""
        from api.push.nodes import Lost

        try:
            with node.messages() as messages:
                listener_is_up("feed")
                self._read_on()  # what was published before the queue was there
                for message in messages:
                    if self._closed:
                        return
                    try:
                        self._take(message or {})
                    except (TypeError, ValueError, KeyError, AttributeError) as error:  # it is none of the relay's
                        log("feed_refused", reason=repr(error))
        except Lost as error:
            log("feed_lost", reason=error)
            listener_is_lost("feed")
            self._read_on()
            time.sleep(RECONNECT_SECONDS)

    def _take(self, message: dict[str, Any]) -> None:
        """Hands out what follows on what was handed out; whatever is missing before it, the log has."""
        if "signals" in message:
            self._pass_on(message["signals"])
            return
        if self.streams and message.get("after", self._position + 1) > self._position:
            self._read_on()
        with self._lock:
            for position, store_id, chat in message.get("chats", ()):
                if self.streams and position == self._position + 1:
                    self._position = position
                    self._hand_out(position, chat | {"store_id": store_id}, partial(_event, position, chat))
                    STREAM_CHATS.inc()

    def _read_on(self) -> None:
        """To the end of the log, while there is a stream."""
        while self.streams and self._read() == PAGE:
            pass

    def _read(self) -> int:
        with self._engine.connect() as connection:
            rows = connection.execute(query("read_log"), {"after": self._position, "page": PAGE}).all()
        with self._lock:
            for row in rows:
                if row.position > self._position:  # else: somebody subscribed first and began at the end
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
                signals.append(Signal.heard(payload))
            except ValueError as error:
                log("signal_refused", reason=error)
        wanted = [(signal, readers) for signal in signals if (readers := self._readers(signal))]
        changed = self._read_changed([signal for signal, _ in wanted if signal.event == "change"])
        for signal, readers in wanted:
            if signal.scope is not None:
                _show_presence(signal, readers)
                continue
            chat = changed.get(signal.data.get("chat_id"))
            event = encode_signal("change", chat) if chat else signal.encode()
            for subscription in readers if chat or signal.event != "change" else ():
                if not chat or subscription.asker.sees(chat["sender"], chat["state"]):
                    subscription.put_signal(event)

    def _readers(self, signal: Signal) -> set[Subscription]:
        with self._lock:
            watchers = self._watchers.get(signal.scope, ()) if signal.scope else ()
            readers = set[Subscription]().union(*(self._streams.get(key, ()) for key in signal.to.items()))
            return {reader for reader in readers if reader.asker.reaches(signal.to)} | set(watchers)

    def _read_changed(self, signals: list[Signal]) -> dict[Any, dict[str, Any]]:
        """Changed chats as they are now, by chat_id, without those that are sent: they come by the log."""
        if not signals:
            return {}
        chat_ids = [signal.data.get("chat_id") for signal in signals]
        with self._engine.connect() as connection:
            rows = connection.execute(query("read_changed"), {"chat_ids": chat_ids})
            return {row.chat_id: answers.chat(row) for row in rows}

    def _hand_out(self, position: int, keys: Mapping[str, Any], encoded: Callable[[], bytes]) -> None:
        event = None
        for name in KEYS:
            for subscription in self._streams.get((name, keys[name]), ()):
                if subscription.asker.reaches(keys):
                    event = event or encoded()
                    subscription.put(position, event)


def _discard(streams: dict[Key, set[Subscription]], key: Key, subscription: Subscription) -> None:
    streams[key].discard(subscription)
    if not streams[key]:
        del streams[key]


def _show_presence(signal: Signal, readers: set[Subscription]) -> None:
    """A conversation's stream shows whether a party is there at all, through whatever stream; the others each one."""
    party, scope = signal.data["party"], signal.scope[0] if signal.scope else ""
    for subscription in readers:
        if subscription.key[0] != "conversation_id":
            subscription.put_signal(signal.encode())
            continue
        before = is_present(party, subscription.present)
        (subscription.present.add if signal.data["present"] else subscription.present.discard)(f"{party}:{scope}")
        after = is_present(party, subscription.present)
        if after != before:
            data = signal.data | {"conversation_id": subscription.key[1], "present": after}
            subscription.put_signal(encode_signal("presence", data))


def is_present(party: str, present: set[str]) -> bool:
    """Whether the party is among those present, each 'party:scope'."""
    return any(who.startswith(party + ":") for who in present)


def encode(row: Any) -> bytes:
    """The event of a sent chat. JSON has no raw line breaks, so no text can forge another field or event."""
    return _event(row.position, answers.sent_chat(row))


def _event(position: int, chat: dict[str, Any]) -> bytes:
    return b"event: chat\nid: %d\ndata: %s\n\n" % (position, json.dumps(chat).encode())
