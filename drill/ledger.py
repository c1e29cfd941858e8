"""What the producers were told: which chats are accepted, which surely not, and of which nobody knows."""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Iterable

RECENT = 400


class Ledger:
    """Filled by all producers at once. Every chat's payload is a text of its own: its name in here."""

    def __init__(self) -> None:
        self.accepted: dict[int, str] = {}  # chat_id: payload
        self.undecided: set[str] = set()  # sent, and no answer came: there or not, but never twice
        self.undone: set[str] = set()  # rolled back: must not be there
        self.cancelled: set[int] = set()  # confirmed
        self.requeued: set[int] = set()  # perhaps: they may go late
        self.misnumbered: list[str] = []
        self.wrong_answers: list[str] = []
        self._recent: collections.deque[int] = collections.deque(maxlen=RECENT)
        self._last_seq: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    def accept(self, producer: str, chat_id: int, conversation_id: int, seq: int, payload: str) -> None:
        """The producer saw the acceptance confirmed. Its chats come in the order in which it sent them."""
        with self._lock:
            if self.accepted.get(chat_id, payload) != payload:
                self.wrong_answers.append(f"chat {chat_id} is both {payload} and {self.accepted[chat_id]}")
            self.accepted[chat_id] = payload
            self._recent.append(chat_id)
            key = producer, conversation_id
            if seq <= self._last_seq.get(key, 0):
                self.misnumbered.append(f"{payload} got {seq} after {self._last_seq[key]}")
            self._last_seq[key] = seq

    def leave_undecided(self, payloads: Iterable[str]) -> None:
        """No answer came for these."""
        with self._lock:
            self.undecided.update(payloads)

    def undo(self, payloads: Iterable[str]) -> None:
        """These were surely not committed."""
        with self._lock:
            self.undone.update(payloads)

    def complain(self, what: str) -> None:
        """An answer that a sound product never gives."""
        with self._lock:
            self.wrong_answers.append(what)

    def recent(self, chooser: random.Random) -> int | None:
        """One of the chats accepted last."""
        with self._lock:
            return chooser.choice(self._recent) if self._recent else None
