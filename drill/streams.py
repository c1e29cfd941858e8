"""Many open streams, read by one thread: what each of them got, and how late."""

from __future__ import annotations

import collections
import datetime as dt
import json
import select
import socket
import threading
import time

PATIENCE_SECONDS = 60
BEGIN_TOGETHER = 50  # streams opened before the first of them must have begun


class Streams(threading.Thread):
    """Streams by conversation. None comes back when it is cut: nothing hides what a node leaves out."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seqs: dict[int, list[int]] = collections.defaultdict(list)  # of each stream, as they came
        self.wants: dict[int, int] = {}  # its conversation
        self.begun: set[int] = set()
        self.ended: set[int] = set()
        self.late: list[tuple[float, float]] = []  # (when it came, seconds after it was sent), of each event
        self.strange: list[str] = []  # events of another conversation
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = collections.defaultdict(bytes)
        self._done = threading.Event()

    def open(self, port: int, conversation: int) -> None:
        """Opens one more stream."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        number = connection.fileno()
        self.wants[number] = conversation
        self._sockets[number] = connection
        request = f"GET /v1/stream?conversation_id={conversation} HTTP/1.1\r\nHost: drill\r\n\r\n"
        connection.sendall(request.encode())
        self._poll.register(connection, select.EPOLLIN)
        if len(self._sockets) % BEGIN_TOGETHER == 0:
            self.await_begun()

    def await_begun(self) -> None:
        """Until every stream has begun. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.begun) < len(self._sockets):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.begun)} of {len(self._sockets)} streams have begun")
            time.sleep(0.01)

    def run(self) -> None:
        """Reads until end()."""
        while not self._done.is_set():
            for number, _ in self._poll.poll(0.2):
                self._take(number)

    def end(self) -> None:
        """Ends it and the streams."""
        self._done.set()
        self.join()
        self._poll.close()
        for connection in self._sockets.values():
            connection.close()

    def _take(self, number: int) -> None:
        try:
            data = self._sockets[number].recv(65536)
        except OSError:
            data = b""
        if not data:
            self.ended.add(number)
            self._poll.unregister(number)
        *lines, self._rest[number] = (self._rest[number] + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id:"):
                self.begun.add(number)
            elif line.startswith(b"data:") and b'"sent_at"' in line:
                self._note(number, json.loads(line[5:]))

    def _note(self, number: int, chat: dict[str, object]) -> None:
        now = time.time()
        self.late.append((now, now - dt.datetime.fromisoformat(str(chat["sent_at"])).timestamp()))
        if chat["conversation_id"] != self.wants[number]:
            self.strange.append(f"a stream of {self.wants[number]} got {chat}")
        self.seqs[number].append(int(str(chat["seq"])))
