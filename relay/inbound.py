"""Chats that other programs publish: from a durable queue into the database, acknowledged after the commit.

What cannot be accepted goes to a dead-letter exchange, with the reason in its headers. The connection is its own: a
broker ends all channels of one with any of them, and a queue in trouble must not hold up what goes out.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aio_pika
import sqlalchemy as sa
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from pydantic import ValidationError

from relay.broker import Broker, broker_backoff_seconds, declare, disconnect, trouble
from relay.channels import Trouble
from relay.database import Database, Row
from sql.database import query
from sql.fields import ChatIn, field_error
from sql.log import Log

log = Log("relay")

QUEUE = "shoptalk.inbound"
DEAD = "shoptalk.dead"  # the exchange of what was refused, and the queue that is bound to it
PREFETCH = 100  # messages that may wait here, and the most that one statement takes
LARGEST_BODY_BYTES = 65536
DATABASE_PAUSE_SECONDS = 1.0
CONFIRM_TIMEOUT_SECONDS = 30.0

# Replicated where there is a cluster; one reader at a time, so that the order in the queue is the order of
# acceptance; and what ends its reader's connection over and over becomes a dead letter in the end.
QUEUE_ARGUMENTS: dict[str, Any] = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": DEAD,
}


@dataclass(frozen=True)
class Refusal:
    """Why a message is no chat."""

    status: int  # as REST would answer
    reason: str


class Inbound:
    """The reader of the queue."""

    def __init__(self, broker: Broker, database: Database) -> None:
        self._broker = broker
        self._database = database

    async def run(self) -> None:
        """Until it is cancelled; what is not acknowledged then goes back to its queue."""
        attempts = 0
        while True:
            connection: AbstractConnection | None = None
            try:
                connection = await self._broker.connect("shoptalk relay inbound")
                async with trouble():
                    await self._open(connection)
                attempts = 0
                await self._read()
            except Trouble as error:
                log("inbound_lost", reason=error)
            except Exception:
                log("inbound_failed", traceback=True)  # ours to mend; what goes out goes on meanwhile
            finally:
                if connection is not None:
                    await disconnect(connection)
            await asyncio.sleep(broker_backoff_seconds(attempts))
            attempts += 1

    async def _open(self, connection: AbstractConnection) -> None:
        """Makes what is not there yet, and begins to take messages."""
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
        """The first message alone: should it end the connection, the broker counts that against no other."""
        await self._channel.set_qos(prefetch_count=prefetch)
        self._consumer = await self._queue.consume(self._take)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._arrived.put_nowait(message)

    def _end(self, *_: Any) -> None:
        self._arrived.put_nowait(None)

    async def _read(self) -> None:
        """Accepts what comes, in the queue's order, until there is trouble: raises it."""
        first = True
        while True:
            messages = [await self._arrived.get()]
            while len(messages) < PREFETCH and not self._arrived.empty():
                messages.append(self._arrived.get_nowait())
            batch = [message for message in messages if message is not None]
            if len(batch) < len(messages):
                raise Trouble(f"the queue {QUEUE} was lost")
            await self._accept(batch)
            if first:
                first = False
                async with trouble():
                    await self._queue.cancel(self._consumer)
                    await self._consume(PREFETCH)

    async def _accept(self, messages: list[AbstractIncomingMessage]) -> None:
        """Commits the chats, puts the refused ones aside, and then acknowledges them all."""
        good: list[tuple[AbstractIncomingMessage, ChatIn]] = []
        refused: list[tuple[AbstractIncomingMessage, Refusal]] = []
        for message in messages:
            read = read_chat(message)
            if isinstance(read, Refusal):
                refused.append((message, read))
            else:
                good.append((message, read))
        if good:
            rows = await self._enqueue(good)
            for (message, _), row in zip(good, rows, strict=True):
                if row.error_state:
                    refused.append((message, Refusal(status_of(row.error_state), row.error_reason)))
            await self._tell_held(rows)
        for message, refusal in refused:
            await self._put_aside(message, refusal)
        async with trouble():
            await messages[-1].ack(multiple=True)

    async def _enqueue(self, good: list[tuple[AbstractIncomingMessage, ChatIn]]) -> list[Row]:
        """One statement; waits for a database that is away. The broker keeps the rest meanwhile."""
        chats = [chat for _, chat in good]
        values = {
            "message_ids": [None if chat.chat_id else message.message_id for message, chat in good],
            "conversation_ids": [chat.conversation_id for chat in chats],
            "client_ids": [chat.client_id for chat in chats],
            "operator_ids": [chat.operator_id for chat in chats],
            "payloads": [chat.payload for chat in chats],
            "senders": [chat.sender for chat in chats],
            "chat_ids": [chat.chat_id for chat in chats],
            "urgents": [chat.urgent for chat in chats],
        }
        while True:
            try:
                return await self._database.rows(query("enqueue_from_amqp"), **values)
            except sa.exc.SQLAlchemyError as error:
                log("inbound_waits", chats=len(chats), reason=error)
                await asyncio.sleep(DATABASE_PAUSE_SECONDS)

    async def _tell_held(self, rows: list[Row]) -> None:
        """Lets open pages show what waits for its store to open, as REST does. Not vital."""
        events = [
            {
                "event": "change",
                "conversation_id": row.conversation_id,
                "data": {"conversation_id": row.conversation_id, "chat_id": row.chat_id},
            }
            for row in rows
            if row.state == "held" and not row.replayed
        ]
        if events:
            try:
                await self._database.rows(query("announce"), events=json.dumps(events))
            except sa.exc.SQLAlchemyError as error:
                log("signals_lost", signals=len(events), reason=error)

    async def _put_aside(self, message: AbstractIncomingMessage, refusal: Refusal) -> None:
        """Publishes it among the dead letters, as it came, and waits for the confirm. Raises Trouble."""
        log("inbound_refused", message=message.message_id, status=refusal.status, reason=refusal.reason)
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
            headers={"x-status": refusal.status, "x-reason": refusal.reason[:1000]},
        )
        async with trouble(CONFIRM_TIMEOUT_SECONDS):
            await self._dead.publish(copy, "")


def read_chat(message: AbstractIncomingMessage) -> ChatIn | Refusal:
    """The chat in a message: a JSON object with the fields of POST /v1/chats."""
    if len(message.body) > LARGEST_BODY_BYTES:
        return Refusal(413, f"the body has more than {LARGEST_BODY_BYTES} bytes")
    if message.message_id is not None and "\0" in message.message_id:
        return Refusal(400, "message_id: the character NUL is not allowed")
    try:
        data = json.loads(message.body)
    except (ValueError, RecursionError) as error:
        return Refusal(400, f"the body is not JSON: {str(error) or type(error).__name__}")
    if not isinstance(data, dict):
        return Refusal(400, "the body must be an object of named fields")
    try:
        return ChatIn.model_validate(data)
    except ValidationError as error:
        errors = [field_error(details) for details in error.errors(include_url=False, include_input=False)]
        return Refusal(400, "; ".join(f"{e['field']}: {e['reason']}" for e in errors))


def status_of(state: str) -> int:
    """What REST answers for this SQLSTATE: schema.sql's own have it in them."""
    return int(state[2:]) if state.startswith("ST") else 400
