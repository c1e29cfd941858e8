"""Signals: what open streams carry besides the log. Nothing of it is kept, so one that is lost is not missed.

A web process tells all others, and itself, by NOTIFY on a channel of their own; the feed hears it there.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sql.database import query
from sql.log import Log

log = Log("api")

CHANNEL = "chat_event"
NAMES = frozenset({"typing", "read", "delivered", "presence", "change"})
MOST_WAITING = 10_000  # more than this, and the oldest are dropped
BATCH = 500  # signals a statement


@dataclass(frozen=True)
class Signal:
    """One signal as the feed hears it: its event's name and data, and the streams' keys that it is for."""

    event: str
    data: dict[str, Any]
    to: dict[str, int]
    scope: tuple[str, int] | None = None  # of presence: the kind of stream and its id

    @classmethod
    def heard(cls, payload: str) -> Signal:
        """The signal in a notification. Raises ValueError for what is none: anybody can NOTIFY."""
        try:
            fields = json.loads(payload)
            to = {str(name): int(number) for name, number in fields["to"].items()}
            scope = (str(fields["scope"][0]), int(fields["scope"][1])) if "scope" in fields else None
            signal = cls(fields["event"], dict(fields["data"]), to, scope)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None
        if signal.event not in NAMES:
            raise ValueError(f"no signal is called {signal.event!r}")
        if signal.event == "change" and not isinstance(signal.data.get("chat_id"), int):
            raise ValueError("a change of no chat")
        if (signal.event == "presence") != (signal.scope is not None):
            raise ValueError("presence without a scope, or a scope without presence")
        if signal.scope and (
            signal.data.get("party") not in ("client", "operator") or not isinstance(signal.data.get("present"), bool)
        ):
            raise ValueError("presence of nobody")
        return signal

    def encode(self) -> bytes:
        """The event, without an id: it does not move a reader's cursor."""
        return encode(self.event, self.data)


def encode(event: str, data: dict[str, Any]) -> bytes:
    """An event that is not in the log. JSON has no raw line breaks, so no text can forge another."""
    return b"event: %s\ndata: %s\n\n" % (event.encode(), json.dumps(data).encode())


class Announcer:
    """Sends the process's signals, in a thread of its own: a view waits for no NOTIFY, and what comes at once
    goes in one statement, so that a night of held chats takes the cluster's lock seldom.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._started = False

    def tell(self, event: str, conversation_id: int, **data: Any) -> None:
        """Tells the conversation's readers, wherever their streams are, soon after this has returned."""
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

    def changed(self, chat: Any) -> None:
        """Tells that a chat that is not in the log is now held, edited, cancelled or queued again.

        Only which one: how it is then, the feed that has a reader for it looks up.
        """
        self.tell("change", chat.conversation_id, chat_id=chat.chat_id)

    def _run(self) -> None:
        while True:
            self._ready.wait()
            self._ready.clear()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                try:
                    with self._engine.connect() as connection:
                        connection.execute(query("announce"), {"events": json.dumps(batch)})
                except sa.exc.SQLAlchemyError as error:
                    log("signals_lost", signals=len(batch), reason=error)
