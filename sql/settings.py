"""Settings, read from the environment once and checked as they are read."""

from __future__ import annotations

import datetime as dt
import importlib.util
import ipaddress
import os
import re
import urllib.parse
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field

from sql.jid import domain

ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class BadSetting(ValueError):
    """A setting that cannot be used; the text names it and says what would do."""


@dataclass(frozen=True)
class XmppComponent:
    """How to be a component of an XMPP server (XEP-0114)."""

    jid: str  # the component's own, a domain such as chat.example.org
    secret: str = field(repr=False)
    host: str  # where the server listens for components
    port: int


@dataclass(frozen=True)
class Settings:
    """What one process needs to know. `from_environment()` is the way to make one."""

    # A libpq URL or keyword string; empty: libpq's own defaults (PGHOST …). Not shown, as it may have a password.
    database_url: str = field(repr=False)
    listen_url: str = field(default="", repr=False)  # the same past the pooler that database_url leads to; empty: none
    host: str = "127.0.0.1"
    port: int = 8000
    web_processes: int = 2
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # all scopes, all stores; others are in the database
    timezone: str = "UTC"  # IANA name; with opens and closes, what a new store starts with
    opens: dt.time = dt.time(9)
    closes: dt.time = dt.time(14)  # at or before opens: past midnight; both 00:00: the whole day
    webhook_allow_private: bool = False  # webhooks may go to loopback, private and link-local addresses
    cors_origins: frozenset[str] = frozenset()  # whose pages may call the API
    proxies: int = 0  # in front of web, each of which adds the address it was asked from to X-Forwarded-For
    key_per_minute: int = 60_000  # requests of one key to one web process; 0: any number
    token_per_minute: int = 600  # of one client, operator or conversation with tokens
    address_per_minute: int = 3000  # of one address that shows neither
    most_waiting: int = 0  # chats in the queue, held ones too, above which more are refused; 0: any number
    oldest_queued_seconds: int = 0  # how long a chat may wait to be sent before more are refused; 0: any time
    keep_days: int = 0  # after which the worker removes what was sent or cancelled; 0: never
    xmpp_component: XmppComponent | None = None  # None: no XMPP
    amqp_urls: tuple[str, ...] = ()  # of the RabbitMQ that chats go to and come from, one for each of its nodes
    fanout: str = "postgres"  # how new chats come to the web processes: by LISTEN, or "amqp"
    worker_metrics: tuple[str, int] | None = None  # host and port where a worker serves /metrics; None: nowhere
    relay_metrics: tuple[str, int] | None = None  # and a relay

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads the variables that the README lists. Raises BadSetting."""
        opens, closes = _span(environ.get("SHOPTALK_HOURS") or "09:00-14:00")
        return cls(
            database_url=environ.get("DATABASE_URL", ""),
            listen_url=environ.get("SHOPTALK_LISTEN_URL", ""),
            host=environ.get("HOST") or cls.host,
            port=_number("PORT", environ.get("PORT") or str(cls.port)),
            web_processes=_number("WEB_CONCURRENCY", environ.get("WEB_CONCURRENCY") or str(cls.web_processes)),
            api_keys=_api_keys(environ.get("SHOPTALK_API_KEYS", "")),
            timezone=_timezone(environ.get("SHOPTALK_TIMEZONE") or cls.timezone),
            opens=opens,
            closes=closes,
            webhook_allow_private=environ.get("SHOPTALK_WEBHOOK_ALLOW_PRIVATE", "") not in ("", "0", "false", "no"),
            cors_origins=_origins(environ.get("SHOPTALK_CORS_ORIGINS", "")),
            proxies=_count("SHOPTALK_PROXIES", environ.get("SHOPTALK_PROXIES"), cls.proxies),
            key_per_minute=_count(
                "SHOPTALK_KEY_PER_MINUTE", environ.get("SHOPTALK_KEY_PER_MINUTE"), cls.key_per_minute
            ),
            token_per_minute=_count(
                "SHOPTALK_TOKEN_PER_MINUTE", environ.get("SHOPTALK_TOKEN_PER_MINUTE"), cls.token_per_minute
            ),
            address_per_minute=_count(
                "SHOPTALK_ADDRESS_PER_MINUTE", environ.get("SHOPTALK_ADDRESS_PER_MINUTE"), cls.address_per_minute
            ),
            most_waiting=_count("SHOPTALK_MOST_WAITING", environ.get("SHOPTALK_MOST_WAITING"), cls.most_waiting),
            oldest_queued_seconds=_count(
                "SHOPTALK_OLDEST_QUEUED_SECONDS",
                environ.get("SHOPTALK_OLDEST_QUEUED_SECONDS"),
                cls.oldest_queued_seconds,
            ),
            keep_days=_count("SHOPTALK_KEEP_DAYS", environ.get("SHOPTALK_KEEP_DAYS"), cls.keep_days),
            xmpp_component=_xmpp_component(environ.get("XMPP_COMPONENT", "")),
            amqp_urls=_amqp_urls(environ.get("AMQP_URL", "")),
            fanout=_fanout(environ.get("FANOUT") or cls.fanout, environ.get("AMQP_URL", "")),
            worker_metrics=_metrics("SHOPTALK_WORKER_METRICS", environ.get("SHOPTALK_WORKER_METRICS", ""), environ),
            relay_metrics=_metrics("SHOPTALK_RELAY_METRICS", environ.get("SHOPTALK_RELAY_METRICS", ""), environ),
        )

    @property
    def is_exposed(self) -> bool:
        """Whether HOST lets other machines in."""
        return not is_loopback(self.host)

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


def _count(name: str, text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadSetting(f"{name}={text}: expected a whole number, 0 for none")
    return int(text)


def _origins(text: str) -> frozenset[str]:
    origins = frozenset(origin.strip() for origin in text.split(",") if origin.strip())
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise BadSetting(f"SHOPTALK_CORS_ORIGINS={origin}: expected origins such as https://shop.example")
    return origins


def _xmpp_component(text: str) -> XmppComponent | None:
    """None where it is unset. The text has the secret in it, so no error shows it."""
    if not text:
        return None
    try:
        url = urllib.parse.urlsplit(text)
        if url.scheme == "xmpp" and url.username and url.password and url.hostname and url.path in ("", "/"):
            secret = urllib.parse.unquote(url.password)
            return XmppComponent(domain(urllib.parse.unquote(url.username)), secret, url.hostname, url.port or 5347)
    except ValueError:
        pass
    raise BadSetting("XMPP_COMPONENT: expected xmpp://chat.example.org:secret@host:5347, the secret percent-encoded")


def _fanout(text: str, amqp_url: str) -> str:
    if text not in ("postgres", "amqp"):
        raise BadSetting(f"FANOUT={text}: expected postgres or amqp")
    if text == "amqp" and not amqp_url:
        raise BadSetting("FANOUT=amqp needs AMQP_URL")
    return text


def _amqp_urls(text: str) -> tuple[str, ...]:
    """Comma-separated. Their text is never shown: it has the password in it."""
    urls = tuple(url.strip() for url in text.split(",") if url.strip())
    for url in urls:
        try:
            parts = urllib.parse.urlsplit(url)
            fit = parts.scheme in ("amqp", "amqps") and parts.hostname and parts.port != 0
        except ValueError:
            fit = False
        if not fit:
            raise BadSetting("AMQP_URL: expected amqp://user:password@host:5672/vhost, or several with commas between")
    if urls and importlib.util.find_spec("aio_pika") is None:
        raise BadSetting("AMQP_URL needs what is not installed: bin/install.py requirements-amqp.txt")
    return urls


def _api_keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if "CHANGE_ME" in keys:  # deploy/shoptalk.env, as everybody can read it
        raise BadSetting("SHOPTALK_API_KEYS=CHANGE_ME: set a secret of your own, from `openssl rand -hex 32`")
    return keys


def _metrics(name: str, text: str, environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Of `9101` or `10.0.0.5:9101` or `[::1]:9101`. What other machines reach asks for a key: there has to be one."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not is_loopback(host) and not _api_keys(environ.get("SHOPTALK_API_KEYS", "")):
        raise BadSetting(
            f"{name}={text} can be read by other machines: set SHOPTALK_API_KEYS, which are then asked for"
        )
    return host, _number(name, port)


def _timezone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSetting(f"SHOPTALK_TIMEZONE={name}: expected an IANA zone such as Europe/Berlin") from error
    return name


def is_loopback(host: str) -> bool:
    """Whether the name or address leads to this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
