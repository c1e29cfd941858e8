"""Settings, read from the environment once and checked as they are read."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass

SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class BadSetting(ValueError):
    """A setting that cannot be used; the text names it and says what would do."""


@dataclass(frozen=True)
class Settings:
    """What one process needs to know. `from_environment()` is the way to make one."""

    database_url: str  # a libpq URL or keyword string; empty: libpq's own defaults (PGHOST …)
    listen_url: str = ""  # the same database past the pooler that database_url leads to; empty: it leads to none
    host: str = "127.0.0.1"
    port: int = 8000
    web_processes: int = 2
    api_keys: tuple[str, ...] = ()  # empty: open, which only a loopback host may be
    timezone: str = "UTC"  # IANA name; with opens and closes, what a new store starts with
    opens: dt.time = dt.time(9)
    closes: dt.time = dt.time(14)  # at or before opens: past midnight; both 00:00: the whole day
    webhook_allow_private: bool = False  # webhooks may go to loopback, private and link-local addresses

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads the variables that the README lists. Raises BadSetting."""
        opens, closes = _span(environ.get("SHOPTALK_HOURS") or "09:00-14:00")
        settings = cls(
            database_url=environ.get("DATABASE_URL", ""),
            listen_url=environ.get("SHOPTALK_LISTEN_URL", ""),
            host=environ.get("HOST") or cls.host,
            port=_number("PORT", environ.get("PORT") or str(cls.port)),
            web_processes=_number("WEB_CONCURRENCY", environ.get("WEB_CONCURRENCY") or str(cls.web_processes)),
            api_keys=tuple(k.strip() for k in environ.get("SHOPTALK_API_KEYS", "").split(",") if k.strip()),
            timezone=_timezone(environ.get("SHOPTALK_TIMEZONE") or cls.timezone),
            opens=opens,
            closes=closes,
            webhook_allow_private=environ.get("SHOPTALK_WEBHOOK_ALLOW_PRIVATE", "") not in ("", "0", "false", "no"),
        )
        if not settings.api_keys and not _is_loopback(settings.host):
            raise BadSetting(
                f"HOST={settings.host} lets other machines in, and nothing would ask them who they are: "
                "set SHOPTALK_API_KEYS, or HOST=127.0.0.1 behind a proxy that does"
            )
        return settings

    @property
    def pooled(self) -> bool:
        """Whether a pooler that may change sessions between two statements stands in front of the database."""
        return bool(self.listen_url)

    @property
    def direct_url(self) -> str:
        """The database past any pooler: for LISTEN, session locks, and whatever needs a session of its own."""
        return self.listen_url or self.database_url


def _span(text: str) -> tuple[dt.time, dt.time]:
    match = SPAN.fullmatch(text)
    if match is None:
        raise BadSetting(f"SHOPTALK_HOURS={text}: expected a span such as 09:00-14:00")
    hour, minute, end_hour, end_minute = map(int, match.groups())
    return dt.time(hour, minute), dt.time(end_hour, end_minute)


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise BadSetting(f"{name}={text}: expected a number from 1 to 65535")
    return int(text)


def _timezone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSetting(f"SHOPTALK_TIMEZONE={name}: expected an IANA zone such as Europe/Berlin") from error
    return name


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
