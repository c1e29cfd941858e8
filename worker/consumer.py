"""The worker's loop: sends due chats, batch after batch, and waits while none are due."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
import sqlalchemy as sa

from sql.database import call, make_engine
from sql.log import Log
from sql.metrics import DATABASE_TROUBLES
from sql.settings import Settings
from worker.floor import Floor
from worker.listener import Listener
from worker.metrics import FAILURES, STANDING_BY, count_batch

log = Log("worker")

# Chats per transaction. Measured: smaller is slower; larger makes the next chat wait for the commit. So it grows only
# while a backlog of live chats fills it, when all chats wait anyway. It shrinks while many held chats are released
# beside live ones, so that a live chat waits for no more than one batch of them.
BATCH_SIZE = 500
LARGEST_BATCH_SIZE = 4000
SIZE_BESIDE_LIVE = 200
LIVE_LATELY_SECONDS = 1.0
# After a batch that took longer than this, or that failed, the next one is smaller in any case. Many chats whose
# sending raises make a batch slow, and one too large for the statement timeout would be retried forever.
LONGEST_BATCH_SECONDS = 0.5
ERROR_PAUSE_SECONDS = 0.5
# While another worker sends, this one checks this often whether it still does: it takes over from a killed one within
# this time.
STAND_BY_SECONDS = 0.05


class Consumer:
    """Sends until `stop()` is called. Any number may run, in any number of processes; one of them sends at a time."""

    def __init__(self, settings: Settings) -> None:
        self.listener = Listener(settings.direct_url)
        self._engine = make_engine(settings.database_url, "shoptalk worker", pool_size=1, pooled=settings.pooled)
        self._stopping = threading.Event()
        self._floor = Floor()
        self._batch_size, self._most = BATCH_SIZE, LARGEST_BATCH_SIZE
        self._live_at = float("-inf")

    def stop(self) -> None:
        """Lets the current batch end, and then ends run(). Safe in a signal handler."""
        self._stopping.set()
        self.listener.wake()

    def run(self) -> None:
        """Sends until stop(); survives every error of the database."""
        while not self._stopping.is_set():
            try:
                report = self._send_batch()
            except sa.exc.SQLAlchemyError as error:
                self._recover(error)
            else:
                if report is None:
                    self.listener.pause(STAND_BY_SECONDS)
                elif not self._choose_size(report):
                    self.listener.wait(worked=report.claimed > 0)
        self.listener.close()
        self._engine.dispose()

    def _send_batch(self) -> sa.Row[Any] | None:
        """Sends one batch and returns the report; None while another worker sends."""
        started = time.monotonic()
        floors = self._floor.start_claim(started)
        try:
            with self._engine.connect() as connection:
                report = connection.execute(*call("send_chats", batch_size=self._batch_size, **floors)).one()
        finally:
            ended = time.monotonic()
            self._floor.end_claim(ended)
        STANDING_BY.set(report.claimed is None)
        if report.claimed is None:
            return None
        took = ended - started
        count_batch(report, took)
        for failure in report.failures or ():
            _log_failure(**failure)
        self._most = min(2 * self._most, LARGEST_BATCH_SIZE)
        if took > LONGEST_BATCH_SECONDS:
            self._most = max(1, self._batch_size // 2)
        self._floor.advance(report)
        return report

    def _choose_size(self, report: sa.Row[Any]) -> bool:
        """Sets the size of the next batch by what this one claimed in each lane; false: neither lane has more."""
        live, held = report.live_floor is not None, report.held_floor is not None
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
        return full or (live and held)  # beside live chats a batch takes few held ones, so there may be more

    def _recover(self, error: sa.exc.SQLAlchemyError) -> None:
        self._floor.fail(timed_out=isinstance(getattr(error, "orig", None), psycopg.errors.QueryCanceled))
        self._batch_size = self._most = max(1, self._batch_size // 8)
        log("database_trouble", reason=error)
        DATABASE_TROUBLES.inc()
        self._stopping.wait(ERROR_PAUSE_SECONDS)


def _log_failure(dead: bool, **chat: Any) -> None:
    log("chat_failed" if dead else "sending_failed", **chat)
    FAILURES.labels("dead_letter" if dead else "retry").inc()
