"""RabbitMQ: connecting to one of the nodes of AMQP_URL, and turning the library's errors into ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection

from relay.transport import BACKOFF_SECONDS, DeliveryError
from sql.backoff import backoff_seconds
from sql.fanout import Rotation, first_line

CONNECT_TIMEOUT_SECONDS = 5.0
CLOSE_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 10.0  # a quorum queue without a leader accepts a consumer and never confirms it
LONGEST_WAIT_SECONDS = 10.0
HEARTBEAT_SECONDS = 10  # a node that vanished without closing is given up after three


class BrokerLost(DeliveryError):
    """The broker cannot be reached, did not answer in time, or has closed the connection or an AMQP channel."""


class Broker:
    """The nodes, tried in turn from a random one on, so that relays spread over them."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._nodes = Rotation(urls)

    async def connect(self, name: str) -> AbstractConnection:
        """Connects to the next node that answers. Raises BrokerLost."""
        failure: DeliveryError = BrokerLost("AMQP_URL names no node")
        for url in self._nodes.one_round():
            try:
                async with raising_delivery_errors(CONNECT_TIMEOUT_SECONDS):
                    return await aio_pika.connect(
                        url, heartbeat=HEARTBEAT_SECONDS,
                        client_properties={"connection_name": name},
                    )  # fmt: skip
            except DeliveryError as error:
                failure = error
        raise failure


def broker_backoff_seconds(failures: int) -> float:
    """How long to wait after this many failures in a row. At most 10 s: the broker is the shop's own."""
    return min(backoff_seconds(failures, *BACKOFF_SECONDS), LONGEST_WAIT_SECONDS)


async def disconnect(connection: AbstractConnection) -> None:
    """Closes the connection, in whatever state it is."""
    with contextlib.suppress(OSError, TimeoutError, RuntimeError, aiormq.exceptions.AMQPError):
        await asyncio.wait_for(connection.close(), CLOSE_TIMEOUT_SECONDS)
    raise_if_cancelled()


async def declare(connection: AbstractConnection, declare: Callable[[AbstractChannel, bool], Awaitable[Any]]) -> None:
    """Declares an exchange or a queue if it is missing; an existing one is used unchanged, with its own arguments."""
    try:
        async with connection.channel() as channel:
            await declare(channel, True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        async with connection.channel() as channel:
            await declare(channel, False)


@contextlib.asynccontextmanager
async def raising_delivery_errors(seconds: float = ANSWER_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Turns every error and timeout of calls to the broker into a DeliveryError, except PublishError.

    The relay renews its lease while a call waits, so a call without a timeout would block the channel forever.
    """
    try:
        try:
            async with asyncio.timeout(seconds):
                yield
        finally:
            raise_if_cancelled()
    except aiormq.exceptions.PublishError:
        raise
    except aiormq.exceptions.DeliveryError:
        raise DeliveryError("the broker could not store the message (basic.nack)") from None
    except (OSError, TimeoutError, RuntimeError, aiormq.exceptions.AMQPError) as error:
        raise BrokerLost(describe(error)) from None


def raise_if_cancelled() -> None:
    """Raises CancelledError in a cancelled task: the library may have swallowed the one that was raised in its call.

    Otherwise the code that waits for the task to end would wait forever, and keep the lease.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def describe(error: object) -> str:
    """The error in one line; never with the URL, which contains the password."""
    if isinstance(error, TimeoutError):
        return "the broker did not answer in time"
    return first_line(error)
