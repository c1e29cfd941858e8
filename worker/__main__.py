"""`python -m worker`: sends the queue and keeps the hours until SIGTERM or SIGINT."""

from __future__ import annotations

import logging
import signal
import sys

import psycopg

from sql.schema import WrongSchema, check_version
from sql.settings import BadSetting, Settings
from worker.consumer import Consumer
from worker.schedule import Schedule

log = logging.getLogger("shoptalk.worker")


def main() -> None:
    """Runs one worker in the foreground."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
        check_version(settings.database_url)
    except (BadSetting, WrongSchema, psycopg.Error) as error:
        sys.exit(f"shoptalk: {error}")
    consumer = Consumer(settings)
    schedule = Schedule(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: consumer.stop())
    schedule.start()
    log.info("started")
    consumer.run()
    schedule.stop()
    log.info("stopped")


if __name__ == "__main__":
    main()
