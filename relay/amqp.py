"""RabbitMQ: publishes each sent chat to a topic exchange, with confirms; and runs the reader of inbound chats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractConnection

from relay.broker import (
    Broker,
    BrokerLost,
    broker_backoff_seconds,
    declare,
    describe,
    disconnect,
    raising_delivery_errors,
)
from relay.database import Database, Row
from relay.inbound import Inbound
from relay.transport import ChatRejected, Outcome, in_conversation_order
from sql.database import query
from sql.shapes import sent_chat

EXCHANGE = "shoptalk"
WINDOW = 200  # chats on their way at once, each of another conversation
CONFIRM_TIMEOUT_SECONDS = 30.0
REQUEUE_SECONDS = 60.0  # until a chat that no queue took is published again: the queue may be bound later


class Amqp:
    """The exchange, and the queue of inbound chats."""

    stays_connected = True
    batch_size = 500
    read_query = query("relay/read_log_of_channel")

    def __init__(self, urls: Sequence[str], database: Database) -> None:
        self._broker = Broker(urls)
        self._database = database
        self._connection: AbstractConnection | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._loss: asyncio.Future[str]

    async def open(self, settings: dict[str, Any]) -> None:
        """Connects, and declares the exchange if it is missing."""
        self._loss = asyncio.get_running_loop().create_future()
        self._connection = await self._broker.connect("shoptalk relay")
        self._connection.close_callbacks.add(self._note_loss)
        async with raising_delivery_errors():
            await declare(
                self._connection,
                lambda channel, passive: channel.declare_exchange(
                    EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True, passive=passive
                ),
            )
            channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            channel.close_callbacks.add(self._note_loss)
            self._exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        self._receiving = asyncio.ensure_future(Inbound(self._broker, self._database).run())

    def _note_loss(self, _: Any, reason: BaseException | None = None) -> None:
        if not self._loss.done():
            self._loss.set_result(describe(reason))

    async def lost(self) -> None:
        """Raises BrokerLost when the connection or one of its AMQP channels is lost."""
        raise BrokerLost(await asyncio.shield(self._loss))

    async def close(self) -> None:
        """Disconnects. Inbound messages that are not acknowledged go back to their queue."""
        receiving, self._receiving = self._receiving, None
        connection, self._connection = self._connection, None
        if receiving is not None:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        if connection is not None:
            await disconnect(connection)

    def backoff_seconds(self, failures: int) -> float:
        """Never gives up: a broker comes back, and it is the shop's own."""
        return broker_backoff_seconds(failures)

    async def deliver(self, chats: Sequence[Row], failures: int, outcome: Outcome) -> None:
        """Publishes each chat and waits for the broker's confirm."""
        await in_conversation_order(chats, self._publish, WINDOW, outcome)

    async def _publish(self, chat: Row) -> None:
        key = f"store.{chat.store_id}.conversation.{chat.conversation_id}.chat"
        message = aio_pika.Message(
            json.dumps(sent_chat(chat)).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=str(chat.chat_id),
            timestamp=chat.sent_at,
            type="chat.sent",
            app_id="shoptalk",
            headers={"position": chat.position},
        )
        try:
            async with raising_delivery_errors(CONFIRM_TIMEOUT_SECONDS):
                await self._exchange.publish(message, key, mandatory=True)
        except aiormq.exceptions.PublishError:
            raise ChatRejected(f"no queue is bound for {key}", REQUEUE_SECONDS) from None
