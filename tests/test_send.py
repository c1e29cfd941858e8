"""send_chats(): order, holes, failures, dead letters, cancelling, and what the claim looks at."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from tests.support.db import Connection, clock, enqueue, looked_at, poison, send_batch, sent, states, wait_until_blocked
from tests.support.processes import eventually


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
    report = send_batch(shop)
    assert (report.claimed, report.sent, report.failed) == (4, 4, 0)
    assert sent(shop) == [(7, 1), (8, 1), (7, 2), (7, 3)]
    assert states(shop) == ["sent"] * 4
    assert shop.execute("select count(*) from chat_queue").fetchone() == (0,)


def test_positions_have_no_gaps_over_batches_and_failures(shop: Connection) -> None:
    poison(shop)
    for payload in ("a", "bad", "b"):
        enqueue(shop, None, payload)
    while send_batch(shop, batch_size=2).claimed:
        pass
    assert shop.execute("select array_agg(position order by position) from sent_log").fetchone() == ([1, 2],)


def test_a_batch_notifies_the_readers_of_the_log_once(shop: Connection) -> None:
    shop.execute("listen chat_sent")
    enqueue(shop)
    enqueue(shop)
    send_batch(shop)
    send_batch(shop)
    assert [n.channel for n in shop.notifies(timeout=0.2)] == ["chat_sent"]


def test_equal_instants_go_by_seq_and_not_by_the_callers_ids(shop: Connection) -> None:
    clock(shop, "2026-03-02 10:00")
    for chat_id in (30, 20, 10):
        enqueue(shop, chat_id=chat_id)
    send_batch(shop)
    assert sent(shop) == [(7, 1), (7, 2), (7, 3)]


def test_a_clock_that_steps_back_does_not_turn_a_conversation_round(shop: Connection) -> None:
    for instant in ("2026-03-02 11:00", "2026-03-02 10:00"):
        clock(shop, instant)
        enqueue(shop)
    send_batch(shop)
    assert sent(shop) == []
    clock(shop, "2026-03-02 11:00")
    send_batch(shop)
    assert sent(shop) == [(7, 1), (7, 2)]


def test_a_chat_waits_for_an_earlier_one_that_is_locked(shop: Connection, connect: Callable[[], Connection]) -> None:
    for conversation in (7, 7, 8):
        enqueue(shop, conversation)
    other = connect()
    with other.transaction():
        other.execute("select from chat_queue where conversation_id = 7 and seq = 1 for update")
        assert send_batch(shop).sent == 1
        assert sent(shop) == [(8, 1)]
    shop.execute("set shoptalk.now = '2100-01-01'")
    send_batch(shop)
    assert sent(shop) == [(8, 1), (7, 1), (7, 2)]


def test_a_locked_row_in_the_middle_holds_back_what_comes_after_it(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    for _ in range(4):
        enqueue(shop)
    other = connect()
    with other.transaction():
        other.execute("select from chat_queue where seq = 3 for update")
        send_batch(shop)
    assert sent(shop) == [(7, 1), (7, 2)]


def test_followers_that_were_deferred_are_not_overtaken_in_the_batch_they_come_with(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    clock(shop, "2026-03-02 10:00:00")
    enqueue(shop)
    enqueue(shop)
    other = connect()
    with other.transaction():
        other.execute("select from chat_queue where seq = 1 for update")
        send_batch(shop)  # puts seq 2 back to a second later
    clock(shop, "2026-03-02 10:00:00.5")
    enqueue(shop)  # is due before it
    clock(shop, "2026-03-02 10:00:05")
    assert send_batch(shop).sent == 3
    assert sent(shop) == [(7, 1), (7, 2), (7, 3)]


def test_many_bad_chats_are_found_among_the_good_and_only_they_are_blamed(shop: Connection) -> None:
    poison(shop)
    for number in range(300):
        enqueue(shop, None, "bad" if number % 30 == 7 else "good")
    assert send_batch(shop, 100).claimed == 100
    while send_batch(shop, 100).claimed:
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
    report = send_batch(shop, 10)
    assert (report.claimed, report.sent, report.failed) == (10, 9, 1)
    # Of 10 with the bad one at the end but one: 10, 5, 5, 2, 3, 1, 2, 1, and of the last two only the good one.
    assert tries(shop) <= 10


def test_what_has_failed_before_is_tried_by_itself_ahead_of_the_rest_of_its_batch(shop: Connection) -> None:
    poison(shop)
    clock(shop, "2026-03-02 10:00:00")
    enqueue(shop, 7, "bad")
    enqueue(shop, 7, "behind")
    assert send_batch(shop).failed == 1
    count_tries(shop)
    clock(shop, "2026-03-02 10:00:01")
    for _ in range(60):
        enqueue(shop, None)
    report = send_batch(shop)
    assert (report.claimed, report.sent, report.failed) == (62, 60, 1)
    assert tries(shop) == 3  # all at once, the bad one, all others
    shop.execute("drop trigger refuse_bad on sent_log")
    clock(shop, "2026-03-02 10:00:03")
    assert send_batch(shop).sent == 2
    assert sent(shop)[-2:] == [(7, 1), (7, 2)]


def test_rows_that_are_rewritten_while_they_are_claimed_are_sent_once(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    """The claim may come to a row just after another session has rewritten it and released its lock."""
    for _ in range(40):
        for conversation in range(1, 26):
            enqueue(shop, conversation)
    done = threading.Event()

    def rewrite(session: Connection) -> None:
        while not done.is_set():
            session.execute(
                "update chat_queue set store_id = store_id where ctid = any (array("
                "select ctid from chat_queue order by random() limit 50 for update skip locked))"
            )

    rewriters = [threading.Thread(target=rewrite, args=[connect()]) for _ in range(2)]
    for rewriter in rewriters:
        rewriter.start()
    try:
        eventually(lambda: send_batch(shop, batch_size=200).claimed == 0 and set(states(shop)) == {"sent"}, 60)
    finally:
        done.set()
        for rewriter in rewriters:
            rewriter.join()
    assert sorted(sent(shop)) == [(conversation, seq) for conversation in range(1, 26) for seq in range(1, 41)]
    assert shop.execute("select count(*) from chat_queue").fetchone() == (0,)


def test_a_chat_waits_for_an_earlier_one_below_the_floor_and_says_so(shop: Connection) -> None:
    for instant in ("2026-03-02 10:00", "2026-03-02 10:05"):
        clock(shop, instant)
        enqueue(shop)
    report = send_batch(shop, live_from="2026-03-02 10:04+00")
    assert (report.sent, report.below_floor) == (0, True)
    assert send_batch(shop).sent == 2
    assert sent(shop) == [(7, 1), (7, 2)]


def test_a_gap_left_by_a_cancelled_chat_holds_back_no_other(shop: Connection) -> None:
    ids = [enqueue(shop).chat_id for _ in range(3)]
    shop.execute("select cancel_chat(%s)", [ids[1]])
    assert send_batch(shop).sent == 2
    assert states(shop) == ["sent", "cancelled", "sent"]


def test_a_failing_chat_blocks_only_its_own_conversation(shop: Connection) -> None:
    poison(shop)
    enqueue(shop, 7, "good")
    enqueue(shop, 7, "bad")
    enqueue(shop, 7, "behind")
    enqueue(shop, 8, "other")
    report = send_batch(shop)
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
        assert send_batch(shop).failed == 1
        assert send_batch(shop).claimed == 0
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
        send_batch(db)
    assert states(db) == ["failed"]
    return chat_id


def test_a_requeued_dead_letter_has_its_attempts_again(shop: Connection) -> None:
    chat_id = dead_letter(shop)
    shop.execute("select requeue_chat(%s)", [chat_id])
    assert states(shop) == ["queued"]
    assert send_batch(shop).failed == 1
    assert shop.execute("select attempts from chat_failures").fetchone() == (1,)
    shop.execute("drop trigger refuse_bad on sent_log; set shoptalk.now = '2110-01-01'")
    assert send_batch(shop).sent == 1
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
        send_batch(shop)
    assert shop.execute("select count(*) from chat_failures").fetchone() == (0,)
    shop.execute("drop trigger full_disk on sent_log")
    assert send_batch(shop).sent == 1


def test_a_cancelled_chat_is_never_sent(shop: Connection) -> None:
    chat_id = enqueue(shop).chat_id
    for _ in range(2):
        shop.execute("select cancel_chat(%s)", [chat_id])
    assert send_batch(shop).claimed == 0
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
    send_batch(shop)
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
        send_batch(sender)
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
        assert send_batch(first, 1).sent == 1
        assert send_batch(second).claimed is None
    assert send_batch(second).sent == 1


def test_the_claim_looks_at_nothing_that_is_held(shop: Connection) -> None:
    """100,000 held chats in front of it in the table, and the index range does not touch one of them."""
    shop.execute(
        "insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)"
        " select '2999-01-01', now(), g, g, 1, 2 from generate_series(1001, 101000) g"
    )
    enqueue(shop)
    scans, rows = looked_at(shop, lambda: send_batch(shop))["chat_queue"]
    assert states(shop) == ["sent"]
    assert scans == 0
    assert rows <= 5


def test_the_plans_of_sending_do_not_hang_on_statistics(shop: Connection) -> None:
    """Made when every table is empty, they must still go by index when the tables are full."""
    send_batch(shop)
    shop.execute(
        "insert into stores (store_id, closes_at) select g, 'infinity' from generate_series(10, 3000) g;"
        "insert into sent_log select g, g, g + 100, 1, now() from generate_series(1, 20000) g;"
        "insert into chat_queue select now(), null, g, g, 2, 10 + g % 2000 from generate_series(101, 20100) g;"
        "select keep_hours()"  # looks up the stores' periods beforehand, which is not the claim's
    )
    counts = looked_at(shop, lambda: send_batch(shop))
    for table in ("chat_queue", "sent_log", "stores"):
        scans, rows = counts[table]
        assert scans == 0, table
        assert rows <= 2000, table  # 500 chats were sent


def test_a_long_backlog_behind_a_failing_chat_is_not_walked_for_each_that_waits(shop: Connection) -> None:
    poison(shop)
    enqueue(shop, 7, "bad")
    send_batch(shop)
    for _ in range(1000):
        enqueue(shop, 7)
    shop.execute(
        "update chat_queue set due_at = '2000-01-01' where seq > 1;"
        "insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)"
        " select '2999-01-01', now(), g, g, 1, 2 from generate_series(1001, 21000) g; analyze chat_queue"
    )
    _, rows = looked_at(shop, lambda: send_batch(shop))["chat_queue"]
    assert rows <= 500 * 5  # and not half a million
    assert shop.execute("select count(*) from chat_queue where due_at = '2000-01-01'").fetchone() == (500,)


def blocks(db: Connection, relation: str, work: Callable[[], None]) -> int:
    """How many blocks of a table or index the work looked at, dead rows and all."""
    counter = "select pg_stat_get_xact_blocks_fetched(%s::regclass)"
    with db.transaction():
        before = db.execute(counter, [relation]).fetchone()[0]
        work()
        return int(db.execute(counter, [relation]).fetchone()[0] - before)


@pytest.mark.parametrize("many", [100_000, pytest.param(1_000_000, marks=pytest.mark.system)])
def test_neither_held_nor_dead_rows_are_walked_however_many_there_are(
    shop: Connection, connect: Callable[[], Connection], many: int
) -> None:
    queue_rows = (
        "insert into chat_queue (due_at, held_since, chat_id, conversation_id, seq, store_id)"
        " select %s::timestamptz, nullif(%s, 'live')::timestamptz, g, g, 1, 2 from generate_series(1001, 1000 + %s) g"
    )
    shop.execute("alter table chat_queue set (autovacuum_enabled = off)")
    with connect() as holder, holder.transaction():
        holder.execute("set transaction isolation level repeatable read")
        holder.execute("select count(*) from chats")  # a snapshot that keeps the dead rows
        shop.execute(queue_rows, ["2026-03-02 09:00+00", "live", many])
        shop.execute("delete from chat_queue")
        shop.execute(queue_rows, ["2999-01-01", "2026-03-02 09:00+00", many])
        clock(shop, "2026-03-02 10:00")
        enqueue(shop)
        # From the start of the queue it does walk the dead rows: the test would see it.
        assert blocks(shop, "chat_queue_live", lambda: send_batch(shop)) > many / 2000
        enqueue(shop)
        for relation in ("chat_queue_live", "chat_queue_held", "chat_queue_pkey", "chat_queue"):
            enqueue(shop)
            assert blocks(shop, relation, lambda: send_batch(shop, live_from="2026-03-02 09:59:59+00")) < 50, relation
    assert set(states(shop)) == {"sent"}
