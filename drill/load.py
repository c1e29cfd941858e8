"""The load: seeded conversations, payloads and pauses, shared by the producers."""

from __future__ import annotations

import collections
import random
import threading
import time
from dataclasses import dataclass

from drill.ledger import Ledger

BAD_SHARE = 0.01
BAD_EVERY_SECONDS = 30.0  # per conversation, which waits 15 s for the five attempts of a bad chat
HOT, USUAL = range(1, 6), range(6, 151)
# Average seconds between two chats of one producer.
PACES = {"steady": 0.02, "burst": 0.001, "lull": 1.0}


@dataclass(frozen=True)
class Draft:
    """One chat to post. Its payload is unique."""

    conversation_id: int
    payload: str

    def as_json(self, chat_id: int | None = None) -> dict[str, object]:
        """The chat as REST takes it."""
        chat: dict[str, object] = {"client_id": 1, "operator_id": 1, "payload": self.payload}
        chat["conversation_id"] = self.conversation_id
        return chat if chat_id is None else chat | {"chat_id": chat_id}


class Load:
    """State shared by the producers: the pace, the time of the last bad chat, the end."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self.ledger = ledger
        self.pace = "steady"
        self.pauses = dict(PACES)
        self.bad_until = 0.0  # of time.monotonic()
        self.bad_share = BAD_SHARE
        self.ending = threading.Event()  # no new chats
        self.giving_up = threading.Event()  # no more repeats of unanswered requests either
        self._seed = seed
        self._last_bad: dict[int, float] = collections.defaultdict(lambda: float("-inf"))

    def chooser(self, name: str) -> random.Random:
        """The seeded random numbers of one producer."""
        return random.Random(f"{self._seed} {name}")  # noqa: S311  # seeded, nothing secret

    def allows_bad(self, conversation_id: int) -> bool:
        """Whether the conversation may get another bad chat; if so, the caller posts one."""
        now = time.monotonic()
        if now > self.bad_until or now - self._last_bad[conversation_id] < BAD_EVERY_SECONDS:
            return False
        self._last_bad[conversation_id] = now
        return True


class Drafts:
    """The drafts of one producer."""

    def __init__(self, load: Load, name: str) -> None:
        self._load = load
        self._name = name
        self._count = 0
        self.chooser = load.chooser(name)

    def next(self) -> Draft:
        """A fifth is for a few hot conversations; a tenth starts a new one, which other producers start as well."""
        self._count += 1
        chance, bad = self.chooser.random(), self.chooser.random() < self._load.bad_share
        fresh, usual = 1000 + self._count // 10, self.chooser.choice(HOT if chance < 0.3 else USUAL)
        conversation = fresh if chance < 0.1 else usual
        bad = bad and self._load.allows_bad(conversation)
        return Draft(conversation, f"{'bad' if bad else 'chat'} {self._name} {self._count}")

    def some(self, most: int) -> list[Draft]:
        """One to `most` drafts, sorted by conversation, so that two transactions cannot deadlock."""
        return sorted((self.next() for _ in range(self.chooser.randint(1, most))), key=lambda d: d.conversation_id)

    def pause(self) -> None:
        """Waits as the current pace demands."""
        self._load.ending.wait(self.chooser.expovariate(1 / self._load.pauses[self._load.pace]))
