"""Checks the stores' hours at each opening and closing, at start, and every minute, and then notifies the workers.
Samples the queue for its history, and removes chats that are older than SHOPTALK_KEEP_DAYS.

The rule itself is in the database: a row of chat_queue has its due time, and the claim defers chats whose store has
closed. So a check that is missed, late, repeated or made by two workers is harmless.
"""

from __future__ import annotations

import datetime as dt
import threading
import time

import sqlalchemy as sa
from apscheduler.schedulers.background import BackgroundScheduler

from sql.database import call, make_engine, query
from sql.log import Log
from sql.settings import Settings
from worker.metrics import HOURS_KEPT

log = Log("worker")

CHECK_SECONDS = 60
STATEMENT_SECONDS = 300  # one statement gives a store's million held chats their new opening
SAMPLE_SECONDS = 30  # what one row of queue_samples covers
PRUNE_SECONDS = 300
PRUNE_CHATS = 500  # per transaction: about 20 ms
PRUNE_SHARE = 4  # then a pause this many times as long, so that sending is hardly affected


class Schedule:
    """The scheduler of one worker. It runs in its own threads."""

    def __init__(self, settings: Settings) -> None:
        # A session keeps the time zones' rules as it first read them; so each check has a new session.
        self._engine = make_engine(
            settings.direct_url, "shoptalk schedule", pool_size=0, statement_timeout_seconds=STATEMENT_SECONDS
        )
        self._keep_days = settings.keep_days
        self._stopping = threading.Event()
        # Late runs happen, but once: one run makes up for all that were missed.
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler = BackgroundScheduler(timezone=dt.UTC, job_defaults=defaults)

    def start(self) -> None:
        """Checks at once, and regularly from then on."""
        now = dt.datetime.now(dt.UTC)
        self._scheduler.add_job(self._keep_hours, "interval", seconds=CHECK_SECONDS, next_run_time=now)
        self._scheduler.add_job(self._sample_queue, "interval", seconds=SAMPLE_SECONDS, next_run_time=now)
        if self._keep_days:
            self._scheduler.add_job(self._prune, "interval", seconds=PRUNE_SECONDS, next_run_time=now)
        self._scheduler.start()

    def stop(self) -> None:
        """Ends without waiting for a run under way: every run may be interrupted at any point."""
        self._stopping.set()
        self._scheduler.shutdown(wait=False)

    def _sample_queue(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection.execute(*call("sample_queue"))
        except sa.exc.SQLAlchemyError as error:
            log("sampling_failed", reason=error)

    def _prune(self) -> None:
        """Removes old chats, batch after batch. While another worker does so, this one does nothing."""
        sent = cancelled = 0
        try:
            with self._engine.connect() as connection:
                while not self._stopping.is_set():
                    began = time.monotonic()
                    statement, most = query("shared/prune"), {"days": self._keep_days, "most": PRUNE_CHATS}
                    report = connection.execute(statement, most).one()
                    sent, cancelled = sent + (report.sent or 0), cancelled + (report.cancelled or 0)
                    if not report.more:
                        break
                    self._stopping.wait(PRUNE_SHARE * (time.monotonic() - began))
        except sa.exc.SQLAlchemyError as error:
            log("pruning_failed", reason=error)
        if sent or cancelled:
            log("pruned", sent=sent, cancelled=cancelled)

    def _keep_hours(self) -> None:
        try:
            with self._engine.connect() as connection:
                seconds = connection.execute(*call("keep_hours")).scalar_one()
        except sa.exc.SQLAlchemyError as error:
            log("keeping_hours_failed", reason=error)
            return
        HOURS_KEPT.set_to_current_time()
        # How long is computed by the database's clock; this machine's clock only measures it.
        if seconds < CHECK_SECONDS:
            at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
            self._scheduler.add_job(self._keep_hours, "date", run_date=at, id="next change", replace_existing=True)
