"""A web node's queue in RabbitMQ (FANOUT=amqp): what the relay publishes, as it comes. Loaded only where it is used."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import gevent
import pika
import pika.exceptions

from sql.fanout import EXCHANGE, NODE_PREFIX

QUIET_SECONDS = 3.0  # the relay says something each second
TIMEOUT_SECONDS = 5.0
OPEN_SECONDS = 15.0  # pika itself waits for an answer for as long as there are heartbeats
HEARTBEAT_SECONDS = 10
MOST_WAITING = 10_000  # messages in the queue; the oldest are dropped, and the log has them

logging.getLogger("pika").setLevel(logging.CRITICAL)  # what goes wrong there is logged by the feed, in one line


class Lost(Exception):
    """The broker cannot be reached, or no longer."""


class Node:
    """The node's queue: its own, not kept, and gone with the connection."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        random.shuffle(self._urls)  # nodes spread over the brokers

    @contextlib.contextmanager
    def messages(self) -> Iterator[Iterator[Any]]:
        """Connects to the next broker; what is published from then on, None when it is quiet. Raises Lost."""
        url = self._urls.pop(0)
        self._urls.append(url)
        try:
            with contextlib.ExitStack() as stack:
                with gevent.Timeout(OPEN_SECONDS, TimeoutError("the broker did not answer in time")):
                    connection = pika.BlockingConnection(_parameters(url))
                    stack.callback(_close, connection)
                    channel = connection.channel()
                    channel.exchange_declare(EXCHANGE, "fanout", durable=True)
                    name = NODE_PREFIX + secrets.token_hex(8)
                    channel.queue_declare(
                        name, exclusive=True, auto_delete=True, arguments={"x-max-length": MOST_WAITING}
                    )
                    channel.queue_bind(name, EXCHANGE)
                yield _coming(channel, name)
        except (pika.exceptions.AMQPError, OSError) as error:
            text = str(error).strip().splitlines()
            raise Lost(f"{type(error).__name__}: {text[0] if text else 'the connection was lost'}") from None


def _close(connection: pika.BlockingConnection) -> None:
    with gevent.Timeout(TIMEOUT_SECONDS, False):
        connection.close()


def _coming(channel: Any, queue: str) -> Iterator[Any]:
    for _, _, body in channel.consume(queue, auto_ack=True, exclusive=True, inactivity_timeout=QUIET_SECONDS):
        yield _read(body)
    raise Lost("the queue was deleted")


def _read(body: bytes | None) -> Any:
    """The message; None, as when it is quiet, for what is no JSON."""
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
