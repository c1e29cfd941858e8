"""`python -m relay`: works on the channels until SIGTERM or SIGINT; idle while there are none."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import sys

import psycopg

from relay.relay import Relay
from sql.install import WrongSchema, check_version
from sql.log import Log, configure
from sql.metrics import serve
from sql.settings import BadSetting, Settings

log = Log("relay")


async def run(settings: Settings) -> None:
    """Runs one relay until a signal ends it."""
    relay = Relay(settings)
    serve(settings.relay_metrics, settings.api_keys)
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, relay.stop)
    log("started")
    await relay.run()
    log("stopped")


def require_extras(settings: Settings) -> None:
    """Raises BadSetting if a setting needs a library that is not installed."""
    if settings.xmpp_component and importlib.util.find_spec("slixmpp") is None:
        raise BadSetting(
            "XMPP_COMPONENT is set but slixmpp is not installed; run: python3 bin/install.py requirements-xmpp.txt"
        )


def main() -> None:
    """Runs one relay in the foreground."""
    for noisy in ("aio_pika", "aiormq"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # the relay logs their errors itself, in one line each
    try:
        configure()
        settings = Settings.from_environment()
        require_extras(settings)
        check_version(settings.database_url)
    except (BadSetting, WrongSchema, psycopg.Error) as error:
        sys.exit(f"shoptalk: {error}")
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
