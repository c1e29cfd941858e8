"""How far a channel has come in the log, without a relay or a database."""

from __future__ import annotations

from relay.progress import WINDOW, Progress


def test_the_cursor_moves_over_a_batch_that_is_settled_whole() -> None:
    progress = Progress.starting_at(10).settle([11, 12, 15], {11, 12, 15}, until=20)
    assert progress == Progress(cursor=20, seen=10)
    assert progress.mark_seen(20).seen == 20


def test_the_cursor_stops_before_the_first_chat_that_is_not_settled() -> None:
    progress = Progress.starting_at(10).settle([11, 14, 15], {11, 15}, until=20)
    assert progress.cursor == 13
    assert progress.is_settled(15)
    assert not progress.is_settled(14)


def test_a_chat_settled_ahead_of_another_is_remembered_until_the_cursor_passes_it() -> None:
    progress = Progress.starting_at(0).settle([1, 2, 3], {2, 3}, until=3)
    assert progress.cursor == 0
    progress = progress.settle([1, 2, 3], {1}, until=3)
    assert progress == Progress(cursor=3, seen=0)


def test_requeued_dead_letters_leave_the_cursor_where_it_is() -> None:
    progress = Progress(cursor=10, seen=12)
    assert progress.settle([3, 7], {3, 7}, until=0).cursor == 10
    assert progress.settle([3, 7], set(), until=0).cursor == 10


def test_a_batch_in_which_nothing_is_settled_never_moves_the_cursor_back() -> None:
    assert Progress(cursor=10, seen=10).settle([5, 11], set(), until=20).cursor == 10


def test_a_read_covers_one_window_and_ends_with_the_log() -> None:
    assert Progress.starting_at(5).read_until(9) == 9
    assert Progress.starting_at(5).read_until(5) == 5
    assert Progress.starting_at(5).read_until(10**6) == 5 + WINDOW


def test_what_was_read_holds_for_the_next_lease_if_no_other_relay_had_the_channel() -> None:
    progress = Progress(cursor=10, seen=50, beyond=frozenset({30}))
    assert progress.resume(cursor=10, is_unbroken=True) == progress
    assert progress.resume(cursor=20, is_unbroken=True) == Progress(20, 50, frozenset({30}))


def test_a_lease_after_another_relay_starts_at_the_cursor_of_the_table() -> None:
    progress = Progress(cursor=10, seen=50, beyond=frozenset({30}))
    assert progress.resume(cursor=10, is_unbroken=False) == Progress(10, 10)
    assert progress.resume(cursor=60, is_unbroken=True) == Progress(60, 60)


def test_seen_never_moves_back() -> None:
    assert Progress(cursor=1, seen=9).mark_seen(4).seen == 9
