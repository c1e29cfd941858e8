"""An HTTP load generator for one port: reads a job as JSON from stdin, writes the results as JSON to stdout.

The job: {"port", "connections", "seconds", "requests": [complete requests as text]}. Each connection is kept alive and
sends the next request when its answer is complete. One process, which parses no more of the answers than it must.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import sys
import time
from collections.abc import Iterator


class Connection:
    """One kept-alive connection."""

    def __init__(self, port: int, requests: Iterator[bytes]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._answer = b""

    def send(self) -> None:
        """Sends the next request."""
        self._answer = b""
        self.socket.sendall(next(self._requests))

    def receive(self) -> bytes | None:
        """The status line, if the answer is now complete."""
        more = self.socket.recv(1 << 20)
        if not more:
            raise ConnectionError("the server has closed the connection")
        self._answer += more
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator:
            return None
        found = head.lower().find(b"content-length:")
        if found >= 0:
            length = int(head[found + 15 :].partition(b"\r\n")[0])
            complete = len(body) >= length
        else:
            complete = body.endswith(b"0\r\n\r\n")
        return head.partition(b"\r\n")[0] if complete else None


def load(port: int, connections: int, seconds: float, requests: list[str]) -> dict[str, float]:
    """Complete answers, how many of them were not 2xx, and the seconds taken; at least one answer per connection."""
    source = itertools.cycle([request.encode() for request in requests])
    opened = {c.socket.fileno(): c for c in (Connection(port, source) for _ in range(connections))}
    poll = select.epoll()
    for descriptor, connection in opened.items():
        poll.register(descriptor, select.EPOLLIN)
        connection.send()
    answers = bad = 0
    began = time.monotonic()
    while time.monotonic() - began < seconds or answers < connections:
        for descriptor, _ in poll.poll(1):
            status = opened[descriptor].receive()
            if status is not None:
                answers += 1
                bad += b" 2" not in status
                opened[descriptor].send()
    return {"answers": answers, "bad": bad, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    print(json.dumps(load(**json.load(sys.stdin))))
