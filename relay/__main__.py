"""`python -m relay`: works on the channels until SIGTERM or SIGINT; sleeps where there are none."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import psycopg

from relay.relay import Relay
from sql.schema import WrongSchema, check_version
from sql.settings import BadSetting, Settings

log = logging.getLogger("shoptalk.relay")


async def run(settings: Settings) -> None:
    """Runs one relay until a signal ends it."""
    relay = Relay(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, relay.stop)
    log.info("started")
    await relay.run()
    log.info("stopped")


def main() -> None:
    """Runs one relay in the foreground."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    try:
        settings = Settings.from_environment()
        check_version(settings.database_url)
    except (BadSetting, WrongSchema, psycopg.Error) as error:
        sys.exit(f"shoptalk: {error}")
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
