"""Access to the database: an engine for statements, a plain connection for LISTEN, the named statements."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import select
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy as sa

# A statement of ours that takes longer than this is stuck: an error is better than an exhausted pool.
STATEMENT_TIMEOUT_SECONDS = 15
CONNECT_TIMEOUT_SECONDS = 5

# A server that vanished without closing the connection is detected within half a minute.
CONNECTION: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_SECONDS,
    "client_encoding": "UTF8",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


def connect(database_url: str, application_name: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A plain connection in autocommit, as LISTEN and session locks need it. Raises psycopg.Error."""
    with hiding_the_password():
        return psycopg.connect(database_url, autocommit=True, application_name=application_name, **CONNECTION)


async def connect_async(database_url: str, application_name: str) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """The same for asyncio."""
    with hiding_the_password():
        return await psycopg.AsyncConnection.connect(
            database_url, autocommit=True, application_name=application_name, **CONNECTION
        )


@contextlib.contextmanager
def hiding_the_password() -> Iterator[None]:
    """Around a connect: libpq's error about a URL quotes the part at fault, usually the password."""
    try:
        yield
    except psycopg.ProgrammingError:
        raise psycopg.ProgrammingError("invalid database URL: percent-encode its password") from None


def make_engine(
    database_url: str,
    application_name: str,
    pool_size: int = 10,
    lock_timeout_seconds: int = 1,
    pooled: bool = False,
    statement_timeout_seconds: int | None = None,
) -> sa.Engine:
    """An engine in autocommit: every call is one statement, so one round trip.

    A statement waits at most `lock_timeout_seconds` for a lock: a program that keeps a conversation locked for long
    must not use up the pool. A caller waits up to 5 s for one of `pool_size` connections and then gets
    sqlalchemy.exc.TimeoutError; with 0 there is no pool, and each use opens a session.
    `pooled`: the URL leads to a pooler in transaction mode, so the next statement may run in another session, where
    prepared statements of this one do not exist. The options below must be set by the pooler's configuration
    (docs/deploy.md).
    """

    def connect_and_set() -> psycopg.Connection[tuple[Any, ...]]:
        connection = connect(database_url, application_name)
        if pooled:
            connection.prepare_threshold = None
        connection.execute(
            "select set_config('timezone', 'UTC', false), set_config('statement_timeout', %s, false),"
            " set_config('lock_timeout', %s, false),"
            " set_config('default_transaction_isolation', 'read committed', false)",
            [f"{statement_timeout_seconds or STATEMENT_TIMEOUT_SECONDS}s", f"{lock_timeout_seconds}s"],
        )
        return connection

    pool: dict[str, Any] = {"poolclass": sa.NullPool}
    if pool_size:
        pool = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 5, "pool_use_lifo": True}
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=connect_and_set,
        isolation_level="AUTOCOMMIT",
        pool_reset_on_return=None,  # in autocommit there is nothing to roll back
        hide_parameters=True,  # the texts of chats do not belong into the log
        **pool,
    )
    sa.event.listen(engine, "checkout", discard_dead_connection)
    return engine


def discard_dead_connection(connection: Any, *_: object) -> None:
    """Makes the pool replace a connection that the server has closed while it was idle.

    A server sends nothing to an idle session except the end of the connection, so readable means closed. This costs
    one poll(), pool_pre_ping a round trip.
    """
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    if poll.poll(0):
        raise sa.exc.DisconnectionError("the server has closed this connection")


@functools.cache
def query(name: str) -> sa.TextClause:
    """The statement in queries/<name>.sql: `query("api/read_conversation")`. psql runs it with `-v parameter=value`."""
    return sa.text(importlib.resources.files("sql").joinpath(f"queries/{name}.sql").read_text("utf-8"))


def call(function: str, /, **values: Any) -> tuple[sa.Select[Any], dict[str, Any]]:
    """A call of a database function, and its arguments: `connection.execute(*call("cancel_chat", chat_id=5))`.

    Arguments are passed by name, so a wrong or missing one is an error and cannot be taken for another.
    """
    return _statement(function, *values), values


@functools.cache  # building it each time would cost 0.3 ms
def _statement(function: str, *names: str) -> sa.Select[Any]:
    """select * from function(a => :a, b => :b)"""
    arguments = [sa.literal_column(name).op("=>")(sa.bindparam(name)) for name in names]
    return sa.select(sa.literal_column("*")).select_from(getattr(sa.func, function)(*arguments))
