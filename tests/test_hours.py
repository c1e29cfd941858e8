"""Opening hours: holding and releasing chats, to the microsecond, by the database's clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.db import Connection, clock, enqueue, send_batch, sent, set_clock, states
from tests.support.processes import Process, eventually

BEFORE_OPENING, OPENING = "2026-03-02 08:59:59.999999", "2026-03-02 09:00:00"
BEFORE_CLOSING, CLOSING = "2026-03-02 13:59:59.999999", "2026-03-02 14:00:00"
TOMORROW = "2026-03-03 09:00:00"


def next_release(db: Connection, instant: str, store_id: int = 2) -> str | None:
    """The release at the instant, UTC, as text; None when the store is open."""
    return db.execute(
        "select next_release(%s, %s::timestamp at time zone 'UTC') at time zone 'UTC' || ''", [store_id, instant]
    ).fetchone()[0]


@pytest.mark.parametrize(
    ("instant", "release"),
    [
        (BEFORE_OPENING, OPENING),
        (OPENING, None),
        (BEFORE_CLOSING, None),
        (CLOSING, TOMORROW),
        ("2026-03-02 00:00", OPENING),
    ],
)
def test_both_ends_of_the_span_to_the_microsecond(shop: Connection, instant: str, release: str | None) -> None:
    assert next_release(shop, instant) == release
    clock(shop, instant)
    chat = enqueue(shop, operator=2)
    assert chat.state == ("held" if release else "queued")
    # The same, once the period has been looked up and is read from the store's row.
    shop.execute("select refresh_opening_periods(shoptalk_now())")
    assert next_release(shop, instant) == release


@pytest.mark.parametrize(
    ("timezone", "opens", "closes", "instant", "release"),
    [
        ("UTC", "22:00", "02:00", "2026-03-02 23:00", None),  # past midnight
        ("UTC", "22:00", "02:00", "2026-03-02 01:59:59.999999", None),
        ("UTC", "22:00", "02:00", "2026-03-02 02:00", "2026-03-02 22:00:00"),
        ("UTC", "09:00", "09:00", "2026-03-02 08:59", None),  # around the clock, from nine to nine
        ("UTC", "00:00", "00:00", "2026-03-02 00:00", None),  # the whole day
        ("Europe/Berlin", "09:00", "14:00", "2026-03-02 07:59", "2026-03-02 08:00:00"),
        ("Europe/Berlin", "09:00", "14:00", "2026-03-28 13:00", "2026-03-29 07:00:00"),  # the clock goes forward
        ("America/New_York", "09:00", "14:00", "2026-10-31 18:00", "2026-11-01 14:00:00"),  # and back
        ("Pacific/Auckland", "09:00", "14:00", "2026-03-01 19:59", "2026-03-01 20:00:00"),  # tomorrow there
        ("Europe/Berlin", "02:00", "03:00", "2026-03-29 00:30", "2026-03-30 00:00:00"),  # a span that is skipped
    ],
)
def test_the_hours_are_of_the_stores_own_zone(
    shop: Connection, timezone: str, opens: str, closes: str, instant: str, release: str | None
) -> None:
    shop.execute("select add_store(3, %s, %s, %s)", [timezone, opens, closes])
    assert next_release(shop, instant, 3) == release


def test_a_held_chat_goes_at_the_opening_and_not_a_microsecond_before(shop: Connection) -> None:
    clock(shop, "2026-03-02 03:00")
    enqueue(shop, operator=2)
    clock(shop, BEFORE_OPENING)
    assert send_batch(shop).claimed == 0
    assert states(shop) == ["held"]
    clock(shop, OPENING)
    assert states(shop) == ["queued"]
    assert send_batch(shop).sent == 1


def test_what_is_not_sent_by_closing_is_taken_back(shop: Connection) -> None:
    clock(shop, BEFORE_CLOSING)
    enqueue(shop, operator=2)
    enqueue(shop, operator=2)
    clock(shop, CLOSING)
    report = send_batch(shop)
    assert (report.claimed, report.sent) == (2, 0)
    assert shop.execute(
        "select state, release_at at time zone 'UTC' || '' from chat_states order by seq"
    ).fetchall() == [("held", TOMORROW), ("held", TOMORROW)]
    clock(shop, TOMORROW)
    assert send_batch(shop).sent == 2
    assert sent(shop) == [(7, 1), (7, 2)]


@pytest.mark.parametrize("hour", ["2026-03-02 12:00", "2026-03-05 12:00"])
def test_a_sender_that_comes_hours_after_the_opening_sends(shop: Connection, hour: str) -> None:
    clock(shop, "2026-03-02 03:00")
    enqueue(shop, operator=2)
    clock(shop, hour)
    assert send_batch(shop).sent == 1


def test_a_sender_that_was_away_over_opening_and_closing_sends_nothing(shop: Connection) -> None:
    clock(shop, "2026-03-02 03:00")
    enqueue(shop, operator=2)
    clock(shop, "2026-03-02 20:00")
    assert send_batch(shop).sent == 0
    assert states(shop) == ["held"]
    clock(shop, TOMORROW)
    assert send_batch(shop).sent == 1


def test_a_closed_store_does_not_hold_back_another(shop: Connection) -> None:
    clock(shop, BEFORE_CLOSING)
    enqueue(shop, 7, operator=2)
    enqueue(shop, 8, operator=1)
    clock(shop, CLOSING)
    send_batch(shop)
    assert sent(shop) == [(8, 1)]


def test_a_retry_that_falls_after_closing_is_held(shop: Connection) -> None:
    clock(shop, BEFORE_CLOSING)
    enqueue(shop, operator=2)
    shop.execute("update chat_queue set due_at = due_at + interval '2 seconds'")
    clock(shop, "2026-03-02 14:00:05")
    assert send_batch(shop).sent == 0
    assert states(shop) == ["held"]


def test_changed_hours_count_from_the_next_look(shop: Connection) -> None:
    clock(shop, OPENING)
    enqueue(shop, operator=2)
    shop.execute("update store_hours set opens = '10:00' where store_id = 2")
    assert send_batch(shop).sent == 0
    assert next_release(shop, OPENING) == "2026-03-02 10:00:00"


def test_wider_hours_release_what_is_held(shop: Connection) -> None:
    clock(shop, CLOSING)
    enqueue(shop, operator=2)
    shop.execute("update store_hours set closes = '18:00' where store_id = 2")
    assert states(shop) == ["queued"]
    enqueue(shop, operator=2)
    assert send_batch(shop).sent == 2
    assert sent(shop) == [(7, 1), (7, 2)]


def test_a_store_whose_row_is_locked_stops_no_other(shop: Connection, connect: Callable[[], Connection]) -> None:
    clock(shop, BEFORE_CLOSING)
    shop.execute("select keep_hours()")
    enqueue(shop, 7, operator=2)
    enqueue(shop, 8, operator=1)
    other = connect()
    with other.transaction():
        other.execute("update store_hours set opens = '08:00' where store_id = 2")
        clock(shop, CLOSING)
        shop.execute("set lock_timeout = '1s'")
        send_batch(shop)
        send_batch(shop)
        assert sent(shop) == [(8, 1)]
    clock(shop, "2026-03-02 14:00:01")
    send_batch(shop)
    assert states(shop) == ["held", "sent"]


def test_keeping_the_hours_says_how_long_it_is_to_the_next_change(shop: Connection) -> None:
    for instant, seconds in [(BEFORE_OPENING, 1e-6), (OPENING, 5 * 3600), (CLOSING, 19 * 3600)]:
        clock(shop, instant)
        assert shop.execute("select keep_hours()").fetchone() == (pytest.approx(seconds),)


def test_keeping_the_hours_notifies(shop: Connection) -> None:
    shop.execute("listen chat_queued")
    shop.execute("select keep_hours()")
    assert [n.channel for n in shop.notifies(timeout=0.2)] == ["chat_queued"]


def test_a_store_may_not_have_an_unknown_time_zone(shop: Connection) -> None:
    with pytest.raises(Exception, match="not recognized"):
        shop.execute("insert into stores (store_id, timezone) values (3, 'Mars/Olympus')")


def test_a_real_worker_releases_at_opening_and_takes_back_at_closing(
    shop: Connection, database: str, start: Callable[..., Process], connect: Callable[[], Connection]
) -> None:
    clock(shop, "2026-03-02 03:00")
    enqueue(shop, operator=2)
    shop.execute("listen chat_sent")
    set_clock(shop, BEFORE_OPENING)
    start("worker", DATABASE_URL=database).expect("listening")
    enqueue(connect(), 8, operator=1)  # of a store that is open: it shows that the worker works
    assert list(shop.notifies(timeout=30, stop_after=1))
    assert sent(shop) == [(8, 1)]
    set_clock(shop, OPENING)
    assert list(shop.notifies(timeout=30, stop_after=1))
    assert sent(shop) == [(8, 1), (7, 1)]
    clock(shop, BEFORE_CLOSING)
    enqueue(shop, operator=2)  # due after the worker's clock: as if it had been away since
    set_clock(shop, CLOSING)
    clock(shop, CLOSING)
    eventually(lambda: states(shop) == ["sent", "held", "sent"])
    assert len(sent(shop)) == 2
