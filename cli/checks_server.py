"""Checks of the server: its version, what holds vacuum back, locks, indexes, settings, and what runs out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cli.examination import Finding, Look, graded, ok, problem, unknown, warning
from cli.output import counted, said
from sql.database import query
from sql.schema import OLDEST_SERVER, VERSION

HELD_WARNING_SECONDS, HELD_PROBLEM_SECONDS = 60, 600
HELD_TRANSACTIONS = 100_000  # where nobody says since when: so many transactions ago
LOCK_SECONDS = 5
DEAD_WARNING, DEAD_PROBLEM = 10, 100  # times as many dead rows as autovacuum should have come at
NOTIFICATIONS_WARNING, NOTIFICATIONS_PROBLEM = 0.1, 0.5
CONNECTIONS_WARNING, CONNECTIONS_PROBLEM = 0.8, 0.95
AGE_WARNING, AGE_PROBLEM = 500_000_000, 1_200_000_000


def server(look: Look) -> Iterator[Finding]:
    """A server that we run on, with our schema, that can be written to."""
    found = look.one(query("look_at_server"))
    look.has_schema, look.sees_all, look.account = found["has_schema"], found["sees_all"], found["account"]
    version = look.value(query("schema_version")) if look.has_schema else None
    if found["version_number"] < OLDEST_SERVER:
        yield problem(f"this is PostgreSQL {found['version']}", "15 or newer is needed")
    if version is None:
        yield problem("the database has no schema of ours", "is DATABASE_URL the right one? Then: python -m sql")
    elif version != VERSION:
        yield _other_version(version)
    if found["is_standby"]:
        yield problem("this is a standby: nothing can be written", "let DATABASE_URL lead to the primary")
    elif found["is_read_only"]:
        yield problem("transactions are read only here", "alter system reset default_transaction_read_only")
    yield ok(f"PostgreSQL {found['version']}, schema version {said(version)}")


def _other_version(version: int) -> Finding:
    text = f"the database has schema version {version}, this program knows {VERSION}"
    if version < VERSION:
        return problem(text, "shoptalk migrate")
    newer = "run the newer release that the schema is of"
    if version == VERSION + 1:
        return warning(f"{text} and works with the next one too", newer)
    return problem(text, newer)


def snapshots(look: Look) -> Iterator[Finding]:
    """Nobody keeps dead rows from being vacuumed away."""
    holders = look.rows(query("find_snapshots"))
    found = [finding for holder in holders if (finding := _held_back_by(holder))]
    yield from found
    oldest = f"; the oldest: {_who(holders[0])}" if holders else ""
    if holders and not found and not look.sees_all:
        yield _not_shown(look, f"since when others hold vacuum back is not shown to you{oldest}")
    elif not found:
        yield ok(f"vacuum is held back by nobody for long{oldest}")


def _not_shown(look: Look, text: str) -> Finding:
    return unknown(text, f"grant pg_read_all_stats to {look.account}")


def _held_back_by(holder: dict[str, Any]) -> Finding | None:
    """What there is to say of one who holds vacuum back."""
    text = f"vacuum is held back by {_who(holder)}"
    if holder["kind"] == "standby":
        mend = "end the long query on the standby, or there: alter system set hot_standby_feedback = off"
        return warning(text, mend) if holder["age"] > HELD_TRANSACTIONS else None
    if holder["kind"] == "replication slot" and holder["state"] == "inactive":
        if holder["age"] is None:
            text = f"WAL is kept for {_who(holder)}, which nobody reads: it fills the disk"
        return problem(text, holder["mend"])
    if holder["seconds"] is None:
        return warning(text, holder["mend"]) if holder["age"] > HELD_TRANSACTIONS else None
    if holder["seconds"] > HELD_PROBLEM_SECONDS:
        return problem(text, holder["mend"])
    return warning(text, holder["mend"]) if holder["seconds"] > HELD_WARNING_SECONDS else None


def _who(holder: dict[str, Any]) -> str:
    pid = f" {holder['pid']}" if holder["pid"] else ""
    name = f" {holder['name']}" if holder["name"] else ""
    state = f", {holder['state']}" if holder["state"] else ""
    since = f", since {said(holder['since'])}" if holder["since"] else ""
    age = f", {counted(holder['age'], 'transaction')} ago" if holder.get("age") else ""
    return f"{holder.get('kind', 'session')}{pid}{name}{state}{since}{age}"


def locks(look: Look) -> Iterator[Finding]:
    """Nobody waits for somebody's lock for long."""
    holders = look.rows(query("find_lock_holders"), seconds=LOCK_SECONDS)
    for holder in holders:
        tables = f" on {holder['tables']}" if holder["tables"] else ""
        text = f"{_who(holder)} has held locks{tables} for more than {LOCK_SECONDS} s"
        if holder["waiting"]:
            yield problem(f"{text}, and {counted(holder['waiting'], 'session')} waits or wait for it", holder["mend"])
        else:
            yield warning(text, holder["mend"])
    if not look.sees_all:
        yield _not_shown(look, "since when others hold locks is not shown to you, only who has long been waited for")
    elif not holders:
        yield ok(f"nobody waits for a lock for more than {LOCK_SECONDS} s")


def dead_rows(look: Look) -> Iterator[Finding]:
    """Autovacuum comes to our tables, and in time."""
    tables = look.rows(query("find_dead_rows"))
    found = []
    if tables and not tables[0]["autovacuum"]:
        mend = "alter system reset autovacuum; alter system reset track_counts; select pg_reload_conf()"
        found.append(problem("autovacuum or track_counts is off for the whole server", mend))
    for table in tables:
        name, dead = table["name"], counted(table["dead"], "dead row")
        text = f"{name} has {dead}, last vacuumed {said(table['vacuumed_at'])}"
        mend = f"vacuum {name}; in vain while the check snapshots has a finding"
        if not table["is_vacuumed"]:
            mend = f"alter table {name} reset (autovacuum_enabled)"
            found.append(problem(f"autovacuum is off for {name}, which has {dead}", mend))
        elif table["dead"] > DEAD_PROBLEM * table["due"]:
            found.append(problem(text, mend))
        elif table["dead"] > DEAD_WARNING * table["due"]:
            found.append(warning(text, mend))
    queue = next((table for table in tables if table["name"].endswith("chat_queue")), None)
    if queue and not found:
        dead = counted(queue["dead"], "dead row")
        found.append(ok(f"chat_queue has {dead}, last vacuumed {said(queue['vacuumed_at'])}; no table has too many"))
    yield from found


def indexes(look: Look) -> Iterator[Finding]:
    """No index of ours was left half built."""
    found = look.rows(query("find_invalid_indexes"))
    for index in found:
        yield problem(f"{index['name']} on {index['table_name']} is invalid: its building has failed", index["mend"])
    if not found:
        yield ok("all are valid")


def notifications(look: Look) -> Iterator[Finding]:
    """The queue of notifications is not filling."""
    used = look.value(query("notification_queue"))
    text = f"the queue of notifications is {used:.0%} full"
    mend = "end the session that listens inside an open transaction: see the check snapshots"
    then = "; when it is full, nothing is accepted any more"
    yield graded(used, NOTIFICATIONS_WARNING, NOTIFICATIONS_PROBLEM, text, mend, then)


def durability(look: Look) -> Iterator[Finding]:
    """Nothing is set that loses or spoils what was acknowledged."""
    found = look.rows(query("risky_settings"))
    for row in found:
        text = f"{row['name']} is {row['value']}" + (f" for {row['whose']}" if row["whose"] else "")
        if row["name"] == "idle_session_timeout":
            yield warning(f"{text}: it ends sessions that listen", row["mend"])
        else:
            yield problem(f"{text}: a crash loses or spoils chats that were acknowledged", row["mend"])
    if not found:
        yield ok("fsync, full_page_writes and synchronous_commit are on")


def connections(look: Look) -> Iterator[Finding]:
    """There are connections left."""
    found = look.one(query("connections_used"))
    text = f"{found['used']} of {found['available']} connections are in use"
    mend = "put a pooler in front (docs/deploy.md), fewer web processes, or raise max_connections"
    yield graded(found["used"] / found["available"], CONNECTIONS_WARNING, CONNECTIONS_PROBLEM, text, mend)


def wraparound(look: Look) -> Iterator[Finding]:
    """Transaction ids are given back long before they run out."""
    found = look.one(query("transaction_age"))
    text = f"the oldest transaction id, in database {found['name']}, is {counted(found['age'], 'transaction')} old"
    mend = found["mend"] or f"in database {found['name']}: vacuum (freeze)"
    mend += "; first mend what the check snapshots says"
    then = "; at 2,000 million the server refuses to write"
    yield graded(found["age"], AGE_WARNING, AGE_PROBLEM, text, mend, then)
