"""GET /v1/stream on real gunicorn with gevent: what a reader gets."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import urllib.parse
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.push.feed import Subscription
from api.views import stream
from tests.support.db import Connection, enqueue, post_and_send
from tests.support.web import Web, catching_up


@pytest.mark.parametrize("query", ["conversation_id=7", "client_id=1", "operator_id=1"])
def test_a_sent_chat_comes_to_its_readers_and_to_no_others(shop: Connection, web: Web, query: str) -> None:
    reader = web.open(query).begin()
    assert reader.headers["content-type"].startswith("text/event-stream")
    assert reader.headers["x-accel-buffering"] == "no"
    post_and_send(shop, 8, client=2, operator=2)
    shop.execute("set shoptalk.now = '2026-03-02 10:00+00'")  # store 2 is open
    shop.execute("select send_chats()")
    sent = post_and_send(shop)
    (chat,) = reader.chats(1)
    assert (chat["chat_id"], chat["conversation_id"], chat["state"], chat["release_at"]) == (
        sent["chat_id"], 7, "sent", None)  # fmt: skip
    reader.close()


def test_it_begins_with_now_or_with_the_first(shop: Connection, web: Web) -> None:
    for number in range(3):
        post_and_send(shop, payload=str(number))
    now = web.open("conversation_id=7").begin()
    first = web.open("conversation_id=7&from=start").begin()
    post_and_send(shop, payload="3")
    assert [chat["payload"] for chat in now.chats(1)] == ["3"]
    assert [chat["payload"] for chat in first.chats(4)] == ["0", "1", "2", "3"]
    now.close()
    first.close()


@pytest.mark.parametrize("query", ["conversation_id=7", "client_id=1", "operator_id=1"])
def test_it_goes_on_right_after_the_last_event(shop: Connection, web: Web, query: str) -> None:
    reader = web.open(query).begin()
    for number in range(4):
        post_and_send(shop, payload=str(number))
        post_and_send(shop, 8, payload="other", client=2)
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
    post_and_send(shop)
    again = web.open("conversation_id=7", cursor)
    assert len(again.chats(1)) == 1
    again.close()


def test_a_page_load_and_the_stream_leave_no_gap(shop: Connection, web: Web, client: FlaskClient) -> None:
    post_and_send(shop, payload="0")
    enqueue(shop, payload="1")
    page = client.get("/v1/conversations/7").get_json()
    shop.execute("select send_chats()")
    reader = web.open("conversation_id=7", page["cursor"])
    assert [chat["payload"] for chat in reader.chats(1)] == ["1"]
    reader.close()


@pytest.mark.parametrize("cursor", ["x", "-1", "99999", "9" * 40, "1.5", "²", "%0A%0Adata: forged"])
def test_an_unknown_cursor_is_answered_in_band_with_where_it_continues(shop: Connection, web: Web, cursor: str) -> None:
    post_and_send(shop)
    reader = web.open("conversation_id=7&last_event_id=" + urllib.parse.quote(cursor, safe="%"))
    events = reader.events()
    reset = next(events)
    assert (reset["event"], reset["id"]) == ("reset", "0")
    assert json.loads(reset["data"])["latest"] == "1"
    assert next(events)["event"] == "chat"
    reader.close()


def test_a_pruned_cursor_is_answered_with_the_earliest_that_is_left(shop: Connection, web: Web) -> None:
    for _ in range(4):
        post_and_send(shop)
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
    post_and_send(shop, payload=payload)
    assert reader.chats(1)[0]["payload"] == payload
    reader.close()


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
    ring: Any = SimpleNamespace(is_valid=lambda _: True)
    nothing: Any = None
    parts = stream._events(nothing, nothing, busy, stream.Start(0), stream.HEARTBEAT_SECONDS, ring)
    heard = [0.0, *(busy.now for part in parts if b"\n\n:" in b"\n\n" + part)]
    assert heard[-1] > 280  # to the end of the stream
    assert max(after - before for before, after in pairwise(heard)) <= 15
    assert len(heard) < 600 / 11  # and not with each event


def test_a_reader_that_takes_a_byte_at_a_time_holds_up_no_other_and_misses_nothing(shop: Connection, web: Web) -> None:
    slow, quick = web.open("conversation_id=7").begin(), web.open("conversation_id=7").begin()
    text = ""
    for number in range(1, 201):
        post_and_send(shop)
        assert quick.chats(1)[0]["seq"] == number
        text += slow.lines.read(1)
    while '"seq": 200,' not in text:
        text += slow.lines.readline()
    assert re.findall(r'"seq": (\d+),', text) == [str(number) for number in range(1, 201)]
    slow.close()
    quick.close()


def test_a_cursor_of_another_stream_is_a_place_in_the_same_log(shop: Connection, web: Web) -> None:
    post_and_send(shop, 7, "before")
    other = web.open("conversation_id=8").begin()
    post_and_send(shop, 8)
    other.chats(1)
    post_and_send(shop, 7, "after")
    other.close()
    reader = web.open("conversation_id=7", "2")
    assert reader.chats(1)[0]["payload"] == "after"
    reader.close()


@pytest.mark.parametrize(
    "request_text",
    [
        "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\nclient_id=1&username=An",
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_body_that_ends_early_or_has_invalid_chunks_is_refused(web: Web, request_text: str) -> None:
    """What only a real server sees: of half a form, half a chat must not be made."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        connection.sendall(f"POST /v1/clients HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{request_text}".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer


def raw(web: Web, *parts: bytes) -> bytes:
    """The answer to these bytes. Bytes that the server refuses to read are not an error."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"ZZ\r\n"])
def test_a_chunked_body_that_is_too_large_is_refused_and_not_cut_short(web: Web, shop: Connection, end: bytes) -> None:
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
