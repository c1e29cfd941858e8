"""FANOUT=amqp: the log as it grows, read once and published to every web node; and the signals beside it.

What is published is kept nowhere and confirmed by nobody: the log is the truth, and positions have no gaps, so a
node sees by the next page or beat what it has missed, and reads it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import aio_pika
import psycopg
import sqlalchemy as sa
from aio_pika.abc import AbstractExchange

from relay.broker import Broker, disconnect, trouble
from relay.channels import Trouble
from relay.database import Database
from sql.database import connect_async, query
from sql.fanout import EXCHANGE
from sql.log import Log
from sql.shapes import sent_chat

log = Log("relay")

PAGE = 500  # chats a message
BEAT_SECONDS = 1.0  # without chats, so often is said how far the log is
STAND_BY_SECONDS = 1.0
RECONNECT_SECONDS = 1.0
PUBLISH_TIMEOUT_SECONDS = 5.0


class Fanout:
    """One relay does it and the others stand by, by an advisory lock of the LISTEN session."""

    def __init__(self, urls: Sequence[str], database_url: str, database: Database) -> None:
        self._broker = Broker(urls)
        self._database_url, self._database = database_url, database
        self._position = 0

    async def run(self) -> None:
        """Until it is cancelled; outlives every trouble of the database and of the broker."""
        while True:
            try:
                async with await connect_async(self._database_url, "shoptalk fanout") as ear:
                    await self._stand_by(ear)
                    await self._publish_from(ear)
            except (psycopg.Error, sa.exc.SQLAlchemyError, Trouble) as error:
                log("fanout_lost", reason=error)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _stand_by(self, ear: psycopg.AsyncConnection[Any]) -> None:
        while True:
            row = await (await ear.execute("select pg_try_advisory_lock(fanout_lock())")).fetchone()
            if row and row[0]:
                return
            await asyncio.sleep(STAND_BY_SECONDS)

    async def _publish_from(self, ear: psycopg.AsyncConnection[Any]) -> None:
        """Begins at the end of the log: what came before, the nodes read for themselves."""
        connection = await self._broker.connect("shoptalk fanout")
        try:
            async with trouble():
                channel = await connection.channel(publisher_confirms=False)
                exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.FANOUT, durable=True)
            await ear.execute("listen chat_sent")
            await ear.execute("listen chat_event")
            bounds = await self._database.one(query("log_bounds"))
            self._position = bounds.latest if bounds else 0
            log("fanout_began", position=self._position)
            beat_at = 0.0
            while True:
                heard = [note async for note in ear.notifies(timeout=BEAT_SECONDS, stop_after=1)]
                # By the clock: signals alone, one after the other, must not keep it from looking.
                if any(note.channel == "chat_sent" for note in heard) or time.monotonic() >= beat_at:
                    await self._publish_log(exchange)
                    beat_at = time.monotonic() + BEAT_SECONDS
                if signals := [note.payload for note in heard if note.channel == "chat_event"]:
                    await self._publish(exchange, {"signals": signals})
        finally:
            await disconnect(connection)

    async def _publish_log(self, exchange: AbstractExchange) -> None:
        """Everything up to the log's end, at least one message: a beat."""
        full = True
        while full:
            rows = await self._database.rows(query("read_log"), after=self._position, page=PAGE)
            chats = [[row.position, row.store_id, sent_chat(row)] for row in rows]
            await self._publish(exchange, {"after": self._position, "chats": chats})
            if rows:
                self._position = rows[-1].position
            full = len(rows) == PAGE

    async def _publish(self, exchange: AbstractExchange, message: dict[str, Any]) -> None:
        body = aio_pika.Message(json.dumps(message).encode(), delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT)
        async with trouble(PUBLISH_TIMEOUT_SECONDS):
            await exchange.publish(body, "", mandatory=False)
