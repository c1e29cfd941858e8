"""The stream over HTTP: the delay until a reader has received an accepted chat, and the memory per open stream."""

from __future__ import annotations

import collections
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from bench import shop, web
from bench.delays import percentile, round_trips
from bench.figures import OURS, Aim, Row
from bench.memory import children, megabytes
from bench.rounds import rounds
from bench.stage import Stage
from sql.open_files import allow_most_open_files

RATE = 50  # chats a second
HIT = 100  # streams that receive each chat
CHATS_EACH = 4  # per conversation
PATIENCE_SECONDS = 60


def run(stage: Stage) -> list[Row]:
    """The delay, and the memory of many streams in one process."""
    return [*delay(stage), streams(stage)]


def delay(stage: Stage) -> list[Row]:
    """From POST's answer to the event, compared with a NOTIFY round trip."""
    bare = "NOTIFY round trip"
    ours: list[list[float]] = []
    sent: list[float] = []
    others: list[list[float]] = []

    def measure_ours() -> float:
        after_answer, after_send = _answer_to_event(stage)
        ours.append(after_answer)
        sent.append(percentile(after_send, 50))
        return percentile(after_answer, 50)

    def measure_bare() -> float:
        others.append(round_trips(stage))
        return percentile(others[-1], 50)

    values = rounds(stage, "stream", {OURS: measure_ours, bare: measure_bare})
    repeats = stage.sizes.repeats
    p99 = {
        OURS: [percentile(v, 99) for v in ours[-repeats:]],
        bare: [percentile(v, 99) for v in others[-repeats:]],
    }
    title = f"POST's answer to the event received by a reader, over HTTP, {RATE} chats/s"
    note = f"from the sending of the POST: p50 {sorted(sent[-repeats:])[repeats // 2]:.2f} ms"
    return [
        Row("stream-p50", f"{title}, p50", "ms", values, {bare: Aim("<=", 3)}, [note]),
        Row("stream-p99", f"{title}, p99", "ms", p99, {OURS: Aim("<=", 50)}),
    ]


def _answer_to_event(stage: Stage) -> tuple[list[float], list[float]]:
    """Milliseconds to each event from its POST's answer (0: the event came first), and from the sending of the POST."""
    seen: dict[int, float] = {}
    posted: list[tuple[int, float, float]] = []
    count = max(10, round(RATE * stage.sizes.live_seconds))
    with stage.database(shop.template(stage)) as url, stage.worker(url), stage.web(url) as (port, _):
        reader = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        reader.sendall(b"GET /v1/stream?operator_id=1 HTTP/1.0\r\n\r\n")
        lines = reader.makefile("rb")
        while not lines.readline().startswith(b"id:"):
            pass
        thread = threading.Thread(target=_read, args=[lines, seen, count], daemon=True)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        began = time.monotonic()
        for turn in range(count):
            time.sleep(max(0.0, began + turn / RATE - time.monotonic()))
            started = time.monotonic()
            chat = {"conversation_id": 1 + turn % 50, "client_id": 1, "operator_id": 1, "payload": shop.PAYLOAD}
            connection.request("POST", "/v1/chats", json.dumps(chat), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            posted.append((answer["chat_id"], started, time.monotonic()))
        thread.join(PATIENCE_SECONDS)
        connection.close()
        lines.close()
        reader.close()
    if len(seen) < count:
        raise RuntimeError(f"{count - len(seen)} of {count} chats did not reach the reader")
    return (
        [max(0.0, seen[chat] - answered) * 1000 for chat, _, answered in posted],
        [(seen[chat] - started) * 1000 for chat, started, _ in posted],
    )


def _read(lines: BinaryIO, seen: dict[int, float], count: int) -> None:
    for line in lines:
        if line.startswith(b"data:"):
            seen[json.loads(line[5:])["chat_id"]] = time.monotonic()
            if len(seen) == count:
                return


def streams(stage: Stage) -> Row:
    """KiB per open stream in one web process; also checks that every event arrives."""
    count = stage.sizes.streams
    hit = min(HIT, count)
    conversations = count // hit
    allow_most_open_files()
    with (
        stage.database(shop.template(stage)) as url,
        stage.worker(url),
        stage.web(url, processes=1) as (port, gunicorn),
        stage.connect(url) as db,
    ):
        (process,) = children(gunicorn.pid)
        web.load(port, [_get(0)], min(1, stage.sizes.seconds))  # so that the memory for first requests is not counted
        enqueue = "select enqueue_chat(%s, 1, 1, 'hi') from generate_series(1, %s)"
        for number in range(1, conversations + 1):
            db.execute(enqueue, [number, 1])
        before = megabytes(process)
        readers = _Readers(port, [1 + index // hit for index in range(count)])
        opened = megabytes(process)
        began = time.monotonic()
        for number in range(1, conversations + 1):
            db.execute(enqueue, [number, CHATS_EACH])
        seconds = readers.await_chats(CHATS_EACH) - began
        after = megabytes(process)
        readers.close()
    events = count * CHATS_EACH
    return Row(
        "streams",
        f"{count:,} open streams in one web process, {hit} of them hit by each chat: resident memory each",
        "KiB",
        {OURS: [(after - before) * 1024 / count], "before the first chat": [(opened - before) * 1024 / count]},
        {OURS: Aim("<=", 30)},
        [f"{events:,} events of {conversations * CHATS_EACH:,} chats in {seconds:.1f} s, none lost, none twice"],
    )


def _get(conversation: int) -> str:
    path = f"/v1/stream?conversation_id={conversation}" if conversation else "/healthz"
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n"


class _Readers:
    """Many streams read by one thread."""

    def __init__(self, port: int, conversations: list[int]) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._conversations: dict[int, int] = {}
        self._rest: dict[int, bytes] = collections.defaultdict(bytes)
        self._started: set[int] = set()
        self.chats: dict[int, list[int]] = collections.defaultdict(list)
        for conversation in conversations:
            connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
            connection.sendall(_get(conversation).encode())
            self._sockets[connection.fileno()] = connection
            self._conversations[connection.fileno()] = conversation
            self._poll.register(connection, select.EPOLLIN)
            if len(self._sockets) % 100 == 0:
                self._await(lambda: len(self._started) == len(self._sockets))
        self._await(lambda: len(self._started) == len(self._sockets))

    def await_chats(self, count: int) -> float:
        """The time when every stream has `count` chats. Raises RuntimeError if one is missing, repeated or wrong."""
        self._await(lambda: all(len(self.chats[number]) >= count for number in self._sockets))
        at = time.monotonic()
        for number, seqs in self.chats.items():
            if seqs != list(range(2, 2 + count)):
                raise RuntimeError(f"a reader of conversation {self._conversations[number]} has {seqs}")
        return at

    def close(self) -> None:
        self._poll.close()
        for connection in self._sockets.values():
            connection.close()

    def _await(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            if time.monotonic() > deadline:
                raise RuntimeError("some streams did not receive all their chats")
            for number, _ in self._poll.poll(1):
                self._take(number)

    def _take(self, number: int) -> None:
        text = self._rest[number] + self._sockets[number].recv(65536)
        *lines, self._rest[number] = text.split(b"\n")
        for line in lines:
            if line.startswith(b"id:"):
                self._started.add(number)
            elif line.startswith(b"data:") and b'"seq"' in line and b'"payload"' in line:
                chat = json.loads(line[5:])
                if chat["conversation_id"] != self._conversations[number]:
                    raise RuntimeError(f"a reader of {self._conversations[number]} got {chat}")
                self.chats[number].append(chat["seq"])
