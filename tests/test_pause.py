"""Pausing, resuming and releasing: which chats are sent, which wait, and in which order they continue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.db import Connection, clock, enqueue, poison, send_batch, sent, states, wait_until_blocked


def one(db: Connection, statement: str, *parameters: Any) -> Any:
    row = db.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]


def urgent(db: Connection, conversation: int) -> None:
    db.execute("select enqueue_chat(%s, 1, 2, 'quick', 'operator', null, true)", [conversation])


def test_many_urgent_chats_of_a_conversation_rewrite_what_waits_once(shop: Connection) -> None:
    shop.execute("update stores set urgent_for = '{operator}' where store_id = 2")
    with shop.transaction():
        for _ in range(30):
            urgent(shop, 7)
        updates = one(shop, "select n_tup_upd from pg_stat_xact_user_tables where relname = 'chat_queue'")
    assert updates <= 30
    send_batch(shop)
    assert sent(shop) == [(7, seq) for seq in range(1, 31)]


def test_a_paused_store_sends_nothing_and_others_go_on(shop: Connection) -> None:
    enqueue(shop, 7)
    assert one(shop, "select pause_store(1)") == 1
    enqueue(shop, 7)
    shop.execute("select add_store(3, 'UTC', '00:00', '00:00')")
    shop.execute("insert into operators values (3, 'Oda', 'day', 3)")
    enqueue(shop, 9, operator=3)
    send_batch(shop)
    assert sent(shop) == [(9, 1)]
    assert states(shop) == ["held", "held", "sent"]
    assert one(shop, "select bool_and(release_at is null) from chat_states where conversation_id = 7") is True
    assert one(shop, "select pause_store(1)") == 2


def test_a_resumed_store_sends_all_of_it_in_order(shop: Connection) -> None:
    for _ in range(3):
        enqueue(shop, 7)
    shop.execute("select pause_store(1)")
    send_batch(shop)
    for _ in range(3):
        enqueue(shop, 7)
    send_batch(shop)
    assert sent(shop) == []
    assert one(shop, "select resume_store(1)") == 6
    send_batch(shop)
    assert sent(shop) == [(7, seq) for seq in range(1, 7)]
    assert one(shop, "select resume_store(1)") == 0


def test_a_store_resumed_while_it_is_closed_waits_for_its_opening(shop: Connection) -> None:
    clock(shop, "2026-03-02 10:00")
    enqueue(shop, 7, operator=2)
    shop.execute("select pause_store(2)")
    send_batch(shop)
    clock(shop, "2026-03-02 20:00")
    shop.execute("select resume_store(2)")
    send_batch(shop)
    assert sent(shop) == []
    assert str(one(shop, "select release_at at time zone 'UTC' from chat_states")) == "2026-03-03 09:00:00"
    clock(shop, "2026-03-03 09:00")
    send_batch(shop)
    assert sent(shop) == [(7, 1)]


def test_urgent_chats_of_a_paused_store_wait_too_and_go_first_of_their_conversation(shop: Connection) -> None:
    shop.execute("update stores set urgent_for = '{operator}'")
    clock(shop, "2026-03-02 10:00")
    enqueue(shop, 7, operator=2)
    urgent(shop, 7)
    shop.execute("select pause_store(2)")  # after it was accepted
    enqueue(shop, 7, operator=2)
    urgent(shop, 8)  # and while it is paused
    send_batch(shop)
    assert sent(shop) == []
    clock(shop, "2026-03-02 20:00")
    shop.execute("select resume_store(2)")
    send_batch(shop)
    assert sorted(sent(shop)) == [(7, 1), (7, 2), (8, 1)]
    assert states(shop) == ["sent", "sent", "held", "sent"]


def test_a_plain_update_pauses_a_store_too(shop: Connection) -> None:
    clock(shop, "2026-03-02 20:00")
    enqueue(shop, 7, operator=2)
    shop.execute("update stores set paused_at = now() where store_id = 2")
    assert one(shop, "select due_at = 'infinity' from chat_queue") is True
    shop.execute("update stores set paused_at = null where store_id = 2")
    assert str(one(shop, "select due_at at time zone 'UTC' from chat_queue")) == "2026-03-03 09:00:00"


def test_changing_the_hours_of_a_paused_store_releases_nothing(shop: Connection) -> None:
    enqueue(shop, 7)
    shop.execute("select pause_store(1)")
    send_batch(shop)
    shop.execute("select change_hours(1, hours_of(1))")
    shop.execute("update stores set looked_up_at = '-infinity'")
    shop.execute("select keep_hours()")
    send_batch(shop)
    assert states(shop) == ["held"]
    explained = one(shop, "select explain_hours(1, now())")
    assert (explained["open"], explained["paused_at"] is not None, explained["next_opening"]) == (False, True, None)


def test_a_paused_store_gives_no_away_notice(shop: Connection) -> None:
    shop.execute("update stores set away_notice = 'we are closed'")
    shop.execute("select pause_store(1)")
    enqueue(shop, 7)
    assert one(shop, "select count(*) from chats") == 1


def test_a_store_with_a_pace_is_paused_and_resumed(shop: Connection) -> None:
    shop.execute("insert into store_paces (store_id, per_minute) values (1, 60)")
    for conversation in (7, 8, 9):
        enqueue(shop, conversation)
    shop.execute("select pause_store(1)")
    send_batch(shop)
    assert one(shop, "select bool_and(due_at = 'infinity') from chat_queue") is True
    shop.execute("select resume_store(1)")
    assert one(shop, "select extract(epoch from max(due_at) - min(due_at))::integer from chat_queue") == 2


def test_a_paused_conversation_waits_and_others_of_its_store_go_on(shop: Connection) -> None:
    enqueue(shop, 7)
    enqueue(shop, 8)
    assert one(shop, "select pause_conversation(7)") == 1
    assert enqueue(shop, 7).state == "held"
    enqueue(shop, 8)
    send_batch(shop)
    assert sent(shop) == [(8, 1), (8, 2)]
    assert one(shop, "select pause_conversation(7)") == 2
    assert one(shop, "select resume_conversation(7)") == 2
    enqueue(shop, 7)
    send_batch(shop)
    assert sent(shop)[2:] == [(7, 1), (7, 2), (7, 3)]


def test_nothing_moves_the_chats_of_a_paused_conversation(shop: Connection) -> None:
    """Not the hours, not a client's night, nor an urgent chat, a requeue, a release of its store, or a list."""
    shop.execute("update stores set urgent_for = '{operator}'")
    clock(shop, "2026-03-02 10:00")
    poison(shop)
    dead = enqueue(shop, 7, "bad", operator=2).chat_id
    for _ in range(5):
        send_batch(shop)
        shop.execute("update chat_queue set due_at = shoptalk_now() where due_at > shoptalk_now()")
    shop.execute("drop trigger refuse_bad on sent_log")
    enqueue(shop, 7, operator=2, sender="operator")
    shop.execute("select pause_conversation(7)")
    shop.execute("select change_hours(2, hours_of(2))")
    shop.execute("select set_quiet_hours(1, 'UTC', '22:00', '06:00')")
    enqueue(shop, 7, operator=2, sender="operator")
    shop.execute("select set_quiet_hours(1, null, null, null)")
    urgent(shop, 7)
    shop.execute("select requeue_chat(%s)", [dead])
    shop.execute("select enqueue_chats('{7,7}', '{1,1}', '{2,2}', '{a,b}', '{client,client}', '{null,null}')")
    shop.execute("select release_store(2)")
    assert one(shop, "select count(*) from chat_queue where paused and due_at = 'infinity'") == 6
    clock(shop, "2026-03-03 10:00")
    send_batch(shop)
    assert sent(shop) == []
    shop.execute("select resume_conversation(7)")
    send_batch(shop)
    assert sent(shop) == [(7, seq) for seq in range(1, 7)]


def test_a_conversation_resumed_while_its_store_is_closed_or_paused_waits_on(shop: Connection) -> None:
    clock(shop, "2026-03-02 10:00")
    enqueue(shop, 7, operator=2)
    shop.execute("select pause_conversation(7)")
    shop.execute("select pause_store(2)")
    shop.execute("select resume_conversation(7)")
    send_batch(shop)
    assert sent(shop) == []
    clock(shop, "2026-03-02 20:00")
    shop.execute("select resume_store(2)")
    send_batch(shop)
    assert sent(shop) == []
    clock(shop, "2026-03-03 09:00")
    send_batch(shop)
    assert sent(shop) == [(7, 1)]


def test_a_retry_does_not_get_out_of_a_paused_conversation(shop: Connection) -> None:
    poison(shop)
    enqueue(shop, 7, "bad")
    assert send_batch(shop).failed == 1
    shop.execute("select pause_conversation(7)")
    shop.execute("drop trigger refuse_bad on sent_log")
    shop.execute("set shoptalk.now = '2100-01-01'")
    send_batch(shop)
    assert sent(shop) == []


@pytest.mark.parametrize("pause", ["select pause_conversation(7)", "select pause_store(1)"])
def test_a_batch_in_hand_is_waited_for(shop: Connection, connect: Callable[[], Connection], pause: str) -> None:
    enqueue(shop, 7)
    other = connect()
    with other.transaction():
        send_batch(other)
        pausing = threading.Thread(target=shop.execute, args=[pause])
        pausing.start()
        wait_until_blocked(connect(), shop)
    pausing.join()
    assert states(shop) == ["sent"]


@pytest.mark.parametrize("pause", ["select pause_conversation(7)", "select pause_store(1)"])
def test_an_enqueue_under_way_is_either_waited_for_or_held(
    shop: Connection, connect: Callable[[], Connection], pause: str
) -> None:
    enqueue(shop, 7)
    send_batch(shop)
    other = connect()
    with other.transaction():
        enqueue(other, 7)
        pausing = threading.Thread(target=shop.execute, args=[pause])
        pausing.start()
        if "conversation" in pause:
            wait_until_blocked(connect(), shop)
        else:
            pausing.join()
    pausing.join()
    send_batch(shop)
    assert states(shop) == ["sent", "held"]


def test_a_store_is_released_at_any_hour(shop: Connection) -> None:
    clock(shop, "2026-03-02 20:00")
    shop.execute("select set_quiet_hours(1, 'UTC', '18:00', '06:00')")
    enqueue(shop, 7, operator=2, sender="operator")
    enqueue(shop, 7, operator=2)
    enqueue(shop, 8, operator=2)
    shop.execute("listen chat_queued")
    assert one(shop, "select release_store(2)") == 3
    assert next(shop.notifies(timeout=5)).channel == "chat_queued"
    send_batch(shop)
    assert sorted(sent(shop)) == [(7, 1), (7, 2), (8, 1)]
    assert enqueue(shop, 7, operator=2).state == "held"  # the store is as closed as before


def test_a_chat_is_released_with_those_before_it_and_no_others(shop: Connection) -> None:
    clock(shop, "2026-03-02 20:00")
    ids = [enqueue(shop, 7, operator=2).chat_id for _ in range(3)]
    enqueue(shop, 8, operator=2)
    assert one(shop, "select release_chat(%s)", ids[1]) == 2
    send_batch(shop)
    assert sent(shop) == [(7, 1), (7, 2)]
    with pytest.raises(psycopg.Error, match="is not held") as error:
        shop.execute("select release_chat(%s)", [ids[1]])
    assert error.value.sqlstate == "ST409"
    assert one(shop, "select release_conversation(7)") == 1
    send_batch(shop)
    assert sent(shop) == [(7, 1), (7, 2), (7, 3)]


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("select pause_store(99)", "ST404"),
        ("select resume_store(99)", "ST404"),
        ("select release_store(99)", "ST404"),
        ("select pause_conversation(99)", "ST404"),
        ("select resume_conversation(99)", "ST404"),
        ("select release_conversation(99)", "ST404"),
        ("select release_chat(99)", "ST404"),
        ("select pause_store(1); select release_store(1)", "ST409"),
        ("select pause_store(1); select release_conversation(7)", "ST409"),
        ("select pause_conversation(7); select release_conversation(7)", "ST409"),
    ],
)
def test_what_cannot_be_done_is_said(shop: Connection, statement: str, state: str) -> None:
    enqueue(shop, 7)
    with pytest.raises(psycopg.Error) as error:
        shop.execute(statement)
    assert error.value.sqlstate == state


def test_a_requeued_chat_keeps_to_quiet_hours_that_are_set_while_it_waits_for_its_conversation(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    chat = enqueue(shop, 7, sender="operator").chat_id
    shop.execute("delete from chat_queue")
    shop.execute("insert into chat_failures values (%s, 5, 'x', now(), now())", [chat])
    holder, requeuer = connect(), connect()
    with holder.transaction():
        holder.execute("select from conversations for update")
        thread = threading.Thread(target=requeuer.execute, args=["select requeue_chat(%s)", [chat]])
        thread.start()
        wait_until_blocked(shop, requeuer)
        shop.execute("insert into quiet_hours values (1, 'UTC', '00:00', '23:59')")
    thread.join()
    assert shop.execute("select quiet_for from chat_queue").fetchone() == (1,)
