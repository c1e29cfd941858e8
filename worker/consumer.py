"""The worker's loop: send what is due, batch after batch, and sleep when nothing is."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

from sql.database import make_engine, query
from sql.log import Log
from sql.metrics import DATABASE_TROUBLES
from sql.settings import Settings
from worker.bell import Bell
from worker.metrics import FAILURES, STANDING_BY, count_batch

log = Log("worker")

# Chats a transaction. Measured: smaller is slower, larger makes the next chat wait for the commit. So it grows only
# while a backlog of live chats fills it, when waiting is what all do; and it shrinks where a flood of held chats is
# released beside live ones, which wait for no more than one batch of it.
BATCH_SIZE = 500
LARGEST_BATCH_SIZE = 4000
SIZE_BESIDE_LIVE = 200
LIVE_LATELY_SECONDS = 1.0
# Whatever else: after a batch that took longer, or that the database did not let through, the next is smaller. Many
# chats whose sending raises make a batch dear, and one too large for the statement timeout would be tried for ever.
LONGEST_BATCH_SECONDS = 0.5
# The claim starts where the last one ended and so spares itself the dead rows in front. What commits later than a
# second after its instant is found by a look from the very start of its lane: every second, or seldomer where walking
# the dead rows has become dear (somebody keeps an old snapshot open, or a flood of held chats has left a million).
LIVE_START: dict[str, Any] = {"live_from": "-infinity"}
HELD_START: dict[str, Any] = {"held_from": "-infinity", "held_from_seq": 0, "held_from_conversation": 0}
FULL_LOOK_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 60.0  # between two, however dear: what was released below the floor waits for the next
LIVE_LOOK_SHARE = 20  # a full look may take this part of the time
HELD_LOOK_SHARE = 400  # here much less: live chats wait for it, and at 20 it made their p99 during a flood
TROUBLE_PAUSE_SECONDS = 0.5
# Another worker sends: time to see whether it still does. It takes over from a killed one after at most this.
STAND_BY_SECONDS = 0.05


@dataclass
class FullLook:
    """When a lane is to be looked through from its start."""

    start: dict[str, Any]  # its floor then
    share: int
    at: float = 0.0  # monotonic

    def done(self, took: float) -> None:
        """It took so many seconds, whether it got through or not."""
        self.at = time.monotonic() + min(LONGEST_LOOK_SECONDS, max(FULL_LOOK_SECONDS, took * self.share))


class Consumer:
    """Sends until `stop()` is called. Any number may run at once, in any number of processes."""

    def __init__(self, settings: Settings) -> None:
        self.bell = Bell(settings.direct_url)
        self._engine = make_engine(settings.database_url, "shoptalk worker", pool_size=1, pooled=settings.pooled)
        self._stopping = threading.Event()
        self._floor = LIVE_START | HELD_START
        self._full_looks = (FullLook(LIVE_START, LIVE_LOOK_SHARE), FullLook(HELD_START, HELD_LOOK_SHARE))
        self._batch_size, self._most = BATCH_SIZE, LARGEST_BATCH_SIZE
        self._live_at = float("-inf")

    def stop(self) -> None:
        """Lets the batch in hand end and then ends run(). Safe in a signal handler."""
        self._stopping.set()
        self.bell.wake()

    def run(self) -> None:
        """Sends until told to stop; outlives every trouble of the database."""
        while not self._stopping.is_set():
            try:
                report = self._send_batch()
            except sa.exc.SQLAlchemyError as error:
                self._trouble(error)
            else:
                if report is None:
                    self.bell.pause(STAND_BY_SECONDS)
                elif not self._choose_size(report):
                    self.bell.wait(worked=report.claimed > 0)
        self.bell.close()
        self._engine.dispose()

    def _send_batch(self) -> sa.Row[Any] | None:
        """Sends one batch and answers what became of it; None while another worker sends."""
        started = time.monotonic()
        looks = [look for look in self._full_looks if started >= look.at]
        floor = dict(self._floor)
        for look in looks:
            floor |= look.start
        try:
            with self._engine.connect() as connection:
                report = connection.execute(query("send_chats"), {"batch_size": self._batch_size, **floor}).one()
        finally:
            took = time.monotonic() - started
            for look in looks:
                look.done(took)
        STANDING_BY.set(report.claimed is None)
        if report.claimed is None:
            return None
        count_batch(report, took)
        for failure in report.failures or ():
            _tell_failure(**failure)
        self._most = min(2 * self._most, LARGEST_BATCH_SIZE)
        if took > LONGEST_BATCH_SECONDS:
            self._most = max(1, self._batch_size // 2)
        self._raise_floor(report)
        return report

    def _choose_size(self, report: sa.Row[Any]) -> bool:
        """Sets the next batch's size by what this one met in the two lanes; false: neither has more."""
        live, held = report.live_until is not None, report.held_until is not None
        full = report.claimed >= self._batch_size
        if live:
            self._live_at = time.monotonic()
        if live and full:
            size = 2 * self._batch_size
        elif held and time.monotonic() - self._live_at < LIVE_LATELY_SECONDS:
            size = SIZE_BESIDE_LIVE
        else:
            size = BATCH_SIZE
        self._batch_size = min(size, self._most)
        return full or (live and held)  # beside live chats it takes few of the held: more may wait

    def _raise_floor(self, report: sa.Row[Any]) -> None:
        """The next claim starts where this one ended, lane by lane; from the very start if something is below."""
        if report.below_floor:
            self._floor = LIVE_START | HELD_START
            return
        if report.live_until is not None:
            self._floor["live_from"] = report.live_until
        if report.held_until is not None:
            self._floor["held_from"] = report.held_until
            self._floor["held_from_seq"] = report.held_until_seq
            self._floor["held_from_conversation"] = report.held_until_conversation

    def _trouble(self, error: sa.exc.SQLAlchemyError) -> None:
        # A full look that did not get through the dead rows in its time would not next time either: on from the floor.
        if not isinstance(getattr(error, "orig", None), psycopg.errors.QueryCanceled):
            self._floor = LIVE_START | HELD_START
        self._batch_size = self._most = max(1, self._batch_size // 8)
        log("database_trouble", reason=error)
        DATABASE_TROUBLES.inc()
        self._stopping.wait(TROUBLE_PAUSE_SECONDS)


def _tell_failure(dead: bool, **chat: Any) -> None:
    log("chat_failed" if dead else "sending_failed", **chat)
    FAILURES.labels("dead_letter" if dead else "retry").inc()
