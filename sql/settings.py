"""Settings. Each environment variable is declared once: a field with its name, parser and default."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.util
import ipaddress
import os
import re
import urllib.parse
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from sql.jid import domain

ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")

T = TypeVar("T")


class BadSetting(ValueError):
    """An invalid setting; the text names the variable and says what is expected."""


@dataclass(frozen=True)
class XmppComponent:
    """How to be a component of an XMPP server (XEP-0114)."""

    jid: str  # the component's own, a domain such as chat.example.org
    secret: str = dataclasses.field(repr=False)
    host: str  # where the server listens for components
    port: int


# Parsers ---------------------------------------------------------------------------------------------
# From a variable's name and text to its value. They raise BadSetting, without the text where it contains a secret.


def _text(name: str, text: str) -> str:
    return text


def _flag(name: str, text: str) -> bool:
    return text not in ("", "0", "false", "no")


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise BadSetting(f"{name}={text}: expected a number from 1 to 65535")
    return int(text)


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadSetting(f"{name}={text}: expected a whole number")
    return int(text)


def _span(name: str, text: str) -> tuple[dt.time, dt.time]:
    match = SPAN.fullmatch(text)
    if match is None:
        raise BadSetting(f"{name}={text}: expected a span such as 09:00-14:00")
    hour, minute, end_hour, end_minute = map(int, match.groups())
    return dt.time(hour, minute), dt.time(end_hour, end_minute)


def _timezone(name: str, text: str) -> str:
    try:
        zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSetting(f"{name}={text}: expected an IANA time zone such as Europe/Berlin") from error
    return text


def _origins(name: str, text: str) -> frozenset[str]:
    origins = frozenset(origin.strip() for origin in text.split(",") if origin.strip())
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise BadSetting(f"{name}={origin}: expected origins such as https://shop.example")
    return origins


def _api_keys(name: str, text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    if "CHANGE_ME" in keys:  # the published placeholder of deploy/shoptalk.env
        raise BadSetting(f"{name}=CHANGE_ME: set a secret of your own, from `openssl rand -hex 32`")
    return keys


def _xmpp_component(name: str, text: str) -> XmppComponent | None:
    """None if unset. The text contains the secret."""
    if not text:
        return None
    try:
        url = urllib.parse.urlsplit(text)
        if url.scheme == "xmpp" and url.username and url.password and url.hostname and url.path in ("", "/"):
            secret = urllib.parse.unquote(url.password)
            return XmppComponent(domain(urllib.parse.unquote(url.username)), secret, url.hostname, url.port or 5347)
    except ValueError:
        pass
    raise BadSetting(f"{name}: expected xmpp://chat.example.org:secret@host:5347, the secret percent-encoded")


def _amqp_urls(name: str, text: str) -> tuple[str, ...]:
    """Comma-separated. The text contains the password."""
    urls = tuple(url.strip() for url in text.split(",") if url.strip())
    for url in urls:
        try:
            parts = urllib.parse.urlsplit(url)
            is_valid = parts.scheme in ("amqp", "amqps") and parts.hostname and parts.port != 0
        except ValueError:
            is_valid = False
        if not is_valid:
            raise BadSetting(f"{name}: expected amqp://user:password@host:5672/vhost, or several separated by commas")
    if urls and importlib.util.find_spec("aio_pika") is None:
        raise BadSetting(
            f"{name} is set but aio-pika is not installed; run: python3 bin/install.py requirements-amqp.txt"
        )
    return urls


def _fanout(name: str, text: str) -> str:
    if text not in ("postgres", "amqp"):
        raise BadSetting(f"{name}={text}: expected postgres or amqp")
    return text


def _address(name: str, text: str) -> tuple[str, int] | None:
    """`9101`, `10.0.0.5:9101` or `[::1]:9101`; None if unset."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "127.0.0.1", _number(name, port)


# The settings ----------------------------------------------------------------------------------------


def setting(name: str, parse: Callable[[str, str], T], default: str = "", secret: bool = False) -> T:
    """A field that is read from the variable `name`; unset and empty mean `default`. `secret` fields are not shown."""
    field: T = dataclasses.field(
        default=parse(name, default), repr=not secret, metadata={"name": name, "parse": parse, "default": default}
    )
    return field


@dataclass(frozen=True)
class Settings:
    """The settings of one process. Create them with `from_environment()`."""

    # A libpq URL or keyword string; empty: libpq's own defaults (PGHOST …).
    database_url: str = setting("DATABASE_URL", _text, secret=True)
    # A direct connection to the same database; empty: database_url is one. See direct_url.
    given_direct_url: str = setting("SHOPTALK_DIRECT_URL", _text, secret=True)
    host: str = setting("HOST", _text, "127.0.0.1")
    port: int = setting("PORT", _number, "8000")
    web_processes: int = setting("WEB_CONCURRENCY", _number, "2")
    # Keys with all scopes for all stores; others are in the database.
    api_keys: tuple[str, ...] = setting("SHOPTALK_API_KEYS", _api_keys, secret=True)
    # The time zone (IANA) and hours of a new store. Hours that end at or before their start run past midnight;
    # 00:00-00:00 is the whole day.
    timezone: str = setting("SHOPTALK_TIMEZONE", _timezone, "UTC")
    hours: tuple[dt.time, dt.time] = setting("SHOPTALK_HOURS", _span, "09:00-14:00")
    # Whether webhooks may go to loopback, private and link-local addresses.
    webhook_allow_private: bool = setting("SHOPTALK_WEBHOOK_ALLOW_PRIVATE", _flag)
    # Sites whose pages may call the API.
    cors_origins: frozenset[str] = setting("SHOPTALK_CORS_ORIGINS", _origins)
    # Proxies in front of web, each of which adds its peer's address to X-Forwarded-For.
    proxies: int = setting("SHOPTALK_PROXIES", _count, "0")
    # Requests per minute to one web process; 0: no limit. Of one key; of one client, operator or conversation with
    # tokens; of one address without a credential.
    key_per_minute: int = setting("SHOPTALK_KEY_PER_MINUTE", _count, "60000")
    token_per_minute: int = setting("SHOPTALK_TOKEN_PER_MINUTE", _count, "600")
    address_per_minute: int = setting("SHOPTALK_ADDRESS_PER_MINUTE", _count, "3000")
    # New chats are answered 429 with more chats than this in the queue, held ones included, or with an older due chat.
    most_waiting: int = setting("SHOPTALK_MOST_WAITING", _count, "0")
    oldest_queued_seconds: int = setting("SHOPTALK_OLDEST_QUEUED_SECONDS", _count, "0")
    # The worker removes chats that were sent or cancelled longer ago than this; 0: never.
    keep_days: int = setting("SHOPTALK_KEEP_DAYS", _count, "0")
    xmpp_component: XmppComponent | None = setting("XMPP_COMPONENT", _xmpp_component, secret=True)  # noqa: RUF009
    # The RabbitMQ that chats go to and come from: a URL for each of its nodes.
    amqp_urls: tuple[str, ...] = setting("AMQP_URL", _amqp_urls, secret=True)
    # How web processes get new chats: "postgres" (LISTEN) or "amqp".
    fanout: str = setting("FANOUT", _fanout, "postgres")
    # Host and port where the worker and the relay serve /metrics.
    worker_metrics: tuple[str, int] | None = setting("SHOPTALK_WORKER_METRICS", _address)
    relay_metrics: tuple[str, int] | None = setting("SHOPTALK_RELAY_METRICS", _address)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads the variables of docs/settings.md. Raises BadSetting."""
        values = {}
        for field in dataclasses.fields(cls):
            name, parse = field.metadata["name"], field.metadata["parse"]
            values[field.name] = parse(name, environ.get(name) or field.metadata["default"])
        settings = cls(**values)
        settings._check_combinations()
        return settings

    def _check_combinations(self) -> None:
        if self.fanout == "amqp" and not self.amqp_urls:
            raise BadSetting("FANOUT=amqp needs AMQP_URL")
        for name, address in (
            ("SHOPTALK_WORKER_METRICS", self.worker_metrics),
            ("SHOPTALK_RELAY_METRICS", self.relay_metrics),
        ):
            if address and not is_loopback(address[0]) and not self.api_keys:
                raise BadSetting(f"{name}: other machines can reach {address[0]}; set SHOPTALK_API_KEYS")

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach HOST."""
        return not is_loopback(self.host)

    @property
    def pooled(self) -> bool:
        """Whether database_url leads to a pooler in transaction mode: then two statements may run in two sessions."""
        return bool(self.given_direct_url)

    @property
    def direct_url(self) -> str:
        """A direct connection, not through a pooler: for LISTEN, session locks and other session state."""
        return self.given_direct_url or self.database_url


def is_loopback(host: str) -> bool:
    """Whether the name or address leads to this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
