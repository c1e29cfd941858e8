"""`python -m worker`: sends the queue and checks the stores' hours until SIGTERM or SIGINT."""

from __future__ import annotations

import signal
import sys

import psycopg

from sql.install import WrongSchema, check_version
from sql.log import Log, configure
from sql.metrics import serve
from sql.settings import BadSetting, Settings
from worker.consumer import Consumer
from worker.schedule import Schedule

log = Log("worker")


def main() -> None:
    """Runs one worker in the foreground."""
    try:
        configure()
        settings = Settings.from_environment()
        check_version(settings.database_url)
    except (BadSetting, WrongSchema, psycopg.Error) as error:
        sys.exit(f"shoptalk: {error}")
    consumer = Consumer(settings)
    schedule = Schedule(settings)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: consumer.stop())
    schedule.start()
    serve(settings.worker_metrics, settings.api_keys)
    log("started")
    consumer.run()
    schedule.stop()
    log("stopped")


if __name__ == "__main__":
    main()
