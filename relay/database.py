"""The database for the relay's event loop: statements run in threads, and a listener waits for NOTIFY."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import sqlalchemy as sa

from sql.database import call, connect_async, make_engine
from sql.metrics import listener_is_lost, listener_is_up

CONNECTIONS = 4  # and as many threads, so no statement waits for a connection. One more renews the leases

Row = sa.Row[Any]


class Database:
    """Runs one statement per call, each in its own transaction: none stays open while the relay waits."""

    def __init__(self, database_url: str, pooled: bool = False) -> None:
        self._engine = make_engine(database_url, "shoptalk relay", pool_size=CONNECTIONS + 1, pooled=pooled)
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="database")
        self._lease_thread = ThreadPoolExecutor(1, thread_name_prefix="leases")

    async def rows(self, statement: sa.Executable, values: dict[str, Any] | None = None, /, **more: Any) -> list[Row]:
        """The rows that the statement returns. Raises sqlalchemy.exc.SQLAlchemyError."""
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._run, statement, {**(values or {}), **more}
        )

    async def one(self, statement: sa.Executable, values: dict[str, Any] | None = None, /, **more: Any) -> Row | None:
        """The first row, if any."""
        rows = await self.rows(statement, values, **more)
        return rows[0] if rows else None

    async def renew_lease(self, channel_id: int, token: int, seconds: float) -> bool:
        """Extends the lease; false: it is lost. In a thread of its own: behind slow reads it would run out."""
        renew = call("renew_lease", channel_id=channel_id, token=token, seconds=seconds)
        rows = await asyncio.get_running_loop().run_in_executor(self._lease_thread, self._run, *renew)
        return bool(rows[0][0])

    def _run(self, statement: sa.Executable, values: dict[str, Any]) -> list[Row]:
        with self._engine.connect() as connection:
            return list(connection.execute(statement, values))

    def close(self) -> None:
        """Ends the threads and the connections once their statements are done."""
        self._threads.shutdown()
        self._lease_thread.shutdown()
        self._engine.dispose()


class Listener:
    """A LISTEN connection. A notification is only a hint: the caller looks at the tables after every wait()."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._names: set[str] = set()

    async def listen(self, names: Iterable[str]) -> bool:
        """Listens to exactly these NOTIFY channels. Raises psycopg.Error.

        True: to one of them only from now on, so earlier notifications were lost and the caller must look.
        """
        wanted, has_new = set(names), False
        if self._connection is None or self._connection.closed:
            self._connection, self._names = await connect_async(self._database_url, "shoptalk relay listener"), set()
            listener_is_up("relay")
        for name in wanted - self._names:
            await self._connection.execute(psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(name)))
            has_new = True
        for name in self._names - wanted:
            await self._connection.execute(psycopg.sql.SQL("unlisten {}").format(psycopg.sql.Identifier(name)))
        self._names = wanted
        return has_new

    async def wait(self, seconds: float) -> set[str]:
        """The NOTIFY channels of the next notification; empty if none comes in time. Raises psycopg.Error."""
        assert self._connection is not None
        try:
            return {note.channel async for note in self._connection.notifies(timeout=seconds, stop_after=1)}
        except psycopg.Error:
            listener_is_lost("relay")
            raise

    async def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            await self._connection.close()
