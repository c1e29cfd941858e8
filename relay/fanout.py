"""FANOUT=amqp: reads the log once as it grows and publishes it, and the signals, to all web nodes.

The messages are neither persistent nor confirmed: the log is the truth. Positions have no gaps, so a node notices at
the next page or beat what it has missed, and reads that from the log.
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

from relay.broker import Broker, disconnect, raising_delivery_errors
from relay.database import Database
from relay.transport import DeliveryError
from sql.database import connect_async, query
from sql.fanout import EXCHANGE
from sql.log import Log
from sql.shapes import sent_chat

log = Log("relay")

PAGE = 500  # chats a message
BEAT_SECONDS = 1.0  # while there are no chats, the log's end is published this often
STAND_BY_SECONDS = 1.0
RECONNECT_SECONDS = 1.0
PUBLISH_TIMEOUT_SECONDS = 5.0


class Fanout:
    """One relay publishes and the others stand by; an advisory lock of the LISTEN session decides which."""

    def __init__(self, urls: Sequence[str], database_url: str, database: Database) -> None:
        self._broker = Broker(urls)
        self._database_url, self._database = database_url, database
        self._position = 0

    async def run(self) -> None:
        """Runs until it is cancelled; survives every error of the database and of the broker."""
        while True:
            try:
                async with await connect_async(self._database_url, "shoptalk fanout") as listener:
                    await self._stand_by(listener)
                    await self._publish_from(listener)
            except (psycopg.Error, sa.exc.SQLAlchemyError, DeliveryError) as error:
                log("fanout_lost", reason=error)
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _stand_by(self, listener: psycopg.AsyncConnection[Any]) -> None:
        while True:
            row = await (await listener.execute("select pg_try_advisory_lock(fanout_lock())")).fetchone()
            if row and row[0]:
                return
            await asyncio.sleep(STAND_BY_SECONDS)

    async def _publish_from(self, listener: psycopg.AsyncConnection[Any]) -> None:
        """Starts at the end of the log; the nodes read earlier chats themselves."""
        connection = await self._broker.connect("shoptalk fanout")
        try:
            async with raising_delivery_errors():
                channel = await connection.channel(publisher_confirms=False)
                exchange = await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.FANOUT, durable=True)
            await listener.execute("listen chat_sent")
            await listener.execute("listen chat_event")
            bounds = await self._database.one(query("shared/log_bounds"))
            self._position = bounds.latest if bounds else 0
            log("fanout_began", position=self._position)
            beat_at = 0.0
            while True:
                notifications = [note async for note in listener.notifies(timeout=BEAT_SECONDS, stop_after=1)]
                # Also by the clock: a steady flow of signals must not keep it from reading the log.
                if any(note.channel == "chat_sent" for note in notifications) or time.monotonic() >= beat_at:
                    await self._publish_log(exchange)
                    beat_at = time.monotonic() + BEAT_SECONDS
                if signals := [note.payload for note in notifications if note.channel == "chat_event"]:
                    await self._publish(exchange, {"signals": signals})
        finally:
            await disconnect(connection)

    async def _publish_log(self, exchange: AbstractExchange) -> None:
        """Publishes everything up to the end of the log; at least one message, the beat."""
        full = True
        while full:
            rows = await self._database.rows(query("shared/read_log"), after=self._position, page=PAGE)
            chats = [[row.position, row.store_id, sent_chat(row)] for row in rows]
            await self._publish(exchange, {"after": self._position, "chats": chats})
            if rows:
                self._position = rows[-1].position
            full = len(rows) == PAGE

    async def _publish(self, exchange: AbstractExchange, message: dict[str, Any]) -> None:
        body = aio_pika.Message(json.dumps(message).encode(), delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT)
        async with raising_delivery_errors(PUBLISH_TIMEOUT_SECONDS):
            await exchange.publish(body, "", mandatory=False)
