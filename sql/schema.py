"""Installs schema.sql, and refuses a database whose schema is not the one that this program knows."""

from __future__ import annotations

import importlib.resources
import time

import psycopg

from sql.database import connect
from sql.log import Log

log = Log("schema")

VERSION = 4  # what schema.sql writes into schema_version
OLDEST_SERVER = 150000
INSTALL_LOCK = 7310579100


class WrongSchema(RuntimeError):
    """The database cannot be used by this program; the text says why and what to do."""


def prepare(database_url: str, patience_seconds: float = 60, oldest: int = VERSION) -> None:
    """Installs the schema into an empty database and checks the version otherwise.

    Any number of processes may call it at once. Waits for a server that is not up yet. Raises WrongSchema,
    and psycopg.Error when the server stays away.
    """
    with _connect_patiently(database_url, patience_seconds) as connection:
        if connection.info.server_version < OLDEST_SERVER:
            raise WrongSchema(f"PostgreSQL 15 or newer is needed, this is {connection.info.server_version // 10000}")
        if installed_version(connection) is None:
            connection.execute("select pg_advisory_lock(%s)", [INSTALL_LOCK])
            if installed_version(connection) is None:
                with connection.transaction():
                    connection.execute(importlib.resources.files("sql").joinpath("schema.sql").read_bytes())
                log("schema_installed", version=VERSION)
    check_version(database_url, oldest)


def check_version(database_url: str, oldest: int = VERSION) -> None:
    """Raises WrongSchema unless this program can work with the schema: its own version's, or the next one's.

    The next one's too, because every migration leaves the programs of the version before it all that they use: so the
    database is migrated first, while they run on, and they are replaced one by one. `oldest`: the oldest that will do.
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
            f"the database has schema version {version}, this program knows {VERSION}: run a newer release"
        )


def version_of(database_url: str) -> int | None:
    """The version of the database, or None where there is no schema."""
    with connect(database_url, "shoptalk schema") as connection:
        return installed_version(connection)


def installed_version(connection: psycopg.Connection[tuple[object, ...]]) -> int | None:
    """The same, by a connection that there is."""
    if connection.execute("select to_regclass('schema_version')").fetchone() == (None,):
        return None
    row = connection.execute("select version from schema_version").fetchone()
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
