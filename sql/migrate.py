"""Brings an older schema up to date: the files of `migrations/`, in order, each in one transaction.

0001 is the schema as it was when it got a number; schema.sql is what all of them together make. A file ends with
`update schema_version`, so psql runs it as well: `psql -1 -f sql/migrations/0002_….sql`.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from sql.backoff import backoff_seconds
from sql.database import connect
from sql.log import Log
from sql.schema import INSTALL_LOCK, WrongSchema, installed_version, prepare

log = Log("schema")

# Whoever waits for a table's lock has all behind it that come after: so never for long, and then later once more.
LOCK_TIMEOUT = "2s"
TRIES = 20
BACKOFF_SECONDS = (0.5, 15.0)  # the first and the longest wait, doubling
OTHERS_SECONDS = 600.0  # how long to wait for another one that migrates
OTHERS_POLL_SECONDS = 0.2
# What a migration makes goes where the rest is, though the path may begin with a schema that was made since ("$user").
INTO_THE_INSTALLED_SCHEMA = """
    select set_config('search_path', quote_ident(n.nspname), true)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = to_regclass('schema_version')
"""
BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


@dataclass(frozen=True)
class Migration:
    """One step, from the version before to its own."""

    version: int
    name: str  # as the file's, without .sql
    sql: str


def migrations() -> list[Migration]:
    """All that there are, from the first."""
    folder = importlib.resources.files("sql").joinpath("migrations")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [Migration(int(file.name[:4]), file.name[:-4], file.read_text("utf-8")) for file in files]


def pending(database_url: str, known: Sequence[Migration]) -> list[Migration]:
    """What migrate() would run now. Raises WrongSchema where there is no schema."""
    with connect(database_url, "shoptalk migrate") as connection:
        return _after(connection, known)


def migrate(database_url: str, known: Sequence[Migration]) -> list[Migration]:
    """Runs what is not yet in the database, and answers it; installs schema.sql into an empty one.

    Any number may call it at once. Killed, it leaves the version that it had come to. Raises WrongSchema, and
    psycopg.errors.LockNotAvailable where a table was busy in each of its tries.
    """
    prepare(database_url, oldest=0)
    with connect(database_url, "shoptalk migrate") as connection, _alone(connection):
        todo = _after(connection, known)
        for migration in todo:
            _run_patiently(connection, migration)
    return todo


def _after(connection: psycopg.Connection[tuple[object, ...]], known: Sequence[Migration]) -> list[Migration]:
    version = installed_version(connection)
    if version is None:
        raise WrongSchema("the database has no schema yet: run `shoptalk migrate` without --dry-run")
    return [migration for migration in known if migration.version > version]


@contextlib.contextmanager
def _alone(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    """Holds the installation's lock. Asked for again and again: a session that waits for it keeps a snapshot."""
    with contextlib.suppress(psycopg.errors.InvalidParameterValue):  # not on every system
        connection.execute("set client_connection_check_interval = '1s'")  # if we are killed, the server gives up too
    deadline = time.monotonic() + OTHERS_SECONDS
    while connection.execute("select pg_try_advisory_lock(%s)", [INSTALL_LOCK]).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise WrongSchema("somebody else has been migrating for long: see pg_stat_activity, and try again")
        time.sleep(OTHERS_POLL_SECONDS)
    yield  # the lock ends with the session


def _run_patiently(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    for failed in range(TRIES):
        try:
            _run(connection, migration)
            break
        except BUSY as error:
            if failed == TRIES - 1:
                raise
            seconds = backoff_seconds(failed, *BACKOFF_SECONDS)
            log("migration_put_off", name=migration.name, seconds=seconds, reason=error)
            time.sleep(seconds)
    log("migrated", version=migration.version, name=migration.name)


def _run(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    with connection.transaction():
        connection.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        connection.execute(INTO_THE_INSTALLED_SCHEMA)
        connection.execute(migration.sql.encode())
        if installed_version(connection) != migration.version:
            raise WrongSchema(f"{migration.name} does not say its version")
