"""The RabbitMQ of the settings: connecting to one of its nodes, and what can go wrong there, as Trouble."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection

from relay.channels import BACKOFF_SECONDS, Trouble
from sql.backoff import backoff_seconds

CONNECT_TIMEOUT_SECONDS = 5.0
CLOSE_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 10.0  # a quorum queue without a leader takes a consumer and never says so
LONGEST_WAIT_SECONDS = 10.0
HEARTBEAT_SECONDS = 10  # a node that vanished without a word is given up after three


class Broker:
    """The nodes, tried one after the other from any one on: relays spread over them."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        random.shuffle(self._urls)

    async def connect(self, name: str) -> AbstractConnection:
        """Connects to the next node that answers. Raises Trouble."""
        failure = Trouble("no node is known")
        for _ in self._urls:
            url = self._urls.pop(0)
            self._urls.append(url)
            try:
                async with trouble(CONNECT_TIMEOUT_SECONDS):
                    return await aio_pika.connect(
                        url, heartbeat=HEARTBEAT_SECONDS,
                        client_properties={"connection_name": name},
                    )  # fmt: skip
            except Trouble as error:
                failure = error
        raise failure


def broker_backoff_seconds(attempts: int) -> float:
    """How long to leave the broker alone after so many failed attempts in a row; never long: it is the shop's own."""
    return min(backoff_seconds(attempts, *BACKOFF_SECONDS), LONGEST_WAIT_SECONDS)


async def disconnect(connection: AbstractConnection) -> None:
    """Ends the connection, whatever state it is in."""
    with contextlib.suppress(OSError, TimeoutError, RuntimeError, aiormq.exceptions.AMQPError):
        await asyncio.wait_for(connection.close(), CLOSE_TIMEOUT_SECONDS)
    insist_on_cancellation()


async def declare(connection: AbstractConnection, declare: Callable[[AbstractChannel, bool], Awaitable[Any]]) -> None:
    """Makes an exchange or a queue if there is none; one that is there is taken as it is, with its own arguments."""
    try:
        async with connection.channel() as channel:
            await declare(channel, True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        async with connection.channel() as channel:
            await declare(channel, False)


@contextlib.asynccontextmanager
async def trouble(seconds: float = ANSWER_TIMEOUT_SECONDS) -> AsyncIterator[None]:
    """Makes Trouble of whatever a broker can do to calls, or not do in time; PublishError is left alone.

    A lease is kept while a call waits, so a call that waited for ever would keep the channel from everybody.
    """
    try:
        try:
            async with asyncio.timeout(seconds):
                yield
        finally:
            insist_on_cancellation()
    except aiormq.exceptions.PublishError:
        raise
    except aiormq.exceptions.DeliveryError:
        raise Trouble("the broker could not keep it (basic.nack)") from None
    except (OSError, TimeoutError, RuntimeError, aiormq.exceptions.AMQPError) as error:
        raise Trouble(describe(error)) from None


def insist_on_cancellation() -> None:
    """Raises CancelledError in a task that was cancelled, which the library may have swallowed in the middle of a call.

    Whoever waits for the task to end would wait for ever, with the lease in hand.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def describe(error: object) -> str:
    """In one line, and never with the URL: it has the password in it."""
    if isinstance(error, TimeoutError):
        return "the broker did not answer in time"
    text = (str(error) if error else "").strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else "the connection was lost"
