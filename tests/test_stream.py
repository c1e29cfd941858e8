"""GET /v1/stream on real gunicorn with gevent: what a reader gets, whatever dies in between."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import signal
import socket
import struct
import threading
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg
import pytest
from flask.testing import FlaskClient

from api.push.feed import Subscription
from api.views import stream
from embedded.cluster import Cluster
from sql.database import make_engine
from sql.schema import prepare
from tests.conftest import Connection, Process, eventually, free_port
from tests.test_enqueue import enqueue

Start = Callable[..., Process]
Event = dict[str, str]

WEB = ["gunicorn", "-w1", "-c", "python:api.gunicorn_conf", "api.app:create_app()"]


class Web:
    """A gunicorn of ours with one process, on the test's database."""

    def __init__(self, start: Start, database: str) -> None:
        self._start, self._database = start, database
        self.port = free_port()
        self.run()

    def run(self) -> None:
        self.process = self._start(*WEB, DATABASE_URL=self._database, PORT=str(self.port))
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
    """One connection to the stream, read event by event."""

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
        """Every whole block of lines, also comments and ids alone; ends when the stream does."""
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
        """The events of these names; of the log, if none is given."""
        return (block for block in self.blocks() if block.get("event") in (names or ("chat", "reset")))

    def chats(self, count: int) -> list[dict[str, Any]]:
        events = self.events()
        return [json.loads(next(events)["data"]) for _ in range(count)]

    def begin(self) -> Reader:
        """Reads up to the first block, which says that the stream has begun."""
        next(self.blocks())
        return self

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


def send(db: Connection, conversation: int = 7, payload: str = "hi", **parties: int) -> dict[str, Any]:
    chat = enqueue(db, conversation, payload, **parties)
    db.execute("select send_chats()")
    return {"chat_id": chat.chat_id, "seq": chat.seq}


@pytest.fixture
def web(shop: Connection, database: str, start: Start) -> Web:
    return Web(start, database)


@pytest.mark.parametrize("query", ["conversation_id=7", "client_id=1", "operator_id=1"])
def test_a_sent_chat_comes_to_who_wants_it_and_to_nobody_else(shop: Connection, web: Web, query: str) -> None:
    reader = web.open(query).begin()
    assert reader.headers["content-type"].startswith("text/event-stream")
    assert reader.headers["x-accel-buffering"] == "no"
    send(shop, 8, client=2, operator=2)
    shop.execute("set shoptalk.now = '2026-03-02 10:00+00'")  # store 2 is open
    shop.execute("select send_chats()")
    sent = send(shop)
    (chat,) = reader.chats(1)
    assert (chat["chat_id"], chat["conversation_id"], chat["state"], chat["release_at"]) == (
        sent["chat_id"], 7, "sent", None)  # fmt: skip
    reader.close()


def test_it_begins_with_now_or_with_the_first(shop: Connection, web: Web) -> None:
    for number in range(3):
        send(shop, payload=str(number))
    now = web.open("conversation_id=7").begin()
    first = web.open("conversation_id=7&from=start").begin()
    send(shop, payload="3")
    assert [chat["payload"] for chat in now.chats(1)] == ["3"]
    assert [chat["payload"] for chat in first.chats(4)] == ["0", "1", "2", "3"]
    now.close()
    first.close()


@pytest.mark.parametrize("query", ["conversation_id=7", "client_id=1", "operator_id=1"])
def test_it_goes_on_right_after_the_last_event(shop: Connection, web: Web, query: str) -> None:
    reader = web.open(query).begin()
    for number in range(4):
        send(shop, payload=str(number))
        send(shop, 8, payload="other", client=2)
    assert reader.chats(2)[-1]["seq"] in (1, 2)
    cursor = reader.cursor
    reader.close()
    seqs = {"conversation_id=7": [3, 4], "client_id=1": [3, 4], "operator_id=1": None}[query]
    by_header = web.open(query, cursor)
    by_query = web.open(f"{query}&last_event_id={cursor}")
    for again in (by_header, by_query):
        chats = again.chats(2)
        assert seqs is None or [chat["seq"] for chat in chats] == seqs
        again.close()


def test_a_reader_cut_before_its_first_chat_misses_nothing(shop: Connection, web: Web) -> None:
    reader = web.open("conversation_id=7").begin()
    cursor = reader.cursor
    reader.close()
    send(shop)
    again = web.open("conversation_id=7", cursor)
    assert len(again.chats(1)) == 1
    again.close()


def test_a_page_load_and_the_stream_leave_no_gap(shop: Connection, web: Web, client: FlaskClient) -> None:
    send(shop, payload="0")
    enqueue(shop, payload="1")
    page = client.get("/v1/conversations/7").get_json()
    shop.execute("select send_chats()")
    reader = web.open("conversation_id=7", page["cursor"])
    assert [chat["payload"] for chat in reader.chats(1)] == ["1"]
    reader.close()


@pytest.mark.parametrize("cursor", ["x", "-1", "99999", "9" * 40, "1.5", "²", "%0A%0Adata: forged"])
def test_an_unknown_cursor_is_answered_in_band_with_where_it_goes_on(shop: Connection, web: Web, cursor: str) -> None:
    send(shop)
    reader = web.open("conversation_id=7&last_event_id=" + urllib.parse.quote(cursor, safe="%"))
    events = reader.events()
    reset = next(events)
    assert (reset["event"], reset["id"]) == ("reset", "0")
    assert json.loads(reset["data"])["latest"] == "1"
    assert next(events)["event"] == "chat"
    reader.close()


def test_a_pruned_cursor_is_answered_with_the_earliest_that_is_left(shop: Connection, web: Web) -> None:
    for _ in range(4):
        send(shop)
    shop.execute("delete from sent_log where position < 3")
    reader = web.open("conversation_id=7", "1")
    events = reader.events()
    assert (next(events)["id"], json.loads(next(events)["data"])["seq"]) == ("2", 3)
    reader.close()


@pytest.mark.parametrize("query", ["", "conversation_id=7&client_id=1", "conversation_id=x", "client_id=0",
                                   "operator_id=2147483648", "conversation_id=7&from=end"])  # fmt: skip
def test_a_bad_request_is_a_problem_that_names_the_field(client: FlaskClient, query: str) -> None:
    answer = client.get("/v1/stream?" + query)
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert answer.get_json(force=True)["errors"][0]["field"] in query + "conversation_id"


def test_no_text_forges_an_event(shop: Connection, web: Web) -> None:
    payload = "\n\ndata: forged\r\revent: x\u2028\u0085id: 99\n\n<script>"
    reader = web.open("conversation_id=7").begin()
    send(shop, payload=payload)
    assert reader.chats(1)[0]["payload"] == payload
    reader.close()


@contextlib.contextmanager
def catching_up(database: str, key: tuple[str, int], until: int) -> Iterator[Iterator[bytes]]:
    """What a stream reads off the log from its start up to the position, part by part."""
    subscription = Subscription(key)
    subscription.begin(since=until)
    engine = make_engine(database, "test", pool_size=1)
    yield stream._catch_up(engine, subscription, 0)
    engine.dispose()


def test_a_stream_that_finds_nothing_for_long_says_how_far_it_has_come(
    shop: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW", 2)
    for _ in range(5):
        enqueue(shop)
    shop.execute("select send_chats()")
    with catching_up(database, ("client_id", 2), until=5) as events:
        assert list(events) == [b"id: 2\n\n", b"id: 4\n\n", b"id: 5\n\n"]


def test_a_quiet_stream_has_a_heartbeat(web: Web) -> None:
    reader = web.open("conversation_id=7").begin()
    reader.socket.settimeout(15)
    assert next(reader.blocks()) == {"": "the stream is alive"}
    reader.close()


class Busy(Subscription):
    """To which something comes each so many seconds of a clock that only its waiting moves."""

    def __init__(self, every: float) -> None:
        super().__init__(("conversation_id", 7))
        self.now, self._every, self._next = 0.0, every, every

    def monotonic(self) -> float:
        return self.now

    def take(self, seconds: float) -> list[tuple[int, bytes]]:
        if self.now + seconds < self._next:
            self.now += seconds
            return []
        self.now = max(self.now, self._next)
        self._next = self.now + self._every
        return [(0, b"event: typing\ndata: {}\n\n")]


@pytest.mark.parametrize("every", [0.1, 10, 11.9, 40])
def test_a_comment_comes_every_15_s_however_busy_the_stream_is(every: float, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Busy(every)
    monkeypatch.setattr(stream, "time", busy)
    ring: Any = SimpleNamespace(still_holds=lambda _: True)
    nothing: Any = None
    parts = stream._events(nothing, nothing, busy, stream.Start(0), stream.HEARTBEAT_SECONDS, ring)
    heard = [0.0, *(busy.now for part in parts if b"\n\n:" in b"\n\n" + part)]
    assert heard[-1] > 280  # to the end of the stream
    assert max(after - before for before, after in pairwise(heard)) <= 15
    assert len(heard) < 600 / 11  # and not with each event


def test_a_reader_that_does_not_read_falls_behind_and_misses_nothing(shop: Connection, web: Web) -> None:
    slow = web.open("conversation_id=7&from=start")
    shop.execute("select enqueue_chat(7, 1, 1, repeat('x', 299)) from generate_series(1, 25000)")
    while shop.execute("select sent from send_chats(1000)").fetchone()[0]:
        pass
    quick = web.open("conversation_id=7&from=start")
    assert [chat["seq"] for chat in quick.chats(25000)] == list(range(1, 25001))
    assert [chat["seq"] for chat in slow.chats(25000)] == list(range(1, 25001))
    slow.close()
    quick.close()


def test_a_reader_that_takes_a_byte_at_a_time_holds_up_nobody_and_misses_nothing(shop: Connection, web: Web) -> None:
    slow, quick = web.open("conversation_id=7").begin(), web.open("conversation_id=7").begin()
    text = ""
    for number in range(1, 201):
        send(shop)
        assert quick.chats(1)[0]["seq"] == number
        text += slow.lines.read(1)
    while '"seq": 200,' not in text:
        text += slow.lines.readline()
    assert re.findall(r'"seq": (\d+),', text) == [str(number) for number in range(1, 201)]
    slow.close()
    quick.close()


def test_a_cursor_of_another_stream_is_a_place_in_the_same_log(shop: Connection, web: Web) -> None:
    send(shop, 7, "before")
    other = web.open("conversation_id=8").begin()
    send(shop, 8)
    other.chats(1)
    send(shop, 7, "after")
    other.close()
    reader = web.open("conversation_id=7", "2")
    assert reader.chats(1)[0]["payload"] == "after"
    reader.close()


def test_sigterm_ends_a_thousand_streams_within_three_seconds(shop: Connection, web: Web) -> None:
    readers = [web.open("conversation_id=7").begin() for _ in range(1000)]
    send(shop)
    assert web.process.end(seconds=3) == 0
    web.run()
    for reader in readers:
        seqs = [json.loads(event["data"])["seq"] for event in reader.events()]
        if not seqs:
            again = web.open("conversation_id=7", reader.cursor)
            seqs = [chat["seq"] for chat in again.chats(1)]
            again.close()
        assert seqs == [1]
        reader.close()


def test_streams_of_a_thousand_readers_that_vanished_are_forgotten(shop: Connection, web: Web) -> None:
    vanishing = [web.open("conversation_id=7").begin() for _ in range(1000)]
    for gone in vanishing:  # without a goodbye
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    reader = web.open("conversation_id=7").begin()
    for _ in range(3):  # a write to a closed connection fails at the second attempt
        send(shop)
        reader.chats(1)
    (process,) = psutil.Process(web.process.popen.pid).children()

    def streams() -> int:
        return len([c for c in process.net_connections() if c.status == "ESTABLISHED" and c.laddr.port == web.port])

    eventually(lambda: streams() < 5)
    reader.close()


@pytest.mark.parametrize(
    "request_text",
    [
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\nclient_id=1&username=An",
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_body_that_ends_early_or_is_cut_into_no_chunks_is_refused(web: Web, request_text: str) -> None:
    """What only a real server sees: of half a form, half a chat must not be made."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        connection.sendall(f"POST /v1/clients HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{request_text}".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer


def raw(web: Web, *parts: bytes) -> bytes:
    """The answer to these bytes. What is not taken any more is none of ours."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"ZZ\r\n"])
def test_a_body_in_chunks_that_too_large_is_refused_and_not_cut_short(web: Web, shop: Connection, end: bytes) -> None:
    head = b"POST /app/addClient/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    form = b"client_id=77&location=x&pad=" + b"x" * (5 * 2**20 - 39) + b"&username=Annabella"  # cut within the name
    answer = raw(web, head, b"%x\r\n" % len(form), form, b"\r\n", end)
    assert answer.startswith(b"HTTP/1.1 413"), answer
    assert b"application/problem+json" in answer
    assert shop.execute("select count(*) from clients where client_id = 77").fetchone() == (0,)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("POST /v1/chats HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: foo\r\n\r\n", 400),
        (f"GET /v1/stores/1/hours/explain?at={'9' * 5000} HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (f"GET /v1/stream?client_id=1 HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {'9' * 9000}\r\n\r\n", 431),
        ("POST /v1/chats HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", 400),
        ("GET /v1/chats/1 HTTP/1.1\r\nHost: x\r\nExpect: x\r\n\r\n", 417),
    ],
)
def test_what_the_server_itself_refuses_is_a_problem_too(web: Web, request_text: str, status: int) -> None:
    head, _, body = raw(web, request_text.encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


# Everything dies, and every reader has each of its chats once and in order -----------------------------

CHATS, CONVERSATIONS = 10_000, 200


def read_some(port: int, query: str, cursor: str, most: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(cursor, chat) of each whole event in the first `most` bytes of a stream, which is cut there, at any place."""
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(f"GET /v1/stream?{query} HTTP/1.0\r\nLast-Event-ID: {cursor}\r\n\r\n".encode())
        text = b""
        while most > 0 and (more := connection.recv(min(most, 65536))):
            most -= len(more)
            *blocks, text = (text + more).split(b"\n\n")
            for block in blocks:
                fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
                if fields.get(b"event") == b"chat":
                    yield fields[b"id"].decode(), json.loads(fields[b"data"])


def follow(web: Web, query: str, done: threading.Event, seen: list[tuple[int, int]]) -> None:
    """A reader that reconnects with its last id through everything, and cuts itself at a random byte."""
    cursor = "0"
    cut = random.Random(query)
    while not done.is_set():
        try:
            for after, chat in read_some(web.port, query, cursor, cut.randint(1, 200_000)):
                seen.append((chat["conversation_id"], chat["seq"]))
                cursor = after
        except OSError:
            continue


def produce(url: str, chats: int, seed: int) -> None:
    """Enqueues that many chats with ids of its own, again and again until each is confirmed."""
    choice = random.Random(seed)
    chat_ids = iter(range(seed * 1_000_000, seed * 1_000_000 + chats))
    conversation, chat_id = choice.randint(1, CONVERSATIONS), next(chat_ids)
    while True:
        try:
            with psycopg.connect(url, autocommit=True) as db:
                while True:
                    enqueue(db, conversation, "x", chat_id, client=conversation % 5 + 1)
                    conversation, chat_id = choice.randint(1, CONVERSATIONS), next(chat_ids)
        except psycopg.OperationalError:
            continue
        except StopIteration:
            return


@pytest.mark.timeout(180)
def test_readers_miss_nothing_whatever_dies(public_folder: Path, start: Start) -> None:
    with Cluster(public_folder / "data") as cluster:
        url = cluster.url
        port = int(url.rpartition(":")[2].partition("/")[0])
        prepare(url)
        with psycopg.connect(url, autocommit=True) as db:
            db.execute("select add_store(1, 'UTC', '00:00', '00:00')")
            db.execute("insert into clients select g, 'c', 'x' from generate_series(1, 5) g")
            db.execute("insert into operators values (1, 'o', 'x', 1)")
        web = Web(start, url)
        worker = start("worker", DATABASE_URL=url)
        done = threading.Event()
        queries = ["operator_id=1", *(f"client_id={n}" for n in range(1, 6)), "conversation_id=3"]
        seen: dict[str, list[tuple[int, int]]] = {query: [] for query in queries}
        with ThreadPoolExecutor(12) as pool:
            readers = [pool.submit(follow, web, query, done, seen[query]) for query in queries]
            producers = [pool.submit(produce, url, CHATS // 4, seed) for seed in range(1, 5)]
            try:
                for turn in range(3):
                    goal = CHATS * (turn + 1) // 5
                    eventually(lambda goal=goal: len(seen["operator_id=1"]) >= goal)  # type: ignore[misc]
                    worker.end(signal.SIGKILL)
                    worker = start("worker", DATABASE_URL=url)
                    terminate(url, "shoptalk feed")
                    web.process.end(signal.SIGKILL)
                    web.run()
                cluster.stop()
                cluster.start(port=port)
                for producer in producers:
                    producer.result()
                eventually(lambda: len(seen["operator_id=1"]) >= CHATS)
                eventually(lambda: sum(len(seen[f"client_id={n}"]) for n in range(1, 6)) >= CHATS)
                eventually(lambda: len(seen["conversation_id=3"]) >= last_seq(url, 3))
            finally:
                done.set()
            for reader in readers:
                reader.result()
        for query in queries:
            order: dict[int, list[int]] = defaultdict(list)
            for conversation, seq in seen[query]:
                order[conversation].append(seq)
            for conversation, seqs in order.items():
                assert seqs == list(range(1, last_seq(url, conversation) + 1)), query
        assert len(seen["operator_id=1"]) == CHATS


def last_seq(url: str, conversation: int) -> int:
    with psycopg.connect(url) as db:
        return int(
            db.execute("select last_seq from conversations where conversation_id = %s", [conversation]).fetchone()[0]
        )


def terminate(url: str, application: str) -> None:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", [application])
