"""The database that a verb works on, and its statements."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy as sa

from embedded.reach import database_urls
from sql.database import connect, make_engine, query
from sql.schema import WrongSchema, check_version

LOCK_SECONDS = 10


class Refused(Exception):
    """Asked for what cannot be done; the text says why."""


class Unreachable(Exception):
    """There is no database to work on, or not one of ours; the text says what to do."""


class Session:
    """Statements of one verb, each a transaction of its own."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def rows(self, statement: sa.TextClause, **parameters: Any) -> list[dict[str, Any]]:
        """The rows that a statement answers. Raises psycopg.Error."""
        try:
            return [dict(row) for row in self._connection.execute(statement, parameters).mappings()]
        except sa.exc.DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise error.orig from None
            raise

    def one(self, statement: sa.TextClause, **parameters: Any) -> dict[str, Any]:
        """Its only row."""
        (row,) = self.rows(statement, **parameters)
        return row

    def value(self, statement: sa.TextClause, **parameters: Any) -> Any:
        """The only value of its only row."""
        (value,) = self.one(statement, **parameters).values()
        return value

    def changed(self, chat_ids: list[int]) -> None:
        """Tells open pages that the chats are no more as they were."""
        events = [
            {
                "event": "change",
                "conversation_id": row["conversation_id"],
                "data": {"conversation_id": row["conversation_id"], "chat_id": row["chat_id"]},
            }
            for row in self.rows(query("read_changed"), chat_ids=chat_ids)
        ]
        if events:
            self.rows(query("announce"), events=json.dumps(events))


@contextlib.contextmanager
def open_session() -> Iterator[Session]:
    """A session past any pooler. Raises Unreachable, and embedded.programs.Unusable."""
    with reached() as (_, direct_url):
        try:
            check_version(direct_url)
        except WrongSchema as error:
            raise Unreachable(str(error)) from None
        engine = make_engine(direct_url, "shoptalk cli", pool_size=0, lock_timeout_seconds=LOCK_SECONDS)
        with engine.connect() as connection:
            connection.exec_driver_sql("set statement_timeout = 0")  # a person waits, and can press Ctrl-C
            yield Session(connection)


@contextlib.contextmanager
def reached() -> Iterator[tuple[str, str]]:
    """The database's URL, and the one past any pooler. Raises Unreachable for one that does not answer."""
    with database_urls(os.environ) as (url, direct_url):
        try:
            connect(direct_url, "shoptalk cli").close()
        except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
            raise Unreachable(f"cannot reach the database: {str(error).strip()}") from None
        yield url, direct_url
