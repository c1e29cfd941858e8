"""Keeping the stores' hours: rings at each opening and closing, at start, and every minute. And the queue's history.

The rule itself is in the database: a chat's pointer says from when it may go, and the claim takes back
what its store has closed on. So a run that is missed, late, doubled or done by two workers is harmless.
"""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from apscheduler.schedulers.background import BackgroundScheduler

from sql.database import make_engine, query
from sql.log import Log
from worker.metrics import HOURS_KEPT

log = Log("worker")

CHECK_SECONDS = 60
SAMPLE_SECONDS = 30  # as long as one row of queue_samples is for


class Schedule:
    """The scheduler of one worker, in threads of its own."""

    def __init__(self, database_url: str) -> None:
        # A session keeps the zones' rules as they were when it first read them: a new one for each look.
        self._engine = make_engine(database_url, "shoptalk schedule", pool_size=0)
        # Late runs happen, once: one run does whatever was missed.
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler = BackgroundScheduler(timezone=dt.UTC, job_defaults=defaults)

    def start(self) -> None:
        """Keeps the hours from now on."""
        now = dt.datetime.now(dt.UTC)
        self._scheduler.add_job(self._keep_hours, "interval", seconds=CHECK_SECONDS, next_run_time=now)
        self._scheduler.add_job(self._sample_queue, "interval", seconds=SAMPLE_SECONDS, next_run_time=now)
        self._scheduler.start()

    def stop(self) -> None:
        """Ends without waiting for a run under way: it does nothing that has to be ended well."""
        self._scheduler.shutdown(wait=False)

    def _sample_queue(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection.execute(query("sample_queue"))
        except sa.exc.SQLAlchemyError as error:
            log("sampling_failed", reason=error)

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
