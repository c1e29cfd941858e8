"""The producers' record: which chats were accepted, which certainly not, and which got no answer."""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Iterable

RECENT = 400


class Ledger:
    """Filled by all producers at once. Every chat has a unique payload, which identifies it here."""

    def __init__(self) -> None:
        self.accepted: dict[int, str] = {}  # chat_id: payload
        self.undecided: set[str] = set()  # posted without an answer: accepted or not, but never twice
        self.rolled_back: set[str] = set()  # must not be in the database
        self.cancelled: set[int] = set()  # confirmed
        self.requeued: set[int] = set()  # possibly: they may be sent late
        self.misnumbered: list[str] = []
        self.wrong_answers: list[str] = []
        self._recent: collections.deque[int] = collections.deque(maxlen=RECENT)
        self._last_seq: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()

    def accept(self, producer: str, chat_id: int, conversation_id: int, seq: int, payload: str) -> None:
        """The producer got a confirmation. A producer reports its chats in the order in which it posted them."""
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
        """These got no answer."""
        with self._lock:
            self.undecided.update(payloads)

    def roll_back(self, payloads: Iterable[str]) -> None:
        """These were certainly not committed."""
        with self._lock:
            self.rolled_back.update(payloads)

    def record_error(self, text: str) -> None:
        """An answer that a correct product never gives."""
        with self._lock:
            self.wrong_answers.append(text)

    def recent(self, chooser: random.Random) -> int | None:
        """One of the last accepted chats."""
        with self._lock:
            return chooser.choice(self._recent) if self._recent else None
