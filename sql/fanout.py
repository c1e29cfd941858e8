"""What the relay and the web nodes share where web nodes get new chats from RabbitMQ (FANOUT=amqp).

The exchange is separate from the one that other programs bind to: if each web node had a queue there, the broker would
never report a chat as unroutable. A message is JSON, one of
    {"after": position, "chats": [[position, store_id, chat], …]}   the log after a position, without gaps
    {"signals": [payload, …]}                                       the payloads of NOTIFY chat_event
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

EXCHANGE = "shoptalk.nodes"
NODE_PREFIX = "shoptalk.node."  # of the web nodes' queues


class Rotation:
    """The URLs of a RabbitMQ cluster in turn. The order is random, so that processes spread over its nodes."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        random.shuffle(self._urls)

    def next(self) -> str:
        """The next URL."""
        self._urls.append(self._urls.pop(0))
        return self._urls[-1]

    def one_round(self) -> Iterator[str]:
        """Each URL once, starting after the last one that was used."""
        for _ in range(len(self._urls)):
            yield self.next()


def first_line(error: object) -> str:
    """The error on one line. Never with the URL, which contains the password."""
    text = (str(error) if error else "").strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else "the connection was lost"
