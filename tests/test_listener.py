"""The wake-up: producers notify only idle workers, and no wake-up is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from sql.database import query
from tests.support.db import Connection, clock, enqueue
from worker.listener import Listener


def count_notifications(db: Connection) -> int:
    return len(list(db.notifies(timeout=0.1)))


def arm_wakeup(db: Connection) -> bool | None:
    return db.execute(str(query("worker/arm_wakeup"))).fetchone()[0]


def test_enqueueing_does_not_notify_while_no_worker_is_idle(shop: Connection) -> None:
    shop.execute("listen chat_queued")
    enqueue(shop)
    assert count_notifications(shop) == 0


def test_a_chat_notifies_an_idle_worker(shop: Connection, connect: Callable[[], Connection]) -> None:
    shop.execute("listen chat_queued")
    assert arm_wakeup(connect()) is True
    enqueue(shop)
    assert count_notifications(shop) == 1


def test_a_held_chat_wakes_no_worker(shop: Connection, connect: Callable[[], Connection]) -> None:
    shop.execute("listen chat_queued")
    assert arm_wakeup(connect()) is True
    clock(shop, "2026-03-02 03:00")
    assert enqueue(shop, operator=2).state == "held"
    assert count_notifications(shop) == 0


def test_no_worker_goes_idle_over_a_transaction_that_did_not_notify(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    """The lost wake-up: the producer sees no idle worker and does not notify; its chat is not yet visible."""
    producer, worker = connect(), connect()
    with producer.transaction():
        enqueue(producer)
        assert arm_wakeup(worker) is False
    assert arm_wakeup(worker) is True


def test_a_second_idle_worker_leaves_the_wake_up_to_the_first(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    assert arm_wakeup(connect()) is True
    assert arm_wakeup(connect()) is None


def test_an_idle_worker_that_dies_releases_its_lock(shop: Connection, connect: Callable[[], Connection]) -> None:
    first, second = connect(), connect()
    assert arm_wakeup(first) is True
    shop.execute("select pg_terminate_backend(%s, 5000)", [first.info.backend_pid])
    assert arm_wakeup(second) is True


def test_the_worker_is_idle_until_it_is_notified_and_survives_a_cut(
    shop: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.listener.RECONNECT_SECONDS", 0)
    listener = Listener(database)
    wait_until_idle(listener)
    ended = threading.Event()

    def wait() -> None:
        while not listener.was_notified:
            listener.wait(worked=False)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    enqueue(shop)
    assert ended.wait(10)
    thread.join()
    shop.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'shoptalk worker listener' and datname = current_database()"
    )
    while listener.is_idle:
        listener.wait(worked=False)
    wait_until_idle(listener)
    listener.close()


def wait_until_idle(listener: Listener) -> None:
    while not listener.is_idle:
        listener.wait(worked=False)
