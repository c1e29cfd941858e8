"""The bell: producers ring only for sleepers, and no wake-up is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.conftest import Connection, clock
from tests.test_enqueue import enqueue
from worker.bell import Bell


def rings(db: Connection) -> int:
    return len(list(db.notifies(timeout=0.1)))


def say_asleep(db: Connection) -> bool | None:
    from sql.database import query

    return db.execute(str(query("say_asleep"))).fetchone()[0]


def test_nobody_rings_while_nobody_sleeps(shop: Connection) -> None:
    shop.execute("listen chat_queued")
    enqueue(shop)
    assert rings(shop) == 0


def test_a_chat_rings_for_a_sleeper(shop: Connection, connect: Callable[[], Connection]) -> None:
    shop.execute("listen chat_queued")
    assert say_asleep(connect()) is True
    enqueue(shop)
    assert rings(shop) == 1


def test_a_held_chat_wakes_nobody(shop: Connection, connect: Callable[[], Connection]) -> None:
    shop.execute("listen chat_queued")
    assert say_asleep(connect()) is True
    clock(shop, "2026-03-02 03:00")
    assert enqueue(shop, operator=2).state == "held"
    assert rings(shop) == 0


def test_nobody_falls_asleep_over_a_transaction_that_did_not_ring(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    """The lost wake-up: it saw nobody asleep, so it will not ring; it has not committed, so it is not seen."""
    producer, worker = connect(), connect()
    with producer.transaction():
        enqueue(producer)
        assert say_asleep(worker) is False
    assert say_asleep(worker) is True


def test_a_second_sleeper_leaves_the_bell_to_the_first(shop: Connection, connect: Callable[[], Connection]) -> None:
    assert say_asleep(connect()) is True
    assert say_asleep(connect()) is None


def test_a_sleeper_that_dies_takes_its_lock_with_it(shop: Connection, connect: Callable[[], Connection]) -> None:
    first, second = connect(), connect()
    assert say_asleep(first) is True
    shop.execute("select pg_terminate_backend(%s, 5000)", [first.info.backend_pid])
    assert say_asleep(second) is True


def test_the_worker_sleeps_until_it_is_rung_and_survives_a_cut(shop: Connection, database: str) -> None:
    bell = Bell(database)
    while not bell._armed:
        bell.wait(worked=False)
    ended = threading.Event()

    def wait() -> None:
        while not bell._rung:
            bell.wait(worked=False)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    enqueue(shop)
    assert ended.wait(10)
    thread.join()
    shop.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'shoptalk worker bell' and datname = current_database()"
    )
    while bell._armed:
        bell.wait(worked=False)
    bell._reconnect_at = 0
    while not bell._armed:
        bell.wait(worked=False)
    bell.close()
