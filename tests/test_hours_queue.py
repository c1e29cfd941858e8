"""Hours and the queue: two lanes, a pace, and changes while chats flow. Nothing outside the hours, nothing stuck."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.db import Connection, clock, enqueue, send_batch, sent, set_clock, states, wait_until_blocked
from tests.support.processes import Process

NIGHT, OPENING, CLOSING = "2026-03-02 03:00", "2026-03-02 09:00", "2026-03-02 14:00"


def change(db: Connection, weekly: dict[str, Any], **others: Any) -> None:
    hours = {"timezone": "UTC", "weekly": weekly, "exceptions": []} | others
    db.execute("select change_hours(2, %s::json)", [json.dumps(hours)])


def every_day(*spans: tuple[str, str]) -> dict[str, Any]:
    return {day: list(spans) for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")}


def due(db: Connection) -> list[str]:
    """When each waiting chat is due, in UTC, by conversation and seq."""
    return [
        instant
        for (instant,) in db.execute(
            "select to_char(due_at at time zone 'UTC', 'DD HH24:MI:SS') from chat_queue order by conversation_id, seq"
        )
    ]


def hold(db: Connection, chats: int, conversations: int = 10) -> None:
    db.execute("select enqueue_chat(100 + g %% %s, 1, 2, 'held') from generate_series(0, %s - 1) g",
               [conversations, chats])  # fmt: skip


def in_order(db: Connection) -> bool:
    return db.execute(
        "select not exists (select from (select seq, lag(seq) over (partition by conversation_id order by position)"
        " as before from sent_log) l where before >= seq)"
    ).fetchone()[0]


def test_the_opening_writes_no_row(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 100)
    rows = "select array_agg(xmin::text || ctid::text order by ctid) from chat_queue"
    before = shop.execute(rows).fetchone()
    clock(shop, OPENING)
    shop.execute("select keep_hours()")
    assert states(shop) == ["queued"] * 100
    assert shop.execute(rows).fetchone() == before
    assert send_batch(shop).sent == 100


def test_live_chats_do_not_wait_behind_the_flood_nor_the_flood_behind_them(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 50)
    clock(shop, "2026-03-02 09:00:05")
    for conversation in range(1, 31):
        enqueue(shop, conversation)
    assert send_batch(shop, batch_size=20).sent == 24
    assert sum(conversation < 100 for conversation, _ in sent(shop)) == 20, "a batch of live ones"
    assert len(sent(shop)) == 24, "with a fifth of one of the held"
    while send_batch(shop, batch_size=20).claimed:
        pass
    assert set(states(shop)) == {"sent"}
    assert in_order(shop)


def test_a_flood_alone_does_not_pass_for_a_backlog_of_live_chats(shop: Connection) -> None:
    """A worker would answer it by ever larger batches, and the next live chat would wait for one of them."""
    clock(shop, NIGHT)
    hold(shop, 50)
    clock(shop, "2026-03-02 09:00:05")
    report = send_batch(shop, batch_size=20)
    assert (report.claimed, report.live_floor) == (20, None)
    assert ",2," in report.held_floor
    enqueue(shop, 7)
    assert send_batch(shop, batch_size=20).live_floor is not None


def test_a_live_chat_waits_for_the_held_ones_of_its_own_conversation(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 40, conversations=2)
    clock(shop, "2026-03-02 09:00:05")
    enqueue(shop, 100, operator=2)
    enqueue(shop, 7)
    assert send_batch(shop, batch_size=10).sent == 3, "seq 21 waits"
    assert (7, 1) in sent(shop)
    # It has joined the held at the instant of the one before it, once.
    assert shop.execute("select held_since is not null, due_at = '2026-03-02 09:00+00' from chat_queue"
                        " where conversation_id = 100 and seq = 21").fetchone() == (True, True)  # fmt: skip
    while send_batch(shop, batch_size=10).claimed:
        pass
    assert set(states(shop)) == {"sent"}
    assert in_order(shop)


def test_held_chats_keep_their_order_below_and_above_the_floor(shop: Connection) -> None:
    """Claimed from the floor that each report gives, as the worker does it."""
    clock(shop, NIGHT)
    hold(shop, 300, conversations=20)
    clock(shop, OPENING)
    start: list[Any] = ["-infinity", "(-infinity,0,0)"]
    floor = start
    for turn in range(60):
        if turn % 3 == 0:
            enqueue(shop, 100 + turn % 20, operator=2)
        claimed, live, held, below = shop.execute(
            "select claimed, live_floor, held_floor, below_floor from send_chats(%s, %s, %s)", [10, *floor]
        ).fetchone()
        found = [live or floor[0], held or floor[1]]
        floor = start if below or not claimed else found
    assert set(states(shop)) == {"sent"}
    assert in_order(shop)


def test_a_pace_spreads_what_is_held_and_never_past_the_closing(shop: Connection) -> None:
    clock(shop, NIGHT)
    change(shop, every_day(("09:00", "09:02")), pace_per_minute=2)
    hold(shop, 6, conversations=1)
    told = [row[0] for row in shop.execute("select to_char(held_until at time zone 'UTC', 'DD HH24:MI:SS')"
                                           " from chats order by seq")]  # fmt: skip
    slots = ["02 09:00:00", "02 09:00:30", "02 09:01:00", "02 09:01:30", "03 09:00:00", "03 09:00:30"]
    assert told == due(shop) == slots
    clock(shop, "2026-03-02 09:00:45")
    assert send_batch(shop).sent == 2
    enqueue(shop, 100, operator=2)
    send_batch(shop)
    assert due(shop)[-1] == "02 09:01:00", "what arrives live waits for those before it"
    enqueue(shop, 8, operator=2)
    assert send_batch(shop).sent == 1, "and has no pace of its own"


def test_a_change_of_hours_keeps_pace_and_order(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 7, conversations=2)
    change(shop, every_day(("10:00", "10:02")), pace_per_minute=2)
    assert sorted(due(shop)) == ["02 10:00:00", "02 10:00:30", "02 10:01:00", "02 10:01:30",
                                 "03 10:00:00", "03 10:00:30", "03 10:01:00"]  # fmt: skip
    hold(shop, 1, conversations=1)
    assert max(due(shop)) == "03 10:01:30", "the next one goes after those that were moved"
    change(shop, every_day(("10:00", "10:02")))
    assert set(due(shop)) == {"02 10:00:00"}
    change(shop, {}, pace_per_minute=2)
    assert shop.execute("select every(due_at = 'infinity') from chat_queue").fetchone() == (True,)
    change(shop, every_day(("02:00", "04:00")), pace_per_minute=600)
    clock(shop, "2026-03-02 03:30")
    assert send_batch(shop).sent == 8
    assert in_order(shop)


def test_what_a_paced_store_takes_back_is_spread_too(shop: Connection) -> None:
    clock(shop, "2026-03-02 13:59")
    change(shop, every_day(("09:00", "14:00")), pace_per_minute=1)
    for _ in range(3):
        enqueue(shop, operator=2)
    clock(shop, CLOSING)
    assert send_batch(shop).sent == 0
    assert due(shop) == ["03 09:00:00", "03 09:01:00", "03 09:02:00"]


def test_sending_does_not_wait_for_a_locked_pace(shop: Connection, connect: Callable[[], Connection]) -> None:
    clock(shop, "2026-03-02 13:59")
    change(shop, every_day(("09:00", "14:00")), pace_per_minute=1)
    enqueue(shop, operator=2)
    other = connect()
    with other.transaction():
        other.execute("select from store_paces for update")
        clock(shop, CLOSING)
        shop.execute("set lock_timeout = '1s'")
        send_batch(shop)
        assert due(shop) == ["02 14:00:01"]
    clock(shop, "2026-03-02 14:00:01")
    send_batch(shop)
    assert due(shop) == ["03 09:00:00"]


def test_hours_written_by_hand_move_what_is_held_at_the_commit(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 3)
    with shop.transaction():
        shop.execute("insert into store_exceptions (store_id, date) values (2, '2026-03-02')")
        assert set(due(shop)) == {"02 09:00:00"}
    assert set(due(shop)) == {"03 09:00:00"}
    shop.execute("insert into store_exception_spans values (2, '2026-03-02', false, '07:00', '08:00')")
    assert set(due(shop)) == {"02 07:00:00"}
    shop.execute("delete from store_exceptions")
    shop.execute("update stores set timezone = 'Europe/Berlin' where store_id = 2")
    assert set(due(shop)) == {"02 08:00:00"}


def test_a_chat_held_while_the_hours_are_being_changed_goes_by_the_new_ones(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    clock(shop, NIGHT)
    other = connect()
    clock(other, NIGHT)
    with other.transaction():
        change(other, every_day(("06:00", "08:00")))
        enqueue(shop, operator=2)
    clock(shop, "2026-03-02 03:00:01")
    send_batch(shop)
    assert due(shop) == ["02 06:00:00"]


@pytest.mark.parametrize(
    ("statement", "goes"),
    [
        ("select resume_store(2)", "02 09:00:00"),
        ("update store_hours set opens = '06:00' where store_id = 2", "02 06:00:00"),
    ],
)
def test_what_the_claim_puts_back_while_the_hours_change_goes_by_the_new_ones(
    shop: Connection, connect: Callable[[], Connection], statement: str, goes: str
) -> None:
    clock(shop, NIGHT)
    other = connect()
    clock(other, NIGHT)
    if "resume" in statement:
        shop.execute("select pause_store(2)")
    with other.transaction():
        other.execute(statement.encode())
        other.execute("set constraints all immediate")
        enqueue(shop, operator=2)
        clock(shop, "2026-03-02 03:00:01")
        assert send_batch(shop).claimed == 1
    clock(shop, "2026-03-02 03:00:03")
    send_batch(shop)
    assert due(shop) == [goes]


def test_a_change_of_hours_waits_for_what_the_claim_puts_back(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    clock(shop, "2026-03-02 13:59")
    enqueue(shop, operator=2)
    clock(shop, CLOSING)
    other = connect()
    clock(other, CLOSING)
    with shop.transaction():
        send_batch(shop)
        thread = threading.Thread(target=lambda: change(other, every_day(("17:00", "18:00"))))
        thread.start()
        wait_until_blocked(connect(), other)
    thread.join()
    assert due(shop) == ["02 17:00:00"]


def test_quiet_hours_that_change_while_the_stores_hours_do_go_by_the_new_ones(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    clock(shop, NIGHT)
    enqueue(shop, operator=2, sender="operator")
    other = connect()
    clock(other, NIGHT)
    with shop.transaction():
        change(shop, every_day(("06:00", "08:00")))
        thread = threading.Thread(target=other.execute, args=["select set_quiet_hours(1, 'UTC', '22:00', '02:00')"])
        thread.start()
        wait_until_blocked(connect(), other)
    thread.join()
    assert due(shop) == ["02 06:00:00"]


def test_a_change_of_hours_waits_for_a_chat_that_is_being_held(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    clock(shop, NIGHT)
    other = connect()
    clock(other, NIGHT)
    with shop.transaction():
        enqueue(shop, operator=2)
        thread = threading.Thread(target=lambda: change(other, every_day(("06:00", "08:00"))))
        thread.start()
        watcher = connect()
        wait_until_blocked(watcher, other)
    thread.join()
    assert due(shop) == ["02 06:00:00"]


def test_a_clock_that_steps_back_an_hour_over_the_opening(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 30)
    clock(shop, "2026-03-02 09:00:01")
    assert send_batch(shop, batch_size=10).sent == 10
    clock(shop, "2026-03-02 08:00:01")
    shop.execute("select keep_hours()")
    while send_batch(shop, batch_size=10).claimed:
        pass
    assert len(sent(shop)) == 10, "it is before the opening again"
    enqueue(shop, 100, operator=2)
    assert states(shop).count("held") == 21
    clock(shop, OPENING)
    while send_batch(shop, batch_size=10).claimed:
        pass
    assert set(states(shop)) == {"sent"}
    assert in_order(shop)


def test_hours_that_change_in_the_middle_of_the_flood(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 60)
    clock(shop, "2026-03-02 09:00:01")
    assert send_batch(shop, batch_size=20).sent == 20
    change(shop, every_day(("11:00", "12:00")))
    while send_batch(shop, batch_size=20).claimed:
        pass
    assert len(sent(shop)) == 20
    assert set(due(shop)) == {"02 11:00:00"}
    clock(shop, "2026-03-02 11:30")
    while send_batch(shop, batch_size=20).claimed:
        pass
    assert set(states(shop)) == {"sent"}
    assert in_order(shop)


def test_zone_rules_that_change_are_noticed_within_a_day(shop: Connection) -> None:
    clock(shop, NIGHT)
    hold(shop, 2)
    # As if it had been looked up by other rules, two days ago.
    shop.execute(
        "update stores set (closed_since, opens_at, closes_at, looked_up_at) = ('2026-03-01 14:00+00',"
        " '2026-03-02 10:00+00', '2026-03-02 15:00+00', '2026-02-28 00:00+00') where store_id = 2"
    )
    shop.execute("update chat_queue set due_at = '2026-03-02 10:00+00'")
    assert shop.execute("select keep_hours()").fetchone() == (0,)  # there may be more stores to move
    assert set(due(shop)) == {"02 09:00:00"}
    assert shop.execute("select keep_hours()").fetchone() != (0,)


def test_two_schedules_and_two_workers_release_once(shop: Connection, database: str, start: Callable[..., Process],
                                                    connect: Callable[[], Connection]) -> None:  # fmt: skip
    """Real workers over an opening that comes by the real clock's way: the database's clock is set."""
    clock(shop, NIGHT)
    hold(shop, 500, conversations=50)
    set_clock(shop, "2026-03-02 08:59:59")
    workers = [start("worker", DATABASE_URL=database) for _ in range(2)]
    for worker in workers:
        worker.expect("listening")
    enqueue(connect(), 7)
    shop.execute("listen chat_sent")
    wait_for(shop, lambda: len(sent(shop)) == 1)
    set_clock(shop, OPENING)
    wait_for(shop, lambda: len(sent(shop)) == 501)
    assert in_order(shop)


def wait_for(db: Connection, holds: Callable[[], bool]) -> None:
    for _ in range(60):
        if holds():
            return
        list(db.notifies(timeout=0.5, stop_after=1))
    pytest.fail("it never came to hold")


def test_the_ranges_of_a_day_hold_what_reaches_into_it(shop: Connection) -> None:
    change(shop, {"sun": [("22:00", "02:00")], "mon": [("09:00", "10:00"), ("23:00", "23:00")]})
    day = "select open_ranges(2, %s, %s)::text"
    assert shop.execute(day, ["2026-03-02", "2026-03-02"]).fetchone() == (
        '{["2026-03-02 00:00:00+00","2026-03-02 02:00:00+00"),["2026-03-02 09:00:00+00","2026-03-02 10:00:00+00"),'
        '["2026-03-02 23:00:00+00","2026-03-03 00:00:00+00")}',
    )


@pytest.mark.parametrize("stop", ["select pause_store(2)", "delete from store_hours where store_id = 2"])
def test_quiet_hours_in_a_store_that_never_opens_end_the_search_for_an_opening(shop: Connection, stop: str) -> None:
    clock(shop, OPENING)
    shop.execute("set statement_timeout = '5s'")
    shop.execute("select set_quiet_hours(1, 'UTC', '22:00', '07:00'), enqueue_chat(5, 1, 2, 'x', 'operator')")
    clock(shop, NIGHT)
    shop.execute("select enqueue_chat(6, 1, 2, 'x', 'operator')")
    shop.execute(stop)
    shop.execute("select enqueue_chat(7, 1, 2, 'x', 'operator'), set_quiet_hours(1, 'UTC', '21:00', '07:00')")
    assert shop.execute("select count(*) from chat_queue where due_at = 'infinity'").fetchone() != (0,)
