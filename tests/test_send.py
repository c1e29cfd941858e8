"""send_chats(): order, holes, failures, dead letters, cancelling, and what the claim looks at."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conftest import Connection, clock
from tests.test_enqueue import enqueue, wait_until_blocked


def send(db: Connection, batch_size: int = 500, live_from: str = "-infinity") -> Any:
    cursor = db.cursor(row_factory=psycopg.rows.namedtuple_row)
    return cursor.execute("select * from send_chats(%s, %s)", [batch_size, live_from]).fetchone()


def sent(db: Connection) -> list[tuple[int, int]]:
    """(conversation, seq) in the order of the log."""
    return db.execute("select conversation_id, seq from sent_log order by position").fetchall()


def states(db: Connection) -> list[str]:
    """The state of each chat, by conversation and seq."""
    return [s for (s,) in db.execute("select state from chat_states order by conversation_id, seq")]


def poison(db: Connection) -> None:
    """From now on, sending a chat whose payload begins with "bad" raises."""
    db.execute(
        """create function refuse_bad() returns trigger language plpgsql as $$ begin
             if exists (select from chats c where c.chat_id = new.chat_id and c.payload like 'bad%') then
               raise 'this chat cannot be sent'; end if; return new; end $$;
           create trigger refuse_bad before insert on sent_log for each row execute function refuse_bad()"""
    )


def count_tries(db: Connection) -> None:
    """From now on, writes to the log are counted, those that are rolled back too."""
    db.execute(
        """create sequence tries minvalue 0;
           create function count_try() returns trigger language plpgsql as $$ begin
             perform nextval('tries'); return null; end $$;
           create trigger count_try before insert on sent_log for each statement execute function count_try();
           select nextval('tries')"""
    )


def tries(db: Connection) -> int:
    """How many there were."""
    row = db.execute("select last_value from tries").fetchone()
    assert row is not None
    return int(row[0])


def test_sends_in_order_and_acks(shop: Connection) -> None:
    for conversation in (7, 8, 7, 7):
        enqueue(shop, conversation)
    report = send(shop)
    assert (report.claimed, report.sent, report.failed) == (4, 4, 0)
    assert sent(shop) == [(7, 1), (8, 1), (7, 2), (7, 3)]
    assert states(shop) == ["sent"] * 4
    assert shop.execute("select count(*) from chat_queue").fetchone() == (0,)


def test_positions_have_no_gaps_over_batches_and_failures(shop: Connection) -> None:
    poison(shop)
    for payload in ("a", "bad", "b"):
        enqueue(shop, None, payload)
    while send(shop, batch_size=2).claimed:
        pass
    assert shop.execute("select array_agg(position order by position) from sent_log").fetchone() == ([1, 2],)


def test_a_batch_rings_once_for_the_readers_of_the_log(shop: Connection) -> None:
    shop.execute("listen chat_sent")
    enqueue(shop)
    enqueue(shop)
    send(shop)
    send(shop)
    assert [n.channel for n in shop.notifies(timeout=0.2)] == ["chat_sent"]


def test_equal_instants_go_by_seq_and_not_by_the_callers_ids(shop: Connection) -> None:
    clock(shop, "2026-03-02 10:00")
    for chat_id in (30, 20, 10):
        enqueue(shop, chat_id=chat_id)
    send(shop)
    assert sent(shop) == [(7, 1), (7, 2), (7, 3)]


def test_a_clock_that_steps_back_does_not_turn_a_conversation_round(shop: Connection) -> None:
    for instant in ("2026-03-02 11:00", "2026-03-02 10:00"):
        clock(shop, instant)
        enqueue(shop)
    send(shop)
    assert sent(shop) == []
    clock(shop, "2026-03-02 11:00")
    send(shop)
    assert sent(shop) == [(7, 1), (7, 2)]


def test_a_chat_waits_for_an_earlier_one_that_somebody_has_locked(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    for conversation in (7, 7, 8):
        enqueue(shop, conversation)
    other = connect()
    with other.transaction():
        other.execute("select from chat_queue where conversation_id = 7 and seq = 1 for update")
        assert send(shop).sent == 1
        assert sent(shop) == [(8, 1)]
    shop.execute("set shoptalk.now = '2100-01-01'")
    send(shop)
    assert sent(shop) == [(8, 1), (7, 1), (7, 2)]


def test_a_locked_pointer_in_the_middle_holds_back_what_comes_after_it(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    for _ in range(4):
        enqueue(shop)
    other = connect()
    with other.transaction():
        other.execute("select from chat_queue where seq = 3 for update")
        send(shop)
    assert sent(shop) == [(7, 1), (7, 2)]


def test_followers_that_were_put_back_are_not_overtaken_in_the_batch_they_come_with(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    clock(shop, "2026-03-02 10:00:00")
    enqueue(shop)
    enqueue(shop)
    other = connect()
    with other.transaction():
        other.execute("select from chat_queue where seq = 1 for update")
        send(shop)  # puts seq 2 back to a second later
    clock(shop, "2026-03-02 10:00:00.5")
    enqueue(shop)  # is due before it
    clock(shop, "2026-03-02 10:00:05")
    assert send(shop).sent == 3
    assert sent(shop) == [(7, 1), (7, 2), (7, 3)]


def test_many_bad_chats_are_found_among_the_good_and_only_they_are_blamed(shop: Connection) -> None:
    poison(shop)
    for number in range(300):
        enqueue(shop, None, "bad" if number % 30 == 7 else "good")
    assert send(shop, 100).claimed == 100
    while send(shop, 100).claimed:
        pass
    assert len(sent(shop)) == 290
    assert shop.execute(
        "select count(*), bool_and(payload = 'bad'), min(attempts), max(attempts)"
        " from chat_failures join chats using (chat_id)"
    ).fetchone() == (10, True, 1, 1)


def test_a_bad_chat_that_was_held_makes_the_live_ones_beside_it_not_go_one_by_one(shop: Connection) -> None:
    poison(shop)
    clock(shop, "2026-03-02 08:00")
    enqueue(shop, None, "bad", operator=2)
    enqueue(shop, None, "good", operator=2)
    clock(shop, "2026-03-02 09:00")
    for _ in range(8):
        enqueue(shop, None)
    count_tries(shop)
    report = send(shop, 10)
    assert (report.claimed, report.sent, report.failed) == (10, 9, 1)
    # Of 10 with the bad one at the end but one: 10, 5, 5, 2, 3, 1, 2, 1, and of the last two only the good one.
    assert tries(shop) <= 10


def test_what_has_failed_before_is_tried_by_itself_ahead_of_the_rest_of_its_batch(shop: Connection) -> None:
    poison(shop)
    clock(shop, "2026-03-02 10:00:00")
    enqueue(shop, 7, "bad")
    enqueue(shop, 7, "behind")
    assert send(shop).failed == 1
    count_tries(shop)
    clock(shop, "2026-03-02 10:00:01")
    for _ in range(60):
        enqueue(shop, None)
    report = send(shop)
    assert (report.claimed, report.sent, report.failed) == (62, 60, 1)
    assert tries(shop) == 3  # all at once, the bad one, all others
    shop.execute("drop trigger refuse_bad on sent_log")
    clock(shop, "2026-03-02 10:00:03")
    assert send(shop).sent == 2
    assert sent(shop)[-2:] == [(7, 1), (7, 2)]


def test_a_pointer_that_could_not_be_deleted_with_its_batch_is_claimed_anew_and_not_logged_twice(
    shop: Connection,
) -> None:
    """Somebody rewrote it between the claim's snapshot and its lock. Here a trigger keeps the first delete from it."""
    for _ in range(3):
        enqueue(shop)
    shop.execute(
        """create sequence deletes;
           create function miss_first() returns trigger language plpgsql as $$ begin
             return case when nextval('deletes') = 1 then null else old end; end $$;
           create trigger miss_first before delete on chat_queue for each row execute function miss_first()"""
    )
    report = send(shop)
    assert (report.claimed, report.sent, report.failed) == (3, 3, 0)
    assert sent(shop) == [(7, 1), (7, 2), (7, 3)]
    assert states(shop) == ["sent"] * 3


def test_a_chat_waits_for_an_earlier_one_below_the_floor_and_says_so(shop: Connection) -> None:
    for instant in ("2026-03-02 10:00", "2026-03-02 10:05"):
        clock(shop, instant)
        enqueue(shop)
    report = send(shop, live_from="2026-03-02 10:04+00")
    assert (report.sent, report.below_floor) == (0, True)
    assert send(shop).sent == 2
    assert sent(shop) == [(7, 1), (7, 2)]


def test_a_gap_left_by_a_cancelled_chat_holds_nobody_back(shop: Connection) -> None:
    ids = [enqueue(shop).chat_id for _ in range(3)]
    shop.execute("select cancel_chat(%s)", [ids[1]])
    assert send(shop).sent == 2
    assert states(shop) == ["sent", "cancelled", "sent"]


def test_a_failing_chat_blocks_only_its_own_conversation(shop: Connection) -> None:
    poison(shop)
    enqueue(shop, 7, "good")
    enqueue(shop, 7, "bad")
    enqueue(shop, 7, "behind")
    enqueue(shop, 8, "other")
    report = send(shop)
    assert (report.sent, report.failed) == (2, 1)
    assert sent(shop) == [(7, 1), (8, 1)]
    assert states(shop) == ["sent", "queued", "queued", "sent"]


def test_retries_back_off_and_end_in_a_dead_letter_with_the_reason(shop: Connection) -> None:
    poison(shop)
    clock(shop, "2026-03-02 10:00:00")
    bad = enqueue(shop, 7, "bad").chat_id
    enqueue(shop, 7, "behind")
    waits = []
    for _ in range(5):
        assert send(shop).failed == 1
        assert send(shop).claimed == 0
        for due, seconds in shop.execute(
            "select due_at || '', extract(epoch from due_at - shoptalk_now())::int from chat_queue where seq = 1"
        ).fetchall():
            waits.append(seconds)
            shop.execute("select set_config('shoptalk.now', %s, false)", [due])
    assert sent(shop) == [(7, 2)]
    assert states(shop) == ["failed", "sent"]
    assert waits == [1, 2, 4, 8]
    failure = shop.execute("select chat_id, attempts, reason, dead_at is not null from chat_failures").fetchall()
    assert failure == [(bad, 5, "P0001: this chat cannot be sent", True)]


def dead_letter(db: Connection) -> int:
    poison(db)
    chat_id: int = enqueue(db, 7, "bad").chat_id
    for year in range(2101, 2106):
        clock(db, f"{year}-03-02 10:00")
        send(db)
    assert states(db) == ["failed"]
    return chat_id


def test_a_requeued_dead_letter_has_its_attempts_again(shop: Connection) -> None:
    chat_id = dead_letter(shop)
    shop.execute("select requeue_chat(%s)", [chat_id])
    assert states(shop) == ["queued"]
    assert send(shop).failed == 1
    assert shop.execute("select attempts from chat_failures").fetchone() == (1,)
    shop.execute("drop trigger refuse_bad on sent_log; set shoptalk.now = '2110-01-01'")
    assert send(shop).sent == 1
    assert states(shop) == ["sent"]


@pytest.mark.parametrize(("chat_id", "sqlstate"), [(5, "ST409"), (6, "ST404")])
def test_only_dead_letters_can_be_requeued(shop: Connection, chat_id: int, sqlstate: str) -> None:
    enqueue(shop, chat_id=5)
    with pytest.raises(psycopg.Error) as error:
        shop.execute("select requeue_chat(%s)", [chat_id])
    assert error.value.sqlstate == sqlstate


def test_trouble_of_the_server_counts_no_attempt(shop: Connection) -> None:
    shop.execute(
        """create function full_disk() returns trigger language plpgsql as $$ begin
             raise 'no space left' using errcode = '53100'; end $$;
           create trigger full_disk before insert on sent_log for each row execute function full_disk()"""
    )
    enqueue(shop)
    with pytest.raises(psycopg.errors.DiskFull):
        send(shop)
    assert shop.execute("select count(*) from chat_failures").fetchone() == (0,)
    shop.execute("drop trigger full_disk on sent_log")
    assert send(shop).sent == 1


def test_a_cancelled_chat_is_never_sent(shop: Connection) -> None:
    chat_id = enqueue(shop).chat_id
    for _ in range(2):
        shop.execute("select cancel_chat(%s)", [chat_id])
    assert send(shop).claimed == 0
    assert states(shop) == ["cancelled"]


def test_a_dead_letter_can_be_cancelled_and_then_not_requeued(shop: Connection) -> None:
    chat_id = dead_letter(shop)
    shop.execute("select cancel_chat(%s)", [chat_id])
    assert states(shop) == ["cancelled"]
    with pytest.raises(psycopg.Error) as error:
        shop.execute("select requeue_chat(%s)", [chat_id])
    assert error.value.sqlstate == "ST409"


def test_what_is_sent_or_unknown_cannot_be_cancelled(shop: Connection) -> None:
    chat_id = enqueue(shop).chat_id
    send(shop)
    for number, sqlstate in ((chat_id, "ST409"), (chat_id + 1, "ST404")):
        with pytest.raises(psycopg.Error) as error:
            shop.execute("select cancel_chat(%s)", [number])
        assert error.value.sqlstate == sqlstate


def test_cancelling_while_it_is_being_sent_is_refused(shop: Connection, connect: Callable[[], Connection]) -> None:
    chat_id = enqueue(shop).chat_id
    sender, canceller = connect(), connect()
    refused: list[str | None] = []

    def cancel() -> None:
        try:
            canceller.execute("select cancel_chat(%s)", [chat_id])
        except psycopg.Error as error:
            refused.append(error.sqlstate)

    with sender.transaction():
        send(sender)
        thread = threading.Thread(target=cancel)
        thread.start()
        wait_until_blocked(shop, canceller)
    thread.join()
    assert refused == ["ST409"]
    assert states(shop) == ["sent"]


def test_one_sender_at_a_time(shop: Connection, connect: Callable[[], Connection]) -> None:
    enqueue(shop)
    enqueue(shop, conversation=8)
    first, second = connect(), connect()
    with first.transaction():
        assert send(first, 1).sent == 1
        assert send(second).claimed is None
    assert send(second).sent == 1


def looked_at(db: Connection, work: Callable[[], None]) -> dict[str, tuple[int, int]]:
    """For each table, how many sequential scans the work did and how many rows it fetched by index."""
    counters = "select relname, seq_scan, coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables"
    with db.transaction():
        before = {name: counts for name, *counts in db.execute(counters)}
        work()
        after = {name: counts for name, *counts in db.execute(counters)}
    return {name: (scans - before[name][0], rows - before[name][1]) for name, (scans, rows) in after.items()}


def test_the_claim_looks_at_nothing_that_is_held(shop: Connection) -> None:
    """100,000 held chats in front of it in the table, and the index range does not touch one of them."""
    shop.execute(
        "insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)"
        " select '2999-01-01', now(), g, g, 1, 2 from generate_series(1001, 101000) g"
    )
    enqueue(shop)
    scans, rows = looked_at(shop, lambda: send(shop))["chat_queue"]
    assert states(shop) == ["sent"]
    assert scans == 0
    assert rows <= 5


def test_the_plans_of_sending_do_not_hang_on_statistics(shop: Connection) -> None:
    """Made when every table is empty, they must still go by index when the tables are full."""
    send(shop)
    shop.execute(
        "insert into stores (store_id, closes_at) select g, 'infinity' from generate_series(10, 3000) g;"
        "insert into sent_log select g, g, g + 100, 1, now() from generate_series(1, 20000) g;"
        "insert into chat_queue select now(), null, g, g, 2, 10 + g % 2000 from generate_series(101, 20100) g;"
        "select keep_hours()"  # looks up the stores' periods beforehand, which is not the claim's
    )
    counts = looked_at(shop, lambda: send(shop))
    for table in ("chat_queue", "sent_log", "stores"):
        scans, rows = counts[table]
        assert scans == 0, table
        assert rows <= 2000, table  # 500 chats were sent


def test_a_long_backlog_behind_a_failing_chat_is_not_walked_for_each_that_waits(shop: Connection) -> None:
    poison(shop)
    enqueue(shop, 7, "bad")
    send(shop)
    for _ in range(1000):
        enqueue(shop, 7)
    shop.execute(
        "update chat_queue set due_at = '2000-01-01' where seq > 1;"
        "insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)"
        " select '2999-01-01', now(), g, g, 1, 2 from generate_series(1001, 21000) g; analyze chat_queue"
    )
    _, rows = looked_at(shop, lambda: send(shop))["chat_queue"]
    assert rows <= 500 * 5  # and not half a million
    assert shop.execute("select count(*) from chat_queue where due_at = '2000-01-01'").fetchone() == (500,)


def blocks(db: Connection, relation: str, work: Callable[[], None]) -> int:
    """How many blocks of a table or index the work looked at, dead rows and all."""
    counter = "select pg_stat_get_xact_blocks_fetched(%s::regclass)"
    with db.transaction():
        before = db.execute(counter, [relation]).fetchone()[0]
        work()
        return int(db.execute(counter, [relation]).fetchone()[0] - before)


def test_neither_a_million_held_nor_a_million_dead_rows_are_walked(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    pointers = (
        "insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)"
        " select %s::timestamptz, nullif(%s, 'live')::timestamptz, g, g, 1, 2 from generate_series(1001, 1001000) g"
    )
    shop.execute("alter table chat_queue set (autovacuum_enabled = off)")
    with connect() as holder, holder.transaction():
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from chats")  # a snapshot that keeps the dead rows
        shop.execute(pointers, ["2026-03-02 09:00+00", "live"])
        shop.execute("delete from chat_queue")
        shop.execute(pointers, ["2999-01-01", "2026-03-02 09:00+00"])
        clock(shop, "2026-03-02 10:00")
        enqueue(shop)
        # From the very start it has to walk the dead: that the test sees anything at all.
        assert blocks(shop, "chat_queue_live", lambda: send(shop)) > 500
        enqueue(shop)
        for relation in ("chat_queue_live", "chat_queue_held", "chat_queue_pkey", "chat_queue"):
            enqueue(shop)
            assert blocks(shop, relation, lambda: send(shop, live_from="2026-03-02 09:59:59+00")) < 50, relation
    assert set(states(shop)) == {"sent"}
