"""How to reach the database: an engine for statements, a plain connection for LISTEN, the named statements."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import select
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy as sa

# A statement of ours that takes longer than this is stuck: better an error than a pool that runs dry.
STATEMENT_TIMEOUT_SECONDS = 15
CONNECT_TIMEOUT_SECONDS = 5


# A server that vanished without a word is noticed within half a minute.
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
    """Around a connect: libpq's error about a URL repeats the piece at fault, as a rule the password."""
    try:
        yield
    except psycopg.ProgrammingError:
        raise psycopg.ProgrammingError("the database's URL cannot be read: percent-encode its password") from None


def make_engine(
    database_url: str,
    application_name: str,
    pool_size: int = 10,
    lock_timeout_seconds: int = 1,
    pooled: bool = False,
    statement_timeout_seconds: int | None = None,
) -> sa.Engine:
    """An engine in autocommit: every call of ours is one statement, so one round trip.

    A statement waits at most `lock_timeout_seconds` for somebody's lock: a program that thinks with a
    conversation locked must not use up the pool. A caller waits up to 5 s for one of `pool_size` connections
    and then gets sqlalchemy.exc.TimeoutError; with 0 there is no pool, and each use is a session of its own.
    `pooled`: the URL leads to a pooler in transaction mode, so the next statement may run in another session, which
    does not know what was prepared in this one. What is set here, its own configuration has to set (docs/deploy.md).
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
        **pool,
    )
    sa.event.listen(engine, "checkout", refuse_dead_connection)
    return engine


def refuse_dead_connection(connection: Any, *_: object) -> None:
    """Makes the pool replace a connection that the server has closed while it was idle.

    A server says nothing to an idle session but goodbye, so something to read means that it is gone. It
    costs one poll() where pool_pre_ping costs a round trip.
    """
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN | select.POLLHUP | select.POLLERR)
    if poll.poll(0):
        raise sa.exc.DisconnectionError("the server has closed this connection")


@functools.cache
def query(name: str) -> sa.TextClause:
    """The statement in queries/<name>.sql. psql runs the same file, with `-v parameter=value`."""
    return sa.text(importlib.resources.files("sql").joinpath(f"queries/{name}.sql").read_text("utf-8"))
