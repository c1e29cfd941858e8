"""Checks of the server: its version, held-back vacuum, locks, indexes, settings, and resources that run out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cli.examination import CheckContext, Finding, grade, ok, problem, unknown, warning
from cli.output import format_value, pluralize
from sql.database import query
from sql.install import OLDEST_SERVER, VERSION, file_digests

HELD_WARNING_SECONDS, HELD_PROBLEM_SECONDS = 60, 600
HELD_TRANSACTIONS = 100_000  # instead of the seconds, for holders whose start is not known
LOCK_SECONDS = 5
DEAD_WARNING, DEAD_PROBLEM = 10, 100  # multiples of the dead rows at which autovacuum should start
NOTIFICATIONS_WARNING, NOTIFICATIONS_PROBLEM = 0.1, 0.5
CONNECTIONS_WARNING, CONNECTIONS_PROBLEM = 0.8, 0.95
AGE_WARNING, AGE_PROBLEM = 500_000_000, 1_200_000_000


def server(context: CheckContext) -> Iterator[Finding]:
    """The server's version is supported, it accepts writes, and it has our schema."""
    found = context.one(query("doctor/server_info"))
    context.has_schema, context.sees_all, context.account = found["has_schema"], found["sees_all"], found["account"]
    schema = context.one(query("doctor/schema_version")) if context.has_schema else {"version": None}
    version = schema["version"]
    if found["version_number"] < OLDEST_SERVER:
        yield problem(f"this is PostgreSQL {found['version']}", "PostgreSQL 15 or newer is required")
    if version is None:
        yield problem("the database has no Shoptalk schema", "check DATABASE_URL; if it is right: python -m sql")
    elif version != VERSION:
        yield _other_version(version)
    elif schema["functions"] not in (None, file_digests()):
        yield warning("the database has other functions than this program", "shoptalk migrate")
    if found["is_standby"]:
        yield problem("this server is a standby: nothing can be written", "set DATABASE_URL to the primary")
    elif found["is_read_only"]:
        yield problem("transactions are read-only by default", "alter system reset default_transaction_read_only")
    yield ok(f"PostgreSQL {found['version']}, schema version {format_value(version)}")


def _other_version(version: int) -> Finding:
    text = f"the database has schema version {version}, this program expects {VERSION}"
    if version < VERSION:
        return problem(text, "shoptalk migrate")
    newer = "run the newer release that this schema belongs to"
    if version == VERSION + 1:
        return warning(f"{text} and also works with the next one", newer)
    return problem(text, newer)


def snapshots(context: CheckContext) -> Iterator[Finding]:
    """Nothing keeps dead rows from being vacuumed."""
    holders = context.rows(query("doctor/find_snapshots"))
    found = [finding for holder in holders if (finding := _grade_holder(holder))]
    yield from found
    oldest = f"; the oldest: {_describe_holder(holders[0])}" if holders else ""
    if holders and not found and not context.sees_all:
        yield _not_visible(context, f"for how long other accounts hold back vacuum is not visible to you{oldest}")
    elif not found:
        yield ok(f"nothing holds back vacuum for long{oldest}")


def _not_visible(context: CheckContext, text: str) -> Finding:
    return unknown(text, f"grant pg_read_all_stats to {context.account}")


def _grade_holder(holder: dict[str, Any]) -> Finding | None:
    """The finding about one holder of a snapshot; None if it is harmless."""
    text = f"vacuum is held back by {_describe_holder(holder)}"
    if holder["kind"] == "standby":
        fix = "end the long query on the standby, or there: alter system set hot_standby_feedback = off"
        return warning(text, fix) if holder["age"] > HELD_TRANSACTIONS else None
    if holder["kind"] == "replication slot" and holder["state"] == "inactive":
        if holder["age"] is None:
            text = f"WAL is kept for {_describe_holder(holder)}, which has no reader: it fills the disk"
        return problem(text, holder["fix"])
    if holder["seconds"] is None:
        return warning(text, holder["fix"]) if holder["age"] > HELD_TRANSACTIONS else None
    if holder["seconds"] > HELD_PROBLEM_SECONDS:
        return problem(text, holder["fix"])
    return warning(text, holder["fix"]) if holder["seconds"] > HELD_WARNING_SECONDS else None


def _describe_holder(holder: dict[str, Any]) -> str:
    """The holder of a snapshot or a lock: `session 4711 psql, idle in transaction, since …`."""
    pid = f" {holder['pid']}" if holder["pid"] else ""
    name = f" {holder['name']}" if holder["name"] else ""
    state = f", {holder['state']}" if holder["state"] else ""
    since = f", since {format_value(holder['since'])}" if holder["since"] else ""
    age = f", {pluralize(holder['age'], 'transaction')} ago" if holder.get("age") else ""
    return f"{holder.get('kind', 'session')}{pid}{name}{state}{since}{age}"


def locks(context: CheckContext) -> Iterator[Finding]:
    """No session waits long for another one's lock."""
    holders = context.rows(query("doctor/find_lock_holders"), seconds=LOCK_SECONDS)
    for holder in holders:
        tables = f" on {holder['tables']}" if holder["tables"] else ""
        text = f"{_describe_holder(holder)} has held locks{tables} for more than {LOCK_SECONDS} s"
        if holder["waiting"]:
            yield problem(f"{text}, and blocks {pluralize(holder['waiting'], 'session')}", holder["fix"])
        else:
            yield warning(text, holder["fix"])
    if not context.sees_all:
        yield _not_visible(
            context, "for how long other accounts hold locks is not visible to you, only sessions that block others"
        )
    elif not holders:
        yield ok(f"no session waits for a lock for more than {LOCK_SECONDS} s")


def dead_rows(context: CheckContext) -> Iterator[Finding]:
    """Autovacuum is on for our tables, and keeps up."""
    tables = context.rows(query("doctor/find_dead_rows"))
    found = []
    if tables and not tables[0]["autovacuum"]:
        fix = "alter system reset autovacuum; alter system reset track_counts; select pg_reload_conf()"
        found.append(problem("autovacuum or track_counts is off for the whole server", fix))
    for table in tables:
        name, dead = table["name"], pluralize(table["dead"], "dead row")
        text = f"{name} has {dead}, last vacuumed {format_value(table['vacuumed_at'])}"
        fix = f"vacuum {name}; has no effect while the check snapshots has a finding"
        if not table["is_vacuumed"]:
            fix = f"alter table {name} reset (autovacuum_enabled)"
            found.append(problem(f"autovacuum is off for {name}, which has {dead}", fix))
        elif table["dead"] > DEAD_PROBLEM * table["due"]:
            found.append(problem(text, fix))
        elif table["dead"] > DEAD_WARNING * table["due"]:
            found.append(warning(text, fix))
    queue = next((table for table in tables if table["name"].endswith("chat_queue")), None)
    if queue and not found:
        dead, vacuumed = pluralize(queue["dead"], "dead row"), format_value(queue["vacuumed_at"])
        found.append(ok(f"chat_queue has {dead}, last vacuumed {vacuumed}; no table has too many"))
    yield from found


def indexes(context: CheckContext) -> Iterator[Finding]:
    """No index of ours is invalid."""
    found = context.rows(query("doctor/find_invalid_indexes"))
    for index in found:
        yield problem(f"{index['name']} on {index['table_name']} is invalid: building it failed", index["fix"])
    if not found:
        yield ok("all indexes are valid")


def notifications(context: CheckContext) -> Iterator[Finding]:
    """The notification queue does not fill up."""
    used = context.value(query("doctor/notification_queue"))
    text = f"the notification queue is {used:.0%} full"
    fix = "end the session that listens inside an open transaction: see the check snapshots"
    consequence = "; when it is full, no chat is accepted"
    yield grade(used, NOTIFICATIONS_WARNING, NOTIFICATIONS_PROBLEM, text, fix, consequence)


def durability(context: CheckContext) -> Iterator[Finding]:
    """No setting puts acknowledged chats at risk in a crash."""
    found = context.rows(query("doctor/risky_settings"))
    for row in found:
        text = f"{row['name']} is {row['value']}" + (f" for {row['whose']}" if row["whose"] else "")
        if row["name"] == "idle_session_timeout":
            yield warning(f"{text}: it ends listening sessions", row["fix"])
        else:
            yield problem(f"{text}: a crash can lose or corrupt acknowledged chats", row["fix"])
    if not found:
        yield ok("fsync, full_page_writes and synchronous_commit are on")


def connections(context: CheckContext) -> Iterator[Finding]:
    """There are free connections."""
    found = context.one(query("doctor/connections_used"))
    text = f"{found['used']} of {found['available']} connections are in use"
    fix = "use a pooler (docs/deploy.md) or fewer web processes, or raise max_connections"
    yield grade(found["used"] / found["available"], CONNECTIONS_WARNING, CONNECTIONS_PROBLEM, text, fix)


def wraparound(context: CheckContext) -> Iterator[Finding]:
    """Transaction ids are frozen long before they run out."""
    found = context.one(query("doctor/transaction_age"))
    text = f"the oldest transaction id, in database {found['name']}, is {pluralize(found['age'], 'transaction')} old"
    fix = found["fix"] or f"in database {found['name']}: vacuum (freeze)"
    fix += "; first fix the findings of the check snapshots"
    consequence = "; at 2,000 million the server refuses to write"
    yield grade(found["age"], AGE_WARNING, AGE_PROBLEM, text, fix, consequence)
