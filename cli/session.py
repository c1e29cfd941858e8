"""The database that a command works on, and its statements."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import sqlalchemy as sa

from embedded.reach import database_urls
from sql.database import connect, make_engine
from sql.install import WrongSchema, check_version

LOCK_SECONDS = 10


class CommandError(Exception):
    """The command cannot be carried out; the text says why."""


class UnreachableError(Exception):
    """The database cannot be reached or has no Shoptalk schema; the text says what to do."""


class Session:
    """The statements of one command, each a transaction of its own."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def rows(
        self, statement: sa.Executable, values: Mapping[str, Any] | None = None, /, **more: Any
    ) -> list[dict[str, Any]]:
        """The rows that a statement returns. Raises psycopg.Error."""
        try:
            return [dict(row) for row in self._connection.execute(statement, {**(values or {}), **more}).mappings()]
        except sa.exc.DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise error.orig from None
            raise

    def one(self, statement: sa.Executable, values: Mapping[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
        """The only row that a statement returns."""
        (row,) = self.rows(statement, values, **more)
        return row

    def value(self, statement: sa.Executable, values: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
        """The only value of the only row that a statement returns."""
        (value,) = self.one(statement, values, **more).values()
        return value


@contextlib.contextmanager
def open_session() -> Iterator[Session]:
    """A session on the direct connection. Raises UnreachableError and embedded.programs.EmbeddedServerError."""
    with open_database() as (_, direct_url):
        try:
            check_version(direct_url)
        except WrongSchema as error:
            raise UnreachableError(str(error)) from None
        engine = make_engine(direct_url, "shoptalk cli", pool_size=0, lock_timeout_seconds=LOCK_SECONDS)
        with engine.connect() as connection:
            connection.exec_driver_sql("set statement_timeout = 0")  # the operator can press Ctrl-C
            yield Session(connection)


@contextlib.contextmanager
def open_database() -> Iterator[tuple[str, str]]:
    """The URLs of the database: through a pooler, if there is one, and direct. Raises UnreachableError."""
    with database_urls(os.environ) as (url, direct_url):
        try:
            connect(direct_url, "shoptalk cli").close()
        except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
            raise UnreachableError(f"cannot reach the database: {str(error).strip()}") from None
        yield url, direct_url
