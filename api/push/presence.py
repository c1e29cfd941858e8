"""Presence: who has a stream open, over all web processes, as far as the readers have said who they are."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable

import sqlalchemy as sa

from sql.database import query
from sql.log import Log

log = Log("api")

BEAT_SECONDS = 10.0  # a process is believed for three of these, see believed_since()
LINGER_SECONDS = 5.0  # a reader that reconnects within it has never been away
ROUND_SECONDS = 0.1  # what happens in it is told together: a thousand streams that open cost a few statements
IDLE_SECONDS = 1.0

Place = tuple[str, int, str]  # the stream's kind and id, and the party that looks


class Presence:
    """What one web process knows and tells of it, in a thread of its own that starts with the first reader."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._process = secrets.token_hex(8)
        self._open: Counter[Place] = Counter()  # streams
        self._told: set[Place] = set()
        self._left_at: dict[Place, float] = {}
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._started = False

    def come(self, place: Place) -> None:
        """A stream has opened."""
        with self._lock:
            self._open[place] += 1
            self._left_at.pop(place, None)
            if place not in self._told:
                self._news.set()
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="presence", daemon=True).start()

    def leave(self, place: Place) -> None:
        """It has closed."""
        with self._lock:
            self._open[place] -= 1
            if not self._open[place]:
                del self._open[place]
                self._left_at[place] = time.monotonic()

    def _run(self) -> None:
        beat_at = 0.0
        while True:
            self._news.wait(IDLE_SECONDS)
            self._news.clear()
            now = time.monotonic()
            try:
                if self._tell(now, everything=now >= beat_at):
                    beat_at = now + BEAT_SECONDS
            except sa.exc.SQLAlchemyError as error:
                log("presence_untold", reason=error)
                time.sleep(IDLE_SECONDS)
            time.sleep(ROUND_SECONDS)

    def _tell(self, now: float, everything: bool) -> bool:
        """Tells what has changed or, at a beat, everything: the tables may have been lost. Answers which."""
        with self._lock:
            gone = {place for place, at in self._left_at.items() if now - at >= LINGER_SECONDS}
            came = set(self._open) if everything else self._open.keys() - self._told
            if not came and not gone and not (everything and self._told):
                return False
            lists = {"came": _listed(came), "gone": _listed(gone)}
        with self._engine.connect() as connection:
            connection.execute(query("keep_presence"), {"process": self._process} | lists)
        with self._lock:
            self._told = (self._told | came) - gone
            for place in gone:
                if place in self._left_at:
                    del self._left_at[place]
                elif place in self._open:  # it came back meanwhile
                    self._news.set()
        return everything


def _listed(places: Iterable[Place]) -> str:
    return json.dumps([{"scope": scope, "number": number, "party": party} for scope, number, party in places])
