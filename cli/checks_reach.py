"""Checks of the way to the database: settings, pooler, listeners, clocks and time zones."""

from __future__ import annotations

import datetime as dt
import secrets
import time
import zoneinfo
from collections.abc import Iterator
from typing import Any

import psycopg

from cli.examination import CheckContext, Finding, ok, problem, warning
from cli.output import format_value
from sql.database import query
from sql.log import formatter
from sql.settings import BadSetting, Settings

ROUND_TRIP_SECONDS = 1.5  # a notification that takes longer counts as lost
SLOW_SECONDS = 0.5
CLOCK_WARNING_SECONDS, CLOCK_PROBLEM_SECONDS = 1.0, 60.0
ZONES, SAMPLES = 100, 366 * 4  # the most used zones, sampled every six hours of a year
# These sessions prove that a process runs. Its other sessions do not: a pooler keeps them, and their names, when the
# process is gone.
WORKER_LISTENER, RELAY_LISTENER = "shoptalk worker listener", "shoptalk relay listener"
SET_DIRECT_URL = "set SHOPTALK_DIRECT_URL, for every process, to the server itself (its own port, often 5432)"


def settings(context: CheckContext) -> Iterator[Finding]:
    """The processes start with the settings of this environment."""
    try:
        found = Settings.from_environment(context.environ)
        formatter()  # reads SHOPTALK_LOG
    except BadSetting as error:
        yield problem(str(error), "see docs/settings.md; no process starts with this setting")
        return
    if found.is_exposed and not found.api_keys and context.has_schema and not _has_live_key(context):
        yield problem(
            f"HOST={found.host} lets other machines in, and there is no API key: web does not start",
            "shoptalk keys make shop, or set SHOPTALK_API_KEYS, or leave HOST at 127.0.0.1",
        )
    else:
        yield ok("all settings are valid")


def _has_live_key(context: CheckContext) -> bool:
    return any(row["revoked_at"] is None for row in context.rows(query("shared/list_keys")))


def pooler(context: CheckContext) -> Iterator[Finding]:
    """There is a direct connection, and the pooler leads to the same database."""
    is_direct = _direct_keeps_session(context)
    if context.direct_url == context.url:
        if is_direct:
            yield ok("DATABASE_URL keeps its session: no pooler in transaction mode")
        else:
            yield problem(
                "DATABASE_URL goes through a pooler in transaction mode, and SHOPTALK_DIRECT_URL is not a direct"
                " connection: notifications and session locks are lost, and statements fail because the prepared"
                " statement does not exist",
                SET_DIRECT_URL,
            )
        return
    if not is_direct:
        yield problem("SHOPTALK_DIRECT_URL itself goes through a pooler in transaction mode", SET_DIRECT_URL)
    try:
        yield from _check_database_url(context)
    except psycopg.OperationalError as error:
        yield problem(f"DATABASE_URL cannot be used: {error}", "start the pooler, or fix DATABASE_URL")


def _check_database_url(context: CheckContext) -> Iterator[Finding]:
    """DATABASE_URL, compared with the direct connection."""
    identity = "select pg_postmaster_start_time(), current_database()"
    limits = "select current_setting('statement_timeout'), current_setting('lock_timeout')"
    pooled = context.connect(context.url)
    direct = context.connect(context.direct_url)
    if pooled.execute(identity).fetchone() != direct.execute(identity).fetchone():
        yield problem(
            "DATABASE_URL and SHOPTALK_DIRECT_URL lead to different servers or databases",
            "set both to the same database",
        )
    elif keeps_session(context, context.url):
        yield ok("SHOPTALK_DIRECT_URL and DATABASE_URL both keep their session: no pooler in transaction mode")
    elif "0" in (pooled.execute(limits).fetchone() or ()):
        yield warning(
            "DATABASE_URL leads to a pooler whose sessions have no statement_timeout or no lock_timeout",
            "use connect_query of deploy/pgbouncer.ini, or: alter role … set statement_timeout = '15s'; …",
        )
    elif context.keeps_session:
        yield ok("DATABASE_URL leads to a pooler in transaction mode, SHOPTALK_DIRECT_URL to the server itself")


def _direct_keeps_session(context: CheckContext) -> bool:
    if context.keeps_session is None:
        context.keeps_session = keeps_session(context, context.direct_url)
    return context.keeps_session


def keeps_session(context: CheckContext, url: str) -> bool:
    """Whether each of two connections keeps a server process of its own. The test sets nothing in the sessions."""
    first, second = context.connect(url), context.connect(url)
    try:
        seen = [(_backend(first), _backend(second)) for _ in range(4)]
    finally:
        first.close()
        second.close()
    first_pids, second_pids = {pid for pid, _ in seen}, {pid for _, pid in seen}
    return len(first_pids) == len(second_pids) == 1 and first_pids != second_pids


def _backend(connection: psycopg.Connection[tuple[Any, ...]]) -> Any:
    row = connection.execute("select pg_backend_pid()").fetchone()
    return row and row[0]


def listeners(context: CheckContext) -> Iterator[Finding]:
    """A notification arrives, and the processes that depend on notifications listen."""
    if _direct_keeps_session(context):
        yield _round_trip(context)
    else:
        yield problem("a LISTEN does not last on this connection: not tested", SET_DIRECT_URL)
    running = count_sessions(context)
    for process, listener, meanwhile in (
        ("worker", WORKER_LISTENER, "chats wait for its next poll"),
        ("relay", RELAY_LISTENER, "channels wait for its next poll"),
    ):
        if context.direct_url == context.url and f"shoptalk {process}" in running and listener not in running:
            yield warning(f"a {process} runs, but none listens (it does when it is idle): {meanwhile}",
                          "check again when it is idle; if this persists, see its log for listener_lost")  # fmt: skip
    if context.environ.get("FANOUT") == "amqp" and "shoptalk fanout" not in running:
        yield problem("FANOUT=amqp, but no relay publishes to the web nodes", "start a relay with FANOUT and AMQP_URL")
    names = {WORKER_LISTENER: "worker", "shoptalk feed": "web", RELAY_LISTENER: "relay"}
    listening = [process for name, process in names.items() if name in running]
    yield ok(f"listening now: {format_value(listening)} (web only while it has streams)")


def count_sessions(context: CheckContext) -> dict[str, int]:
    """The number of our sessions by application name."""
    return {row["name"]: row["sessions"] for row in context.rows(query("doctor/find_sessions"))}


def _round_trip(context: CheckContext) -> Finding:
    """Notifies through DATABASE_URL and listens on the direct connection, on a NOTIFY channel for doctor alone."""
    listener, sender = context.connect(context.direct_url), context.connect(context.url)
    listener.execute("listen shoptalk_doctor")
    token, began = secrets.token_hex(8), time.monotonic()
    sender.execute("select pg_notify('shoptalk_doctor', %s)", [token])
    while (left := began + ROUND_TRIP_SECONDS - time.monotonic()) > 0:
        for notice in listener.notifies(timeout=left, stop_after=1):
            if notice.payload == token:
                return _grade_round_trip(time.monotonic() - began)
    return problem(f"a notification did not arrive within {ROUND_TRIP_SECONDS} s", SET_DIRECT_URL)


def _grade_round_trip(seconds: float) -> Finding:
    text = f"a notification took {seconds * 1000:.1f} ms"
    if seconds > SLOW_SECONDS:
        return warning(text, "check the server's load; chats are pushed that much later")
    return ok(text)


def clock(context: CheckContext) -> Iterator[Finding]:
    """shoptalk.now is not set, and this machine's clock agrees with the database's."""
    apart, tolerance, found = min((_compare_clocks(context) for _ in range(3)), key=lambda seen: seen[1])
    if found["stopped_at"]:
        yield problem(f"shoptalk.now is set: for the opening hours and the queue it is always {found['stopped_at']}",
                      found["fix"])  # fmt: skip
    text = f"the database's clock is {abs(apart):.2f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    fix = "synchronize both machines by NTP (chronyc tracking, timedatectl)"
    if abs(apart) - tolerance > CLOCK_PROBLEM_SECONDS:
        yield problem(f"{text}: tokens and webhook signatures are rejected", fix)
    elif abs(apart) - tolerance > CLOCK_WARNING_SECONDS:
        yield warning(text, fix)
    else:
        yield ok(f"this machine and the database agree to {max(abs(apart), tolerance):.2f} s")


def _compare_clocks(context: CheckContext) -> tuple[float, float, dict[str, Any]]:
    """How many seconds the database is ahead, the error of that measurement, and the row it comes from."""
    began = time.time()
    found = context.one(query("doctor/clock_skew"))
    ended = time.time()
    return found["clock"].timestamp() - (began + ended) / 2, abs(ended - began) / 2, found


def zones(context: CheckContext) -> Iterator[Finding]:
    """For a year, the server and this machine have the same rules for the time zones in use."""
    unknown_zones = {row["timezone"] for row in context.rows(query("doctor/unknown_zones"))}
    differ = bool(unknown_zones)
    for name in sorted(unknown_zones):
        yield problem(f"the server has no time zone named {name}; it computes with it as a POSIX specification",
                      "PUT /v1/stores/<id>/hours with a time zone of pg_timezone_names")  # fmt: skip
    found: dict[str, list[tuple[dt.datetime, int]]] = {}
    for row in context.rows(query("doctor/zone_changes"), zones=ZONES, samples=SAMPLES):
        found.setdefault(row["timezone"], []).append((row["at"], row["offset_seconds"]))
    for name, theirs in found.items():
        if name in unknown_zones:
            continue
        try:
            ours = _changes(name, theirs[0][0])
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            differ = True
            yield warning(f"this machine has no time zone named {name}", "pip install -U tzdata")
            continue
        if ours != theirs:
            differ = True
            yield _zone_problem(name, ours, theirs)
    if not differ:
        yield ok(f"{len(found)} in use; the offsets here and on the server agree for a year")


def _changes(name: str, begin: dt.datetime) -> list[tuple[dt.datetime, int]]:
    """The zone's offsets by this machine's data, in the form of zone_changes.sql."""
    zone, changes = zoneinfo.ZoneInfo(name), list[tuple[dt.datetime, int]]()
    for sample in range(SAMPLES):
        at = begin + sample * dt.timedelta(hours=6)
        offset = int((at.astimezone(zone).utcoffset() or dt.timedelta()).total_seconds())
        if not changes or changes[-1][1] != offset:
            changes.append((at, offset))
    return changes


def _zone_problem(name: str, ours: list[tuple[dt.datetime, int]], theirs: list[tuple[dt.datetime, int]]) -> Finding:
    at = min(set(ours) ^ set(theirs))[0]
    here, there = (max(step for step in steps if step[0] <= at)[1] / 3600 for steps in (ours, theirs))
    return problem(
        f"{name} from {at:%Y-%m-%d}: UTC{there:+g} h on the server, UTC{here:+g} h here; stores open by the server's",
        "update the older one: the server's tzdata (or PostgreSQL's minor version), or here: pip install -U tzdata",
    )
