"""GET /v1/stream under load and when processes die: what each reader gets."""

from __future__ import annotations

import json
import random
import signal
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from embedded.cluster import Cluster
from sql.install import prepare
from tests.support.db import Connection, enqueue, post_and_send
from tests.support.processes import POLL_SECONDS, Start, eventually
from tests.support.web import Web

pytestmark = pytest.mark.system


def test_a_reader_that_does_not_read_falls_behind_and_misses_nothing(shop: Connection, own_web: Web) -> None:
    slow = own_web.open("conversation_id=7&from=start")
    shop.execute("select enqueue_chat(7, 1, 1, repeat('x', 299)) from generate_series(1, 25000)")
    while shop.execute("select sent from send_chats(1000)").fetchone()[0]:
        pass
    quick = own_web.open("conversation_id=7&from=start")
    assert [chat["seq"] for chat in quick.chats(25000)] == list(range(1, 25001))
    assert [chat["seq"] for chat in slow.chats(25000)] == list(range(1, 25001))
    slow.close()
    quick.close()


def test_sigterm_ends_a_thousand_streams_within_three_seconds(shop: Connection, own_web: Web) -> None:
    readers = [own_web.open("conversation_id=7").begin() for _ in range(1000)]
    post_and_send(shop)
    assert own_web.process.end(seconds=3) == 0
    own_web.run()
    for reader in readers:
        seqs = [json.loads(event["data"])["seq"] for event in reader.events()]
        if not seqs:
            again = own_web.open("conversation_id=7", reader.cursor)
            seqs = [chat["seq"] for chat in again.chats(1)]
            again.close()
        assert seqs == [1]
        reader.close()


def test_streams_of_a_thousand_readers_that_vanished_are_forgotten(shop: Connection, own_web: Web) -> None:
    vanishing = [own_web.open("conversation_id=7").begin() for _ in range(1000)]
    for gone in vanishing:  # without a goodbye
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    reader = own_web.open("conversation_id=7").begin()
    for _ in range(3):  # a write to a closed connection fails at the second attempt
        post_and_send(shop)
        reader.chats(1)
    (process,) = psutil.Process(own_web.process.popen.pid).children()

    def streams() -> int:
        return len([c for c in process.net_connections() if c.status == "ESTABLISHED" and c.laddr.port == own_web.port])

    eventually(lambda: streams() < 5)
    reader.close()


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
            time.sleep(POLL_SECONDS)


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
            time.sleep(POLL_SECONDS)
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
