"""Installs the schema into an empty database, and rejects a database with an unknown schema version.

schema.sql and the files that it includes, in its order, are the whole schema: `psql -1 -f schema.sql`, `python -m sql`
and `shoptalk migrate` all read this one order.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import re
import time
from typing import cast

import psycopg
from psycopg.types.json import Jsonb

from sql.database import connect
from sql.log import Log

log = Log("schema")

VERSION = 1  # as schema.sql writes it into schema_version; each file in sql/upgrades/ increments it
OLDEST_SERVER = 150000
INSTALL_LOCK = 7310579100
INCLUDE = re.compile(r"^\\ir sql/(functions/\w+\.sql)$", re.MULTILINE)


class WrongSchema(RuntimeError):
    """This program cannot use the database; the text says why and what to do."""


def _read(name: str) -> str:
    return importlib.resources.files("sql").joinpath(name).read_text("utf-8")


@functools.cache
def schema() -> str:
    """schema.sql as one text, with its included files inserted, as psql reads it."""
    return INCLUDE.sub(lambda found: _read(found[1]), _read("schema.sql"))


@functools.cache
def function_files() -> dict[str, str]:
    """The files of functions, views, triggers and grants by name, in schema.sql's order. Each may be run repeatedly."""
    return {name: _read(name) for name in INCLUDE.findall(_read("schema.sql"))}


@functools.cache
def file_digests() -> dict[str, str]:
    """The digest of each function file, as schema_version remembers them of the installed ones."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in function_files().items()}


def prepare(database_url: str, patience_seconds: float = 60, oldest: int = VERSION) -> None:
    """Installs the schema into an empty database; in any other it only checks the version.

    Any number of processes may call it at once. Waits for a server that is not up yet. Raises WrongSchema, and
    psycopg.Error if the server stays unreachable.
    """
    with _connect_patiently(database_url, patience_seconds) as connection:
        if connection.info.server_version < OLDEST_SERVER:
            raise WrongSchema(f"PostgreSQL 15 or newer is required, this is {connection.info.server_version // 10000}")
        version = installed_version(connection)
        if version is None:
            connection.execute("select pg_advisory_lock(%s)", [INSTALL_LOCK])
            if installed_version(connection) is None:
                _install(connection)
        elif version == oldest and installed_digests(connection) not in (None, file_digests()):
            log("functions_differ")
    check_version(database_url, oldest)


def _install(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    with connection.transaction():
        # Plain `create`: if another user, who may create objects in the schema, has created a function with one of our
        # names, that is an error; `create or replace` would keep that user as the owner of our function.
        connection.execute(schema().replace("create or replace ", "create ").encode())
        remember_functions(connection)
    log("schema_installed", version=VERSION)


def installed_digests(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, str] | None:
    """The digests of the function files that the database has; None: psql has installed them, so they are not known."""
    row = connection.execute("select functions from schema_version").fetchone()
    return None if row is None else cast("dict[str, str] | None", row[0])


def remember_functions(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Notes in the database that it has the function files of this program."""
    connection.execute("update schema_version set functions = %s", [Jsonb(file_digests())])


def check_version(database_url: str, oldest: int = VERSION) -> None:
    """Raises WrongSchema unless this program can work with the schema: its own version's, or the next one's.

    The next one's too, because every upgrade keeps everything that programs of the previous version use: the database
    is upgraded first while they keep running, then they are replaced one by one. `oldest`: the oldest accepted version.
    """
    version = version_of(database_url)
    if version is None:
        raise WrongSchema("the database has no schema yet: run `python -m sql`")
    if version < oldest:
        raise WrongSchema(
            f"the database has schema version {version}, this program needs {oldest}: run `shoptalk migrate`"
        )
    if version > VERSION + 1:
        raise WrongSchema(
            f"the database has schema version {version}, this program supports {VERSION}: run a newer release"
        )


def version_of(database_url: str) -> int | None:
    """The schema version of the database; None if there is no schema."""
    with connect(database_url, "shoptalk schema") as connection:
        return installed_version(connection)


def installed_version(connection: psycopg.Connection[tuple[object, ...]]) -> int | None:
    """The same, over an open connection. Raises WrongSchema for a schema from before the first baseline."""
    if connection.execute("select to_regclass('schema_version')").fetchone() == (None,):
        return None
    row = connection.execute("select version, to_jsonb(v) ? 'functions' from schema_version v").fetchone()
    if row is not None and not row[1]:
        raise WrongSchema("the schema is from before version 1 and cannot be upgraded: use an empty database")
    return None if row is None else int(str(row[0]))


def _connect_patiently(database_url: str, seconds: float) -> psycopg.Connection[tuple[object, ...]]:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return connect(database_url, "shoptalk schema")
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise
            log("waiting_for_database", reason=error)
            time.sleep(1)
