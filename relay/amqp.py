"""RabbitMQ: each sent chat to a topic exchange, confirmed; and beside it, what comes in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractConnection

from relay.broker import Broker, broker_backoff_seconds, declare, describe, disconnect, trouble
from relay.channels import Outcome, Refused, Trouble, in_conversation_order
from relay.database import Database, Row
from relay.inbound import Inbound
from sql.database import query
from sql.shapes import sent_chat

EXCHANGE = "shoptalk"
WINDOW = 200  # chats on their way at once, each of another conversation
CONFIRM_TIMEOUT_SECONDS = 30.0
REQUEUE_SECONDS = 60.0  # what no queue takes is tried again then: the queue may only be late


class Amqp:
    """The exchange, and the queue of inbound chats."""

    stays = True
    batch = 500
    reads = query("read_log_of_channel")

    def __init__(self, urls: Sequence[str], database: Database) -> None:
        self._broker = Broker(urls)
        self._database = database
        self._connection: AbstractConnection | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._loss: asyncio.Future[str]

    async def open(self, settings: dict[str, Any]) -> None:
        """Connects, and makes what is not there yet."""
        self._loss = asyncio.get_running_loop().create_future()
        self._connection = await self._broker.connect("shoptalk relay")
        self._connection.close_callbacks.add(self._note_loss)
        async with trouble():
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
        """Until the connection or one of its channels is."""
        raise Trouble(await asyncio.shield(self._loss))

    async def close(self) -> None:
        """Disconnects: what came in and is not acknowledged goes back to its queue."""
        receiving, self._receiving = self._receiving, None
        connection, self._connection = self._connection, None
        if receiving is not None:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        if connection is not None:
            await disconnect(connection)

    def backoff_seconds(self, attempts: int) -> float:
        """For ever: a broker comes back, and it is the shop's own."""
        return broker_backoff_seconds(attempts)

    async def deliver(self, chats: Sequence[Row], attempts: int, outcome: Outcome) -> None:
        """Publishes each chat and waits for the broker's word on it."""
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
            async with trouble(CONFIRM_TIMEOUT_SECONDS):
                await self._exchange.publish(message, key, mandatory=True)
        except aiormq.exceptions.PublishError:
            raise Refused(f"no queue is bound for {key}", REQUEUE_SECONDS) from None
