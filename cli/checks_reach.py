"""Checks of the way to the database: settings, the pooler, the listeners, the clock and the zones."""

from __future__ import annotations

import datetime as dt
import secrets
import time
import zoneinfo
from collections.abc import Iterator
from typing import Any

import psycopg

from cli.examination import Finding, Look, ok, problem, warning
from cli.output import said
from sql.database import query
from sql.log import formatter
from sql.settings import BadSetting, Settings

ROUND_TRIP_SECONDS = 1.5  # a notification that takes longer is lost
SLOW_SECONDS = 0.5
CLOCK_WARNING_SECONDS, CLOCK_PROBLEM_SECONDS = 1.0, 60.0
ZONES, SAMPLES = 100, 366 * 4  # the most used zones, at every six hours of a year
# By these a process is known to run: a pooler keeps its other sessions, and their names, when it is gone.
WORKERS_EAR, RELAYS_EAR = "shoptalk worker bell", "shoptalk relay ear"
PAST_THE_POOLER = "set SHOPTALK_LISTEN_URL, for every process, to the server itself (its own port, often 5432)"


def settings(look: Look) -> Iterator[Finding]:
    """The environment's settings are such that a process would start."""
    try:
        found = Settings.from_environment(look.environ)
        formatter()  # reads SHOPTALK_LOG
    except BadSetting as error:
        yield problem(str(error), "set it as the README says; no process starts with it")
        return
    if found.is_exposed and not found.api_keys and look.has_schema and not _has_live_key(look):
        yield problem(
            f"HOST={found.host} lets other machines in, and there is no key to ask them for: web does not start",
            "shoptalk keys make shop, or set SHOPTALK_API_KEYS, or leave HOST at 127.0.0.1",
        )
    else:
        yield ok("as the processes want them")


def _has_live_key(look: Look) -> bool:
    return any(row["revoked_at"] is None for row in look.rows(query("list_keys")))


def pooler(look: Look) -> Iterator[Finding]:
    """What needs a session of its own has one, and what goes through a pooler reaches the same database."""
    kept = _direct_keeps(look)
    if look.direct_url == look.url:
        if kept:
            yield ok("DATABASE_URL keeps its session: no pooler in transaction mode")
        else:
            yield problem(
                "DATABASE_URL leads to a pooler in transaction mode, and SHOPTALK_LISTEN_URL not past it: notifications"
                " and session locks are lost, and statements fail for prepared ones that do not exist",
                PAST_THE_POOLER,
            )
        return
    if not kept:
        yield problem("SHOPTALK_LISTEN_URL leads to a pooler in transaction mode itself", PAST_THE_POOLER)
    try:
        yield from _statements(look)
    except psycopg.OperationalError as error:
        yield problem(f"DATABASE_URL cannot be used: {error}", "start the pooler, or mend DATABASE_URL")


def _statements(look: Look) -> Iterator[Finding]:
    """DATABASE_URL, where SHOPTALK_LISTEN_URL leads past it."""
    place = "select pg_postmaster_start_time(), current_database()"
    limits = "select current_setting('statement_timeout'), current_setting('lock_timeout')"
    pooled = look.connect(look.url)
    direct = look.connect(look.direct_url)
    if pooled.execute(place).fetchone() != direct.execute(place).fetchone():
        yield problem(
            "DATABASE_URL and SHOPTALK_LISTEN_URL lead to different servers or databases", "let both lead to the same"
        )
    elif keeps_session(look, look.url):
        yield ok("SHOPTALK_LISTEN_URL keeps its session, and so does DATABASE_URL: no pooler in transaction mode")
    elif "0" in (pooled.execute(limits).fetchone() or ()):
        yield warning(
            "DATABASE_URL leads to a pooler whose sessions have no statement_timeout or no lock_timeout",
            "take connect_query of deploy/pgbouncer.ini, or: alter role … set statement_timeout = '15s'; …",
        )
    elif look.keeps_session:
        yield ok("DATABASE_URL leads to a pooler in transaction mode, SHOPTALK_LISTEN_URL past it")


def _direct_keeps(look: Look) -> bool:
    if look.keeps_session is None:
        look.keeps_session = keeps_session(look, look.direct_url)
    return look.keeps_session


def keeps_session(look: Look, url: str) -> bool:
    """Whether each of two connections has a server process that is its own and stays. Nothing is set to find out."""
    first, second = look.connect(url), look.connect(url)
    try:
        seen = [(_backend(first), _backend(second)) for _ in range(4)]
    finally:
        first.close()
        second.close()
    mine, others = {pid for pid, _ in seen}, {pid for _, pid in seen}
    return len(mine) == len(others) == 1 and mine != others


def _backend(connection: psycopg.Connection[tuple[Any, ...]]) -> Any:
    row = connection.execute("select pg_backend_pid()").fetchone()
    return row and row[0]


def listeners(look: Look) -> Iterator[Finding]:
    """A notification gets through, and the processes that live by them listen."""
    if _direct_keeps(look):
        yield _round_trip(look)
    else:
        yield problem("a LISTEN does not last here: not tried", PAST_THE_POOLER)
    running = sessions(look)
    for process, ear, meanwhile in (
        ("worker", WORKERS_EAR, "chats are sent by the poll, late"),
        ("relay", RELAYS_EAR, "channels are looked at by the poll, late"),
    ):
        if look.direct_url == look.url and f"shoptalk {process}" in running and ear not in running:
            yield warning(f"a {process} runs, but none listens (it does when it is idle): {meanwhile}",
                          "look again when it is idle; otherwise see its log for listener_lost")  # fmt: skip
    if look.environ.get("FANOUT") == "amqp" and "shoptalk fanout" not in running:
        yield problem("FANOUT=amqp, but no relay publishes to the web nodes", "start a relay with FANOUT and AMQP_URL")
    names = {WORKERS_EAR: "worker", "shoptalk feed": "web", RELAYS_EAR: "relay"}
    listening = [process for name, process in names.items() if name in running]
    yield ok(f"listening now: {said(listening)} (web only while it has streams)")


def sessions(look: Look) -> dict[str, int]:
    """How many sessions of each name there are of ours."""
    return {row["name"]: row["sessions"] for row in look.rows(query("find_sessions"))}


def _round_trip(look: Look) -> Finding:
    """From DATABASE_URL to a listener past the pooler, on a channel that nobody else listens to."""
    ear, mouth = look.connect(look.direct_url), look.connect(look.url)
    ear.execute("listen shoptalk_doctor")
    mine, began = secrets.token_hex(8), time.monotonic()
    mouth.execute("select pg_notify('shoptalk_doctor', %s)", [mine])
    while (left := began + ROUND_TRIP_SECONDS - time.monotonic()) > 0:
        for notice in ear.notifies(timeout=left, stop_after=1):
            if notice.payload == mine:
                return _timed(time.monotonic() - began)
    return problem(f"a notification did not arrive within {ROUND_TRIP_SECONDS} s", PAST_THE_POOLER)


def _timed(seconds: float) -> Finding:
    text = f"a notification took {seconds * 1000:.1f} ms"
    if seconds > SLOW_SECONDS:
        return warning(text, "see the server's load; chats are pushed that much later")
    return ok(text)


def clock(look: Look) -> Iterator[Finding]:
    """The rules' clock runs, and this machine's agrees with the database's."""
    apart, width, found = min((_compare(look) for _ in range(3)), key=lambda seen: seen[1])
    if found["stopped_at"]:
        yield problem(f"shoptalk.now is set: the hours and the queue believe that it is {found['stopped_at']}",
                      found["mend"])  # fmt: skip
    text = f"the database's clock is {abs(apart):.2f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    mend = "let both machines keep time by NTP (chronyc tracking, timedatectl)"
    if abs(apart) - width > CLOCK_PROBLEM_SECONDS:
        yield problem(f"{text}: tokens and webhooks' signatures are refused", mend)
    elif abs(apart) - width > CLOCK_WARNING_SECONDS:
        yield warning(text, mend)
    else:
        yield ok(f"this machine's and the database's agree to {max(abs(apart), width):.2f} s")


def _compare(look: Look) -> tuple[float, float, dict[str, Any]]:
    """How far the database is ahead, how far that may be wrong, and what it said."""
    began = time.time()
    found = look.one(query("look_at_clock"))
    ended = time.time()
    return found["clock"].timestamp() - (began + ended) / 2, abs(ended - began) / 2, found


def zones(look: Look) -> Iterator[Finding]:
    """The server and this machine have the same rules for the zones in use, for a year."""
    strange = {row["timezone"] for row in look.rows(query("unknown_zones"))}
    bad = bool(strange)
    for name in sorted(strange):
        yield problem(f"the server knows no zone {name}, only how to reckon with it",
                      "give the store a zone of pg_timezone_names by PUT /v1/stores/<id>/hours")  # fmt: skip
    found: dict[str, list[tuple[dt.datetime, int]]] = {}
    for row in look.rows(query("zone_changes"), zones=ZONES, samples=SAMPLES):
        found.setdefault(row["timezone"], []).append((row["at"], row["offset_seconds"]))
    for name, theirs in found.items():
        if name in strange:
            continue
        try:
            ours = _changes(name, theirs[0][0])
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            bad = True
            yield warning(f"this machine knows no zone {name}", "pip install -U tzdata")
            continue
        if ours != theirs:
            bad = True
            yield _differ(name, ours, theirs)
    if not bad:
        yield ok(f"{len(found)} in use, each with the same offsets here and on the server for a year")


def _changes(name: str, begin: dt.datetime) -> list[tuple[dt.datetime, int]]:
    """The zone's offsets by this machine's data, as zone_changes.sql has them."""
    zone, changes = zoneinfo.ZoneInfo(name), list[tuple[dt.datetime, int]]()
    for sample in range(SAMPLES):
        at = begin + sample * dt.timedelta(hours=6)
        offset = int((at.astimezone(zone).utcoffset() or dt.timedelta()).total_seconds())
        if not changes or changes[-1][1] != offset:
            changes.append((at, offset))
    return changes


def _differ(name: str, ours: list[tuple[dt.datetime, int]], theirs: list[tuple[dt.datetime, int]]) -> Finding:
    at = min(set(ours) ^ set(theirs))[0]
    here, there = (max(step for step in steps if step[0] <= at)[1] / 3600 for steps in (ours, theirs))
    return problem(
        f"{name} from {at:%Y-%m-%d}: UTC{there:+g} h on the server, UTC{here:+g} h here; stores open by the server's",
        "bring the older up to date: the server's tzdata (or PostgreSQL's minor version); here: pip install -U tzdata",
    )
