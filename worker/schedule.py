"""Keeping the stores' hours: rings at each opening and closing, at start, and every minute. And the queue's history,
and forgetting what is older than it should be kept.

The rule itself is in the database: a chat's pointer says from when it may go, and the claim takes back
what its store has closed on. So a run that is missed, late, doubled or done by two workers is harmless.
"""

from __future__ import annotations

import datetime as dt
import threading
import time

import sqlalchemy as sa
from apscheduler.schedulers.background import BackgroundScheduler

from sql.database import make_engine, query
from sql.log import Log
from sql.settings import Settings
from worker.metrics import HOURS_KEPT

log = Log("worker")

CHECK_SECONDS = 60
STATEMENT_SECONDS = 300  # a store's million held chats get their new opening in one statement
SAMPLE_SECONDS = 30  # as long as one row of queue_samples is for
PRUNE_SECONDS = 300
PRUNE_CHATS = 500  # a transaction: some 20 ms
PRUNE_SHARE = 4  # and then a pause of so many times as long, so that sending hardly notices


class Schedule:
    """The scheduler of one worker, in threads of its own."""

    def __init__(self, settings: Settings) -> None:
        # A session keeps the zones' rules as they were when it first read them: a new one for each look.
        self._engine = make_engine(
            settings.direct_url, "shoptalk schedule", pool_size=0, statement_timeout_seconds=STATEMENT_SECONDS
        )
        self._keep_days = settings.keep_days
        self._stopping = threading.Event()
        # Late runs happen, once: one run does whatever was missed.
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler = BackgroundScheduler(timezone=dt.UTC, job_defaults=defaults)

    def start(self) -> None:
        """Keeps the hours from now on."""
        now = dt.datetime.now(dt.UTC)
        self._scheduler.add_job(self._keep_hours, "interval", seconds=CHECK_SECONDS, next_run_time=now)
        self._scheduler.add_job(self._sample_queue, "interval", seconds=SAMPLE_SECONDS, next_run_time=now)
        if self._keep_days:
            self._scheduler.add_job(self._prune, "interval", seconds=PRUNE_SECONDS, next_run_time=now)
        self._scheduler.start()

    def stop(self) -> None:
        """Ends without waiting for a run under way: it does nothing that has to be ended well."""
        self._stopping.set()
        self._scheduler.shutdown(wait=False)

    def _sample_queue(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection.execute(query("sample_queue"))
        except sa.exc.SQLAlchemyError as error:
            log("sampling_failed", reason=error)

    def _prune(self) -> None:
        """Some at a time, until nothing is too old. Two workers may: the second does nothing."""
        sent = cancelled = 0
        try:
            with self._engine.connect() as connection:
                while not self._stopping.is_set():
                    began = time.monotonic()
                    statement, most = query("prune"), {"days": self._keep_days, "most": PRUNE_CHATS}
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
                seconds = connection.execute(query("keep_hours")).scalar_one()
        except sa.exc.SQLAlchemyError as error:
            log("keeping_hours_failed", reason=error)
            return
        HOURS_KEPT.set_to_current_time()
        # The database's clock says how long; this machine's only measures it.
        if seconds < CHECK_SECONDS:
            at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
            self._scheduler.add_job(self._keep_hours, "date", run_date=at, id="next change", replace_existing=True)
