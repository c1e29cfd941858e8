"""Presence: which parties have a stream open, over all web processes. A reader names its party by ?as=."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable

import sqlalchemy as sa

from sql.database import call
from sql.log import Log

log = Log("api")

BEAT_SECONDS = 10.0  # a process's presence is valid for three of these, see presence_cutoff()
LINGER_SECONDS = 5.0  # a reader that reconnects within this was never absent
ROUND_SECONDS = 0.1  # changes within this are published together: opening a thousand streams costs a few statements
IDLE_SECONDS = 1.0

Viewer = tuple[str, int, str]  # the stream's topic (field and id), and the party that reads it


class Presence:
    """One web process's viewers, published by a thread of its own that starts with the first one."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._process = secrets.token_hex(8)
        self._open: Counter[Viewer] = Counter()  # streams
        self._published: set[Viewer] = set()
        self._left_at: dict[Viewer, float] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._started = False

    def add(self, viewer: Viewer) -> None:
        """Records that a stream has opened."""
        with self._lock:
            self._open[viewer] += 1
            self._left_at.pop(viewer, None)
            if viewer not in self._published:
                self._changed.set()
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="presence", daemon=True).start()

    def remove(self, viewer: Viewer) -> None:
        """Records that it has closed."""
        with self._lock:
            self._open[viewer] -= 1
            if not self._open[viewer]:
                del self._open[viewer]
                self._left_at[viewer] = time.monotonic()

    def _run(self) -> None:
        beat_at = 0.0
        while True:
            self._changed.wait(IDLE_SECONDS)
            self._changed.clear()
            now = time.monotonic()
            try:
                if self._publish(now, everything=now >= beat_at):
                    beat_at = now + BEAT_SECONDS
            except sa.exc.SQLAlchemyError as error:
                log("presence_not_published", reason=error)
                time.sleep(IDLE_SECONDS)
            time.sleep(ROUND_SECONDS)

    def _publish(self, now: float, everything: bool) -> bool:
        """Publishes changes or, at a beat, everything, as the unlogged tables may have been emptied. Returns which."""
        with self._lock:
            gone = {viewer for viewer, at in self._left_at.items() if now - at >= LINGER_SECONDS}
            came = set(self._open) if everything else self._open.keys() - self._published
            if not came and not gone and not (everything and self._published):
                return False
            lists = {"came": _to_json(came), "gone": _to_json(gone)}
        with self._engine.connect() as connection:
            connection.execute(*call("keep_presence", process=self._process, **lists))
        with self._lock:
            self._published = (self._published | came) - gone
            for viewer in gone:
                if viewer in self._left_at:
                    del self._left_at[viewer]
                elif viewer in self._open:  # it has opened again meanwhile
                    self._changed.set()
        return everything


def _to_json(viewers: Iterable[Viewer]) -> str:
    return json.dumps([{"scope": scope, "scope_id": scope_id, "party": party} for scope, scope_id, party in viewers])
