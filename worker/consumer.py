"""The worker's loop: send what is due, batch after batch, and sleep when nothing is."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time

import sqlalchemy as sa

from sql.database import make_engine, query
from worker.bell import Bell

log = logging.getLogger("shoptalk.worker")

BATCH_SIZE = 500  # chats a transaction; measured: smaller is slower, larger makes the next sender wait
# The claim starts a little below the last instant sent and so spares itself the dead rows in front. What
# commits later than this after its instant is found by a look from the very start: every second, or
# seldomer where walking the dead rows has become dear (somebody keeps an old snapshot open).
FLOOR_SLACK = dt.timedelta(seconds=1)
FULL_LOOK_SECONDS = 1.0
FULL_LOOK_SHARE = 20  # a full look may take this part of the time
TROUBLE_PAUSE_SECONDS = 0.5
# Another worker sends: time to see whether it still does. It takes over from a killed one after at most this.
STAND_BY_SECONDS = 0.05


class Consumer:
    """Sends until `stop()` is called. Any number may run at once, in any number of processes."""

    def __init__(self, database_url: str) -> None:
        self.bell = Bell(database_url)
        self._engine = make_engine(database_url, "shoptalk worker", pool_size=1)
        self._stopping = threading.Event()
        self._due_from: dt.datetime | None = None  # None: from the very start
        self._next_full_look = 0.0

    def stop(self) -> None:
        """Lets the batch in hand end and then ends run(). Safe in a signal handler."""
        self._stopping.set()
        self.bell.wake()

    def run(self) -> None:
        """Sends until told to stop; outlives every trouble of the database."""
        while not self._stopping.is_set():
            try:
                claimed = self._send_batch()
            except sa.exc.SQLAlchemyError as error:
                self._trouble(error)
            else:
                if claimed is None:
                    self.bell.pause(STAND_BY_SECONDS)
                elif claimed < BATCH_SIZE:
                    self.bell.wait(worked=claimed > 0)
        self.bell.close()
        self._engine.dispose()

    def _send_batch(self) -> int | None:
        """Sends one batch and answers how many chats it claimed; None while another worker sends."""
        started = time.monotonic()
        full_look = self._due_from is None or started >= self._next_full_look
        due_from = "-infinity" if full_look else self._due_from
        with self._engine.connect() as connection:
            report = connection.execute(query("send_chats"), {"batch_size": BATCH_SIZE, "due_from": due_from}).one()
        if report.claimed is None:
            return None
        if report.failed:
            log.warning("sending_failed chats=%d", report.failed)
        if full_look:
            took = time.monotonic() - started
            self._next_full_look = time.monotonic() + max(FULL_LOOK_SECONDS, took * FULL_LOOK_SHARE)
        if report.below_floor:
            self._due_from = None
        elif report.last_due_at is not None:
            self._due_from = report.last_due_at - FLOOR_SLACK
        return int(report.claimed)

    def _trouble(self, error: Exception) -> None:
        self._due_from = None
        log.warning("database_trouble reason=%s", str(error).splitlines()[0])
        self._stopping.wait(TROUBLE_PAUSE_SECONDS)
