"""Chats that other programs publish: read from a durable queue, and acknowledged after the commit.

Rejected messages go to a dead-letter exchange, with the reason in their headers. The reader has a connection of its
own: an error on one AMQP channel can end the whole connection, and a failing queue must not delay outgoing chats.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import aio_pika
import sqlalchemy as sa
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from pydantic import ValidationError

from relay.broker import Broker, BrokerLost, broker_backoff_seconds, declare, disconnect, raising_delivery_errors
from relay.database import Database, Row
from relay.transport import DeliveryError
from sql.database import call, query
from sql.errors import http_status, is_rejection
from sql.fields import ChatIn, explain, list_errors
from sql.log import Log

log = Log("relay")

QUEUE = "shoptalk.inbound"
DEAD = "shoptalk.dead"  # the exchange of rejected messages, and the queue that is bound to it
PREFETCH = 100  # messages that the broker sends ahead, and the most that one statement accepts
LARGEST_BODY_BYTES = 65536
DATABASE_PAUSE_SECONDS = 1.0
CONFIRM_TIMEOUT_SECONDS = 30.0

# Replicated if there is a cluster. One reader at a time, so that chats are accepted in the order of the queue. A
# message that ends its reader's connection again and again finally becomes a dead letter.
QUEUE_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": DEAD,
}


@dataclass(frozen=True)
class Rejection:
    """Why a message cannot be accepted as a chat."""

    status: int  # the HTTP status that REST would answer
    reason: str


class Inbound:
    """The reader of the queue of inbound chats."""

    def __init__(self, broker: Broker, database: Database) -> None:
        self._broker = broker
        self._database = database

    async def run(self) -> None:
        """Runs until it is cancelled; messages not yet acknowledged then go back to their queue."""
        failures = 0
        while True:
            connection: AbstractConnection | None = None
            try:
                connection = await self._broker.connect("shoptalk relay inbound")
                async with raising_delivery_errors():
                    await self._open(connection)
                failures = 0
                await self._read()
            except DeliveryError as error:
                log("inbound_lost", reason=error)
            except Exception:
                log("inbound_failed", traceback=True)  # a bug of ours; outgoing chats continue
            finally:
                if connection is not None:
                    await disconnect(connection)
            await asyncio.sleep(broker_backoff_seconds(failures))
            failures += 1

    async def _open(self, connection: AbstractConnection) -> None:
        """Declares the exchange and queues that are missing, and starts consuming."""
        self._arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()  # None: no more will come
        await declare(
            connection,
            lambda channel, passive: channel.declare_exchange(
                DEAD, aio_pika.ExchangeType.FANOUT, durable=True, passive=passive
            ),
        )
        await declare(
            connection,
            lambda channel, passive: channel.declare_queue(
                DEAD, durable=True, passive=passive, arguments={"x-queue-type": "quorum"}
            ),
        )
        await declare(
            connection,
            lambda channel, passive: channel.declare_queue(
                QUEUE, durable=True, passive=passive, arguments=QUEUE_ARGUMENTS
            ),
        )
        self._channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        self._channel.close_callbacks.add(self._end)
        (await self._channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(self._end)
        self._dead = await self._channel.get_exchange(DEAD, ensure=False)
        await (await self._channel.get_queue(DEAD, ensure=False)).bind(self._dead)
        self._queue = await self._channel.get_queue(QUEUE, ensure=False)
        await self._consume(1)

    async def _consume(self, prefetch: int) -> None:
        """Consumes with this prefetch. At first 1: if that message ends the connection, no other one is counted."""
        await self._channel.set_qos(prefetch_count=prefetch)
        self._consumer = await self._queue.consume(self._take)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._arrived.put_nowait(message)

    def _end(self, *_: Any) -> None:
        self._arrived.put_nowait(None)

    async def _read(self) -> None:
        """Accepts messages in the queue's order. Never returns; raises DeliveryError when the broker fails."""
        first = True
        while True:
            messages = [await self._arrived.get()]
            while len(messages) < PREFETCH and not self._arrived.empty():
                messages.append(self._arrived.get_nowait())
            batch = [message for message in messages if message is not None]
            if len(batch) < len(messages):
                raise BrokerLost(f"the queue {QUEUE} was lost")
            await self._accept(batch)
            if first:
                first = False
                async with raising_delivery_errors():
                    await self._queue.cancel(self._consumer)
                    await self._consume(PREFETCH)

    async def _accept(self, messages: list[AbstractIncomingMessage]) -> None:
        """Commits the chats, dead-letters the rejected messages, and then acknowledges them all."""
        good: list[tuple[AbstractIncomingMessage, ChatIn]] = []
        rejected: list[tuple[AbstractIncomingMessage, Rejection]] = []
        for message in messages:
            read = read_chat(message)
            if isinstance(read, Rejection):
                rejected.append((message, read))
            else:
                good.append((message, read))
        if good:
            rows = await self._enqueue(good)
            for (message, _), row in zip(good, rows, strict=True):
                if row.error_state:
                    status = (
                        http_status(row.error_state) if is_rejection(row.error_state) else 400
                    )  # the chat's fault anyway
                    rejected.append((message, Rejection(status, row.error_reason)))
            await self._announce_held(rows)
        for message, rejection in rejected:
            await self._dead_letter(message, rejection)
        async with raising_delivery_errors():
            await messages[-1].ack(multiple=True)

    async def _enqueue(self, good: list[tuple[AbstractIncomingMessage, ChatIn]]) -> list[Row]:
        """Enqueues all in one statement; retries while the database is unavailable. The broker keeps the rest."""
        chats = [chat for _, chat in good]
        message_ids = [None if chat.chat_id else message.message_id for message, chat in good]
        enqueue = call("enqueue_from_amqp", message_ids=message_ids, **ChatIn.columns(chats))
        while True:
            try:
                return sorted(await self._database.rows(*enqueue), key=attrgetter("index"))
            except sa.exc.SQLAlchemyError as error:
                log("inbound_waits", chats=len(chats), reason=error)
                await asyncio.sleep(DATABASE_PAUSE_SECONDS)

    async def _announce_held(self, rows: list[Row]) -> None:
        """Lets open pages show chats that are held, as REST does. An error is logged and the chats stay accepted."""
        events = [
            {
                "event": "change",
                "conversation_id": row.conversation_id,
                "data": {"conversation_id": row.conversation_id, "chat_ids": [row.chat_id]},
            }
            for row in rows
            if row.state == "held" and not row.is_repeat
        ]
        if events:
            try:
                await self._database.rows(query("shared/announce"), events=json.dumps(events))
            except sa.exc.SQLAlchemyError as error:
                log("signals_lost", signals=len(events), reason=error)

    async def _dead_letter(self, message: AbstractIncomingMessage, rejection: Rejection) -> None:
        """Publishes the message unchanged to the dead letters and waits for the confirm. Raises DeliveryError."""
        log("inbound_refused", message=message.message_id, status=rejection.status, reason=rejection.reason)
        copy = aio_pika.Message(
            message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            correlation_id=message.correlation_id,
            message_id=message.message_id,
            type=message.type,
            app_id=message.app_id,
            timestamp=message.timestamp,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            headers={"x-status": rejection.status, "x-reason": rejection.reason[:1000]},
        )
        async with raising_delivery_errors(CONFIRM_TIMEOUT_SECONDS):
            await self._dead.publish(copy, "")


def read_chat(message: AbstractIncomingMessage) -> ChatIn | Rejection:
    """The chat in a message: a JSON object with the fields of POST /v1/chats."""
    if len(message.body) > LARGEST_BODY_BYTES:
        return Rejection(413, f"the body has more than {LARGEST_BODY_BYTES} bytes")
    if message.message_id is not None and "\0" in message.message_id:
        return Rejection(400, "message_id: the character NUL is not allowed")
    try:
        data = json.loads(message.body)
    except (ValueError, RecursionError) as error:
        return Rejection(400, f"the body is not JSON: {str(error) or type(error).__name__}")
    if not isinstance(data, dict):
        return Rejection(400, "the body must be an object of named fields")
    try:
        return ChatIn.model_validate(data)
    except ValidationError as error:
        return Rejection(400, explain(list_errors(error)))
