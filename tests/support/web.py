"""Web processes and the readers of their streams."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from api.push.feed import Subscription
from api.views import stream
from sql.database import make_engine
from tests.support.processes import Start, eventually, free_port

Event = dict[str, str]


APP = "api.app:create_app()"
IMPATIENT_APP = "tests.support.impatient:create_app()"  # with short waits

KEY = "k" * 32
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


def gunicorn(app: str = APP) -> list[str]:
    """The command that serves the app, for `start`."""
    return ["gunicorn", "-c", "python:api.gunicorn_conf", app]


class Web:
    """Gunicorn with one web process on a database."""

    def __init__(self, start: Start, database: str, app: str = APP, **env: str) -> None:
        self._start, self._command = start, gunicorn(app)
        self.port = free_port()
        self._env = {"DATABASE_URL": database, "PORT": str(self.port), "WEB_CONCURRENCY": "1"} | env
        self.run()

    def run(self) -> None:
        """Starts it, also again after it has ended; returns once it answers."""
        self.process = self._start(*self._command, **self._env)
        self.process.expect("Booting worker")
        eventually(self._answers)

    def _answers(self) -> bool:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
            except OSError:
                return False

    def open(self, query: str, last_id: str = "") -> Reader:
        return Reader(self.port, query, last_id)


class Reader:
    """One connection to a stream, read event by event."""

    def __init__(self, port: int, query: str, last_id: str = "", credential: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        headers = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        headers += f"Authorization: Bearer {credential}\r\n" if credential else ""
        self.lines = self.socket.makefile("r", encoding="utf-8", newline="\n")
        self.cursor = last_id
        try:
            # HTTP/1.0: the body is the stream itself, without chunks.
            self.socket.sendall(f"GET /v1/stream?{query} HTTP/1.0\r\n{headers}\r\n".encode())
            self.status = int(self.lines.readline().split()[1])
            self.headers = dict(line.strip().lower().split(": ", 1) for line in iter(self.lines.readline, "\r\n"))
        except BaseException:
            self.close()
            raise

    def blocks(self) -> Iterator[Event]:
        """Every complete block of lines, including comments and bare ids, until the stream ends."""
        block: Event = {}
        for line in self.lines:
            if line == "\n":
                self.cursor = block.get("id", self.cursor)
                yield block
                block = {}
            else:
                name, _, value = line.rstrip("\n").partition(":")
                block[name] = value.lstrip()

    def events(self, *names: str) -> Iterator[Event]:
        """The events with these names; without names, those of the log."""
        return (block for block in self.blocks() if block.get("event") in (names or ("chat", "reset")))

    def chats(self, count: int) -> list[dict[str, Any]]:
        events = self.events()
        return [json.loads(next(events)["data"]) for _ in range(count)]

    def begin(self) -> Reader:
        """Reads the first block: then the stream has begun."""
        next(self.blocks())
        return self

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@contextlib.contextmanager
def catching_up(database: str, key: tuple[str, int], until: int) -> Iterator[Iterator[bytes]]:
    """What a stream reads from the log, page by page, from the start of the log up to the position."""
    subscription = Subscription(key)
    subscription.begin(since=until)
    engine = make_engine(database, "test", pool_size=1)
    yield stream._catch_up(engine, subscription, 0)
    engine.dispose()


class Api:
    """The API on a port over HTTP/1.1, as a client of a proxy sees it."""

    def __init__(self, port: int, tls: bool = False) -> None:
        self.port = port
        self._context = ssl._create_unverified_context() if tls else None

    def connect(self) -> http.client.HTTPConnection:
        if self._context is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self._context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def status(self, path: str, body: bytes | None = None) -> int:
        return self._call("POST" if body is not None else "GET", path, body)[0]

    def answers(self) -> bool:
        try:
            return self.status("/readyz") == 200
        except OSError:
            return False

    def post(self, path: str, **fields: Any) -> Any:
        status, text = self._call("POST", path, json.dumps(fields).encode())
        assert status in (200, 201), text
        return json.loads(text)

    def stream(self, query: str) -> Stream:
        return Stream(self.connect(), query)

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = self.connect()
        try:
            connection.request(method, path, body, HEADERS)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Stream:
    """A stream that has begun, read event by event."""

    def __init__(self, connection: http.client.HTTPConnection, query: str) -> None:
        self._connection = connection
        connection.request("GET", f"/v1/stream?{query}", headers=HEADERS)
        self._answer = connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        while self._answer.readline().strip():
            pass

    def chats(self, count: int) -> list[dict[str, Any]]:
        found = []
        while len(found) < count:
            line = self._answer.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data:") and b'"chat_id"' in line:
                found.append(json.loads(line[5:]))
        return found

    def close(self) -> None:
        self._answer.close()
        self._connection.close()
