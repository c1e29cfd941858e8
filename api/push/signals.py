"""Signals: events on open streams that are not in the log. They are not stored, and losing one does no harm.

A web process sends them to all web processes, itself included, by NOTIFY chat_event; the feed receives them.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sql.database import query
from sql.fields import LARGEST_CHAT_ID, LARGEST_ID
from sql.log import Log

log = Log("api")

CHAT_EVENT = "chat_event"  # the NOTIFY channel
NAMES = frozenset({"typing", "read", "delivered", "presence", "change"})
MOST_WAITING = 10_000  # above that the oldest are dropped
BATCH = 500  # signals per statement


WIDE_CHANGES = ("store_id", "conversation_id", "client_id")


@dataclass(frozen=True)
class Change:
    """What has changed: these chats; or all waiting chats of a store, a conversation or a client."""

    chat_ids: tuple[int, ...] = ()
    kind: str = ""  # one of WIDE_CHANGES
    id: int = 0
    erased: bool = False  # of a client: the texts of sent chats too

    @classmethod
    def parse(cls, data: dict[str, Any]) -> Change:
        """The change in a signal's data. Raises ValueError, TypeError."""
        chat_ids = tuple(data.get("chat_ids", ()))
        kinds = [name for name in WIDE_CHANGES if name in data]
        if not all(type(id_) is int and 0 < id_ <= LARGEST_CHAT_ID for id_ in chat_ids):
            raise ValueError("a change of a chat without a valid id")
        if not all(type(data[name]) is int and 0 < data[name] <= LARGEST_ID for name in kinds):
            raise ValueError("a change with an invalid id")
        if chat_ids:
            return cls(chat_ids)
        if len(kinds) != 1:
            raise ValueError("a change of no chats")
        return cls(kind=kinds[0], id=data[kinds[0]], erased=bool(data.get("erased")))


@dataclass(frozen=True)
class Signal:
    """One signal: its event's name and data, and the topics of the streams that it is for."""

    event: str
    data: dict[str, Any]
    to: dict[str, int]
    scope: tuple[str, int] | None = None  # of presence: the kind of stream and its id
    change: Change | None = None  # of a change

    @classmethod
    def parse(cls, payload: str) -> Signal:
        """The signal in a notification. Raises ValueError if it is malformed: every database user can NOTIFY."""
        try:
            fields = json.loads(payload)
            to = {str(name): int(number) for name, number in fields["to"].items()}
            scope = (str(fields["scope"][0]), int(fields["scope"][1])) if "scope" in fields else None
            change = Change.parse(fields["data"]) if fields["event"] == "change" else None
            signal = cls(fields["event"], dict(fields["data"]), to, scope, change)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None
        if signal.event not in NAMES:
            raise ValueError(f"unknown signal {signal.event!r}")
        if (signal.event == "presence") != (signal.scope is not None):
            raise ValueError("presence without a scope, or a scope without presence")
        if signal.scope and (
            signal.data.get("party") not in ("client", "operator") or not isinstance(signal.data.get("present"), bool)
        ):
            raise ValueError("presence without a party")
        return signal

    def encode(self) -> bytes:
        """The event, without an id, because it does not move a reader's cursor."""
        return encode(self.event, self.data)


def encode(event: str, data: dict[str, Any]) -> bytes:
    """An event that is not in the log. JSON has no raw line breaks, so no text can inject another event."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), json.dumps(data).encode())


class Announcer:
    """Sends the process's signals in a thread of its own, so that no view waits for a NOTIFY.

    Signals that come at once are sent in one statement: each commit with a NOTIFY takes a lock of the whole cluster,
    and outside opening hours every accepted chat is announced as held.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._started = False

    def announce(self, event: str, conversation_id: int, **data: Any) -> None:
        """Sends the signal to the conversation's streams in all processes, soon after this returns."""
        self._waiting.append(
            {
                "event": event,
                "conversation_id": conversation_id,
                "data": {"conversation_id": conversation_id} | data,
            }
        )
        self._ready.set()
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="announcer", daemon=True).start()

    def announce_held(self, chat: Any) -> None:
        """Announces that a chat was accepted and is held. Later changes are announced by the SQL that makes them.

        The signal has only its id: a feed that has a stream for it reads the chat.
        """
        self.announce("change", chat.conversation_id, chat_ids=[chat.chat_id])

    def _run(self) -> None:
        while True:
            self._ready.wait()
            self._ready.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                try:
                    with self._engine.connect() as connection:
                        connection.execute(query("shared/announce"), {"events": json.dumps(batch)})
                except sa.exc.SQLAlchemyError as error:
                    log("signals_lost", signals=len(batch), reason=error)
