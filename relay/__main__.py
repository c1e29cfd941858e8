"""`python -m relay`: works on the channels until SIGTERM or SIGINT; sleeps where there are none."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import sys

import psycopg

from relay.relay import Relay
from sql.log import Log, configure
from sql.metrics import serve
from sql.schema import WrongSchema, check_version
from sql.settings import BadSetting, Settings

log = Log("relay")


async def run(settings: Settings) -> None:
    """Runs one relay until a signal ends it."""
    relay = Relay(settings)
    serve(settings.relay_metrics, settings.api_keys)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, relay.stop)
    log("started")
    await relay.run()
    log("stopped")


def insist_on_extras(settings: Settings) -> None:
    """Raises BadSetting where a setting needs a library that is not installed."""
    if settings.xmpp_component and importlib.util.find_spec("slixmpp") is None:
        raise BadSetting("XMPP_COMPONENT needs what is not installed: bin/install.py requirements-xmpp.txt")


def main() -> None:
    """Runs one relay in the foreground."""
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what goes wrong there is logged here, in one line
    try:
        configure()
        settings = Settings.from_environment()
        insist_on_extras(settings)
        check_version(settings.database_url)
    except (BadSetting, WrongSchema, psycopg.Error) as error:
        sys.exit(f"shoptalk: {error}")
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
