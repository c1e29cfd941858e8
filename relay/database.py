"""The database as the relay's event loop sees it: statements in threads, NOTIFY as something to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import sqlalchemy as sa

from sql.database import connect_async, make_engine, query
from sql.metrics import listener_is_lost, listener_is_up

CONNECTIONS = 4  # and as many threads: a statement never waits for a connection. One more is for the leases

Row = sa.Row[Any]


class Database:
    """Runs one statement at a call, each its own transaction: none is ever open while something else is waited for."""

    def __init__(self, database_url: str, pooled: bool = False) -> None:
        self._engine = make_engine(database_url, "shoptalk relay", pool_size=CONNECTIONS + 1, pooled=pooled)
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="database")
        self._lease_thread = ThreadPoolExecutor(1, thread_name_prefix="leases")

    async def rows(self, statement: sa.TextClause, **values: Any) -> list[Row]:
        """What it answers. Raises sqlalchemy.exc.SQLAlchemyError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, statement, values)

    async def one(self, statement: sa.TextClause, **values: Any) -> Row | None:
        """Its first row, if any."""
        rows = await self.rows(statement, **values)
        return rows[0] if rows else None

    async def renew_lease(self, channel_id: int, token: int, seconds: float) -> bool:
        """Whether the lease is still ours, and now for so long. Never behind slow reads, lest it run out."""
        values = {"channel_id": channel_id, "token": token, "seconds": seconds}
        run = asyncio.get_running_loop().run_in_executor
        return bool(await run(self._lease_thread, self._run, query("renew_lease"), values))

    def _run(self, statement: sa.TextClause, values: dict[str, Any]) -> list[Row]:
        with self._engine.connect() as connection:
            return list(connection.execute(statement, values))

    def close(self) -> None:
        """Ends the threads and the connections, once what they do is done."""
        self._threads.shutdown()
        self._lease_thread.shutdown()
        self._engine.dispose()


class Ear:
    """A LISTEN connection. A notification is only ever a hint: whoever waits looks again after each wait()."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._hears: set[str] = set()

    async def listen(self, names: Iterable[str]) -> bool:
        """Listens to exactly these; true where it has just begun to, so that one should look. Raises psycopg.Error."""
        wanted, began = set(names), False
        if self._connection is None or self._connection.closed:
            self._connection, self._hears = await connect_async(self._database_url, "shoptalk relay ear"), set()
            listener_is_up("ear")
        for name in wanted - self._hears:
            await self._connection.execute(psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(name)))
            began = True
        for name in self._hears - wanted:
            await self._connection.execute(psycopg.sql.SQL("unlisten {}").format(psycopg.sql.Identifier(name)))
        self._hears = wanted
        return began

    async def wait(self, seconds: float) -> set[str]:
        """What was rung for, as soon as something is; empty after so long. Raises psycopg.Error."""
        assert self._connection is not None
        try:
            return {note.channel async for note in self._connection.notifies(timeout=seconds, stop_after=1)}
        except psycopg.Error:
            listener_is_lost("ear")
            raise

    async def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            await self._connection.close()
