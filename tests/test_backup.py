"""Backup and restore: a dump of a running system is consistent, and a worker continues from it."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from sql.install import prepare
from tests.support.db import Connection, count, dump, enqueue, enqueue_until, run_pg_program
from tests.support.processes import Start, eventually

pytestmark = pytest.mark.system


def deliver(database: str, enough: threading.Event) -> None:
    """Moves the channel's cursor to the end of the log, by lease and token, as a relay does."""
    with psycopg.connect(database, autocommit=True) as db:
        while not enough.is_set():
            row = db.execute(
                "select token, (select max(position) from sent_log) from lease_channel(1, 'x', 9)"
            ).fetchone()
            if row is not None and row[1] is not None:
                db.execute("select settle_batch(1, %s, %s, 0, '{}', '[]', '[]'), return_lease(1, %s)", [*row, row[0]])


def log_of(db: Connection) -> list[tuple[int, int, int, int]]:
    return db.execute("select position, chat_id, conversation_id, seq from sent_log order by position").fetchall()


def test_a_dump_of_a_live_system_is_restored_and_a_worker_goes_on_in_order(
    shop: Connection, database: str, empty: str, start: Start
) -> None:
    shop.execute("insert into channels (store_id, name, kind, cursor) values (1, 'crm', 'webhook', 0)")
    shop.execute("select enqueue_chat(99, 2, 2, 'held'), pause_store(2)")
    worker = start("worker", DATABASE_URL=database)
    enough = threading.Event()
    with ThreadPoolExecutor() as pool:
        producers = [pool.submit(enqueue_until, database, range(10 * n + 1, 10 * n + 6), 100, enough) for n in (0, 1)]
        relay = pool.submit(deliver, database, enough)
        try:
            eventually(lambda: count(shop, "sent_log") > 100)
            backup = run_pg_program("pg_dump", "-Fc", database)
        finally:
            enough.set()
        [producer.result() for producer in producers]
        relay.result()
    eventually(lambda: count(shop, "chat_queue") == 1)
    worker.end()
    run_pg_program("pg_restore", "--exit-on-error", "--single-transaction", "-d", empty, given=backup)

    prepare(empty)
    # Except for parentheses: `a and b and c` is restored as `(a and b) and c`.
    assert re.sub("[()]", "", dump(empty)) == re.sub("[()]", "", dump(database))
    with psycopg.connect(empty, autocommit=True) as restored:
        log = log_of(restored)
        assert 100 < len(log) < count(shop, "sent_log"), "the dump was made while chats were sent"
        assert log == log_of(shop)[: len(log)]
        waiting = {chat for (chat,) in restored.execute("select chat_id from chat_queue")}
        chats = {chat for (chat,) in restored.execute("select chat_id from chats")}
        assert waiting | {chat for _, chat, _, _ in log} == chats
        assert not waiting & {chat for _, chat, _, _ in log}
        assert restored.execute("select cursor <= %s from channels", [len(log)]).fetchone() == (True,)

        again = start("worker", DATABASE_URL=empty)
        fresh = [enqueue(restored, conversation) for conversation in (1, 11, 1)]
        assert not chats & {chat.chat_id for chat in fresh}
        eventually(lambda: count(restored, "chat_queue") == 1)
        again.end()
        after = log_of(restored)
        assert after[: len(log)] == log
        assert [position for position, *_ in after] == list(range(1, len(after) + 1))
        seqs = defaultdict(list)
        for _, _, conversation, seq in after:
            seqs[conversation].append(seq)
        assert all(got == list(range(1, len(got) + 1)) for got in seqs.values())
        assert {chat for _, chat, _, _ in after} == (chats | {chat.chat_id for chat in fresh}) - {
            chat for (chat,) in restored.execute("select chat_id from chats where conversation_id = 99")
        }
