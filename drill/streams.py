"""Many open streams, read by one thread: what each received, and with what delay."""

from __future__ import annotations

import collections
import datetime as dt
import json
import select
import socket
import threading
import time

PATIENCE_SECONDS = 60
PENDING = 50  # streams that are opened before the first of them must have started


class Streams(threading.Thread):
    """Streams of conversations. A cut stream is not reopened, which would hide the chats that a node left out."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seqs: dict[int, list[int]] = collections.defaultdict(list)  # by stream, as received
        self.conversations: dict[int, int] = {}  # by stream
        self.started: set[int] = set()
        self.cut: set[int] = set()
        self.delays: list[tuple[float, float]] = []  # by event: (when received, seconds since it was sent)
        self.wrong_chats: list[str] = []  # events of another conversation
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = collections.defaultdict(bytes)
        self._stopping = threading.Event()

    def open(self, port: int, conversation: int) -> None:
        """Opens one more stream."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        number = connection.fileno()
        self.conversations[number] = conversation
        self._sockets[number] = connection
        request = f"GET /v1/stream?conversation_id={conversation} HTTP/1.1\r\nHost: drill\r\n\r\n"
        connection.sendall(request.encode())
        self._poll.register(connection, select.EPOLLIN)
        if len(self._sockets) % PENDING == 0:
            self.await_started()

    def await_started(self) -> None:
        """Waits until every stream has started. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(self.started) < len(self._sockets):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.started)} of {len(self._sockets)} streams have started")
            time.sleep(0.01)

    def run(self) -> None:
        """Reads until stop()."""
        while not self._stopping.is_set():
            for number, _ in self._poll.poll(0.2):
                self._take(number)

    def stop(self) -> None:
        """Stops the thread and closes the streams."""
        self._stopping.set()
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
            self.cut.add(number)
            self._poll.unregister(number)
        *lines, self._rest[number] = (self._rest[number] + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id:"):
                self.started.add(number)
            elif line.startswith(b"data:") and b'"sent_at"' in line:
                self._note(number, json.loads(line[5:]))

    def _note(self, number: int, chat: dict[str, object]) -> None:
        now = time.time()
        self.delays.append((now, now - dt.datetime.fromisoformat(str(chat["sent_at"])).timestamp()))
        if chat["conversation_id"] != self.conversations[number]:
            self.wrong_chats.append(f"a stream of {self.conversations[number]} got {chat}")
        self.seqs[number].append(int(str(chat["seq"])))
