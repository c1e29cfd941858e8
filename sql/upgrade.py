"""Brings the schema of an existing database up to date: its tables by upgrades/, its functions by their files.

A change of a table is one file, sql/upgrades/0002_<name>.sql, without function bodies. Functions, views, triggers and
grants have no upgrades: their files in sql/functions/ are installed whenever they differ.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg

from sql.backoff import backoff_seconds
from sql.database import connect
from sql.install import (
    INSTALL_LOCK,
    VERSION,
    WrongSchema,
    file_digests,
    function_files,
    installed_digests,
    installed_version,
    prepare,
    remember_functions,
)
from sql.log import Log

log = Log("schema")

# A session that waits for a table's lock blocks all that come after it: so wait briefly, and retry later.
LOCK_TIMEOUT = "2s"
TRIES = 20
BACKOFF_SECONDS = (0.5, 15.0)  # the first and the longest wait, doubling
OTHERS_SECONDS = 600.0  # how long to wait for another process that migrates
OTHERS_POLL_SECONDS = 0.2
# New objects belong where the schema is, even if the search path starts with a schema created since ("$user").
INTO_THE_INSTALLED_SCHEMA = """
    select set_config('search_path', quote_ident(n.nspname), true)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = to_regclass('schema_version')
"""
BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
ROLES = "functions/roles.sql"
FUNCTION = re.compile(r"^create or replace function (\w+)\(.*?\$\$(.*?)\$\$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Upgrade:
    """One change of the tables, from the previous version to its own."""

    version: int
    name: str  # of the file, without .sql
    sql: str


@dataclass(frozen=True)
class Pending:
    """The work of migrate(); false if there is none."""

    upgrades: Sequence[Upgrade]
    files: Sequence[str]  # the function files to install, in order
    functions: Sequence[str]  # the names of the functions whose body differs

    def __bool__(self) -> bool:
        return bool(self.upgrades or self.files)


def upgrades() -> list[Upgrade]:
    """All upgrades, in order."""
    folder = importlib.resources.files("sql").joinpath("upgrades")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [Upgrade(int(file.name[:4]), file.name[:-4], file.read_text("utf-8")) for file in files]


def pending(database_url: str, known: Sequence[Upgrade]) -> Pending:
    """What migrate() would do now. Raises WrongSchema if there is no schema."""
    with connect(database_url, "shoptalk migrate") as connection:
        return _pending(connection, known)


def migrate(database_url: str, known: Sequence[Upgrade]) -> Pending:
    """Runs the pending upgrades, then installs the function files that differ, in one transaction; returns what it did.

    An empty database gets the whole schema. Any number may call it at once. If killed, it has changed nothing. Raises
    WrongSchema, and psycopg.errors.LockNotAvailable if a table was busy at each attempt.
    """
    prepare(database_url, oldest=0)
    with connect(database_url, "shoptalk migrate") as connection, _alone(connection):
        todo = _pending(connection, known)
        if todo:
            _run_patiently(connection, todo)
    return todo


def _pending(connection: psycopg.Connection[tuple[object, ...]], known: Sequence[Upgrade]) -> Pending:
    version = installed_version(connection)
    if version is None:
        raise WrongSchema("the database has no schema yet: run `shoptalk migrate` without --dry-run")
    if version > VERSION:
        return Pending([], [], [])  # of a newer release, whose functions are not ours to replace
    steps = [upgrade for upgrade in known if upgrade.version > version]
    functions = _different_functions(connection)
    installed = None if steps else installed_digests(connection)
    if installed is None:
        return Pending(steps, list(function_files()), sorted(functions))
    # Only the files that differ, so that a changed function locks no table and no view; and then the grants, because
    # replacing a function takes away with whose rights it runs.
    outdated = set(functions.values())
    outdated |= {name for name, digest in file_digests().items() if installed.get(name) != digest}
    files = [name for name in function_files() if name in outdated or (name == ROLES and outdated)]
    return Pending(steps, files, sorted(functions))


def _different_functions(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, str]:
    """The file of each function whose body is not that of a function in the database. (Overloads share a name.)"""
    rows = connection.execute(
        "select proname, prosrc from pg_proc"
        " where pronamespace = (select relnamespace from pg_class where oid = to_regclass('schema_version'))"
    ).fetchall()
    installed = {(str(name), str(source)) for name, source in rows}
    ours = [(name, *found.groups()) for name, text in function_files().items() for found in FUNCTION.finditer(text)]
    return {str(function): name for name, function, body in ours if (function, body) not in installed}


@contextlib.contextmanager
def _alone(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[None]:
    """Holds the installation lock. Polls for it, because a session that waits for a lock holds a snapshot."""
    with contextlib.suppress(psycopg.errors.InvalidParameterValue):  # not supported on every system
        # If this process is killed, the server cancels its statement too.
        connection.execute("set client_connection_check_interval = '1s'")
    deadline = time.monotonic() + OTHERS_SECONDS
    while connection.execute("select pg_try_advisory_lock(%s)", [INSTALL_LOCK]).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise WrongSchema("another process has been upgrading the schema for ten minutes: see pg_stat_activity")
        time.sleep(OTHERS_POLL_SECONDS)
    yield  # the lock ends with the session


def _run_patiently(connection: psycopg.Connection[tuple[object, ...]], todo: Pending) -> None:
    for failed in range(TRIES):
        try:
            _run(connection, todo)
            break
        except BUSY as error:
            if failed == TRIES - 1:
                raise
            seconds = backoff_seconds(failed, *BACKOFF_SECONDS)
            log("migration_put_off", seconds=seconds, reason=error)
            time.sleep(seconds)
    for upgrade in todo.upgrades:
        log("migrated", version=upgrade.version, name=upgrade.name)
    log("functions_installed")


def _run(connection: psycopg.Connection[tuple[object, ...]], todo: Pending) -> None:
    """Tables and functions change in one transaction: no session sees the one without the other."""
    with connection.transaction():
        connection.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        connection.execute(INTO_THE_INSTALLED_SCHEMA)
        for upgrade in todo.upgrades:
            connection.execute(upgrade.sql.encode())
            connection.execute("update schema_version set version = %s", [upgrade.version])
        for name in todo.files:
            connection.execute(function_files()[name].encode())
        remember_functions(connection)
