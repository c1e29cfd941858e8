"""Installs schema.sql, and refuses a database whose schema is not the one that this program knows."""

from __future__ import annotations

import importlib.resources
import time

import psycopg

from sql.database import connect
from sql.log import Log

log = Log("schema")

VERSION = 1  # what schema.sql writes into schema_version
OLDEST_SERVER = 150000
INSTALL_LOCK = 7310579100


class WrongSchema(RuntimeError):
    """The database cannot be used by this program; the text says why and what to do."""


def prepare(database_url: str, patience_seconds: float = 60) -> None:
    """Installs the schema into an empty database and checks the version otherwise.

    Any number of processes may call it at once. Waits for a server that is not up yet. Raises WrongSchema,
    and psycopg.Error when the server stays away.
    """
    with _connect_patiently(database_url, patience_seconds) as connection:
        if connection.info.server_version < OLDEST_SERVER:
            raise WrongSchema(f"PostgreSQL 15 or newer is needed, this is {connection.info.server_version // 10000}")
        connection.execute("select pg_advisory_lock(%s)", [INSTALL_LOCK])
        if installed_version(connection) is None:
            with connection.transaction():
                connection.execute(importlib.resources.files("sql").joinpath("schema.sql").read_bytes())
            log("schema_installed", version=VERSION)
    check_version(database_url)


def check_version(database_url: str) -> None:
    """Raises WrongSchema unless the database has the schema version that this program was written for."""
    with connect(database_url, "shoptalk schema") as connection:
        version = installed_version(connection)
    if version is None:
        raise WrongSchema("the database has no schema yet: run `python -m sql`")
    if version > VERSION:
        raise WrongSchema(
            f"the database has schema version {version}, this program knows {VERSION}: run a newer release"
        )


def installed_version(connection: psycopg.Connection[tuple[object, ...]]) -> int | None:
    """The version in the database, or None where there is no schema."""
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
