"""A web node's queue in RabbitMQ (FANOUT=amqp), with the relay's messages. Imported only where it is used."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import gevent
import pika
import pika.exceptions

from sql.fanout import EXCHANGE, NODE_PREFIX, Rotation, first_line

QUIET_SECONDS = 3.0  # the relay publishes at least once a second
TIMEOUT_SECONDS = 5.0
OPEN_SECONDS = 15.0  # pika itself waits for an answer as long as heartbeats arrive
HEARTBEAT_SECONDS = 10
MOST_WAITING = 10_000  # messages in the queue; older ones are dropped and read from the log

logging.getLogger("pika").setLevel(logging.CRITICAL)  # the feed logs its errors, on one line


class BrokerLost(Exception):
    """The broker cannot be reached, or the connection was lost."""


class Node:
    """The node's queue: exclusive, not durable, and deleted with the connection."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._brokers = Rotation(urls)

    @contextlib.contextmanager
    def messages(self) -> Iterator[Iterator[Any]]:
        """Connects to the next broker and yields the messages from then on, None if none comes. Raises BrokerLost."""
        try:
            with contextlib.ExitStack() as stack:
                with gevent.Timeout(OPEN_SECONDS, TimeoutError("the broker did not answer in time")):
                    connection = pika.BlockingConnection(_parameters(self._brokers.next()))
                    stack.callback(_close, connection)
                    channel = connection.channel()
                    channel.exchange_declare(EXCHANGE, "fanout", durable=True)
                    name = NODE_PREFIX + secrets.token_hex(8)
                    channel.queue_declare(
                        name, exclusive=True, auto_delete=True, arguments={"x-max-length": MOST_WAITING}
                    )
                    channel.queue_bind(name, EXCHANGE)
                yield _consume(channel, name)
        except (pika.exceptions.AMQPError, OSError) as error:
            raise BrokerLost(first_line(error)) from None


def _close(connection: pika.BlockingConnection) -> None:
    with gevent.Timeout(TIMEOUT_SECONDS, False):
        connection.close()


def _consume(channel: Any, queue: str) -> Iterator[Any]:
    for _, _, body in channel.consume(queue, auto_ack=True, exclusive=True, inactivity_timeout=QUIET_SECONDS):
        yield _read(body)
    raise BrokerLost("the queue was deleted")


def _read(body: bytes | None) -> Any:
    """The message; None, as if none had come, for invalid JSON."""
    try:
        return None if body is None else json.loads(body)
    except (ValueError, RecursionError):
        return None


def _parameters(url: str) -> pika.URLParameters:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT_SECONDS
    parameters.socket_timeout = parameters.stack_timeout = TIMEOUT_SECONDS
    parameters.blocked_connection_timeout = TIMEOUT_SECONDS
    parameters.client_properties = {"connection_name": "shoptalk web"}
    return parameters
