"""Where the worker's next claim starts, without a database."""

from __future__ import annotations

from typing import Any, NamedTuple

from worker.floor import HELD_START, LIVE_START, Floor


class Report(NamedTuple):
    live_floor: str | None = None
    held_floor: str | None = None
    below_floor: bool = False


START = LIVE_START | HELD_START
RAISED: dict[str, Any] = {"live_floor": "2026-03-02 10:00+00", "held_floor": "(2026-03-02 09:00+00,5,7)"}


def raised() -> Floor:
    """Floors that were raised by a claim that ended at 0."""
    floor = Floor()
    floor.start_claim(0)
    floor.end_claim(0)
    floor.advance(Report(**RAISED))
    return floor


def test_the_first_claim_starts_at_the_start_of_both_lanes() -> None:
    assert Floor().start_claim(0) == START


def test_the_next_claim_starts_where_the_last_one_ended() -> None:
    assert raised().start_claim(0.5) == RAISED


def test_a_lane_in_which_nothing_was_claimed_keeps_its_floor() -> None:
    floor = raised()
    floor.advance(Report(live_floor="2026-03-02 10:30+00"))
    assert floor.start_claim(0.5) == RAISED | {"live_floor": "2026-03-02 10:30+00"}


def test_a_chat_below_the_floor_makes_the_next_claim_start_at_the_start() -> None:
    floor = raised()
    floor.advance(Report(**(RAISED | {"below_floor": True})))
    assert floor.start_claim(0.5) == START


def test_a_full_look_is_due_every_second_while_it_is_quick() -> None:
    floor = raised()
    assert floor.start_claim(1) == START
    floor.end_claim(1.001)
    assert floor.start_claim(1.9) == RAISED
    assert floor.start_claim(2.1) == START


def test_a_slow_full_look_is_repeated_less_often_and_the_held_lanes_least() -> None:
    floor = raised()
    floor.start_claim(1)
    floor.end_claim(1.1)
    assert floor.start_claim(3) == RAISED
    assert floor.start_claim(3.2) == RAISED | LIVE_START
    assert floor.start_claim(42) == START


def test_a_full_look_that_took_very_long_is_repeated_after_a_minute_at_the_latest() -> None:
    floor = raised()
    floor.start_claim(1)
    floor.end_claim(21)
    assert floor.start_claim(80) == RAISED
    assert floor.start_claim(81) == START


def test_a_full_look_that_was_cancelled_is_not_tried_again_at_once() -> None:
    floor = raised()
    floor.start_claim(1)
    floor.end_claim(21)
    floor.fail(timed_out=True)
    assert floor.start_claim(22) == RAISED


def test_a_claim_that_failed_otherwise_is_followed_by_one_from_the_start() -> None:
    floor = raised()
    floor.fail(timed_out=False)
    assert floor.start_claim(0.5) == START
