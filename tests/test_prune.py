"""Retention: old chats are removed, and nothing else changes."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from api.views import stream
from tests.support.cli import Shoptalk
from tests.support.db import (
    AsRole,
    Connection,
    clock,
    count,
    enqueue,
    enqueue_until,
    looked_at,
    poison,
    send_batch,
    sent,
    states,
)
from tests.support.processes import Start, eventually
from tests.support.web import Web, catching_up

LONG_AGO = "2026-01-05 10:00"
OLD = dt.timedelta(days=90)


@pytest.fixture
def old(shop: Connection) -> Connection:
    """The shop, whose clock stands long ago; now() ends that."""
    clock(shop, LONG_AGO)
    return shop


def now(db: Connection) -> None:
    db.execute("set shoptalk.now = ''")


def prune(db: Connection, keep: dt.timedelta = OLD, most: int = 500) -> Any:
    cursor = db.cursor(row_factory=psycopg.rows.namedtuple_row)
    return cursor.execute("select * from prune(%s, %s)", [keep, most]).fetchone()


def prune_all(db: Connection, keep: dt.timedelta = OLD, most: int = 500) -> int:
    """How many that were sent are gone."""
    gone, more = 0, True
    while more:
        report = prune(db, keep, most)
        gone, more = gone + report.sent, report.more
    return gone


def send_some(db: Connection, *conversations: int) -> list[int]:
    ids = [enqueue(db, conversation).chat_id for conversation in conversations]
    while send_batch(db).claimed:
        pass
    return ids


def fail_for_good(db: Connection, conversation: int) -> int:
    """The id of a chat that is a dead letter of that day."""
    poison(db)
    bad: int = enqueue(db, conversation, "bad").chat_id
    for hour in range(11, 16):
        clock(db, f"2026-01-05 {hour}:00")
        db.execute("select send_chats()")
    return bad


def positions(db: Connection) -> list[int]:
    return [p for (p,) in db.execute("select position from sent_log order by 1")]


def test_what_was_sent_long_ago_is_gone_and_all_numbers_go_on(old: Connection) -> None:
    send_some(old, 7, 7, 8)
    now(old)
    send_some(old, 7)
    report = prune(old)
    assert (report.sent, report.cancelled, report.more, report.held_by) == (3, 0, False, None)
    assert old.execute("select conversation_id, seq from chats").fetchall() == sent(old) == [(7, 3)]
    assert positions(old) == [4]
    assert enqueue(old, 8).seq == 2
    send_batch(old)
    assert sent(old) == [(7, 3), (8, 2)]
    assert positions(old) == [4, 5]
    assert old.execute("select chats from queue_status where state = 'sent'").fetchone() == (5,)
    assert prune(old).sent == 0


def test_the_last_entry_of_the_log_stays_however_old_it_is(old: Connection) -> None:
    send_some(old, 7, 7)
    now(old)
    assert (prune(old).sent, positions(old)) == (1, [2])
    send_some(old, 7)
    assert (prune(old).sent, positions(old)) == (1, [3])


def test_nothing_that_waits_or_has_failed_goes_and_what_was_cancelled_does(old: Connection) -> None:
    bad = fail_for_good(old, 9)
    waiting = [enqueue(old, 7).chat_id, enqueue(old, 8, operator=2).chat_id]
    old.execute("select pause_conversation(7)")
    cancelled = enqueue(old, 7).chat_id
    old.execute("select cancel_chat(%s)", [cancelled])
    send_some(old, 10, 10)
    now(old)
    old.execute("update chat_queue set due_at = 'infinity'")
    send_some(old, 10)
    report = prune(old)
    assert (report.sent, report.cancelled) == (2, 1)
    assert {bad, *waiting} < {chat for (chat,) in old.execute("select chat_id from chats")}
    assert (count(old, "chats"), count(old, "chat_queue"), count(old, "cancelled_chats")) == (4, 2, 0)
    assert sorted(states(old)) == ["failed", "held", "held", "sent"]
    old.execute("select cancel_chat(%s)", [bad])  # dismissed
    clock(old, "2030-01-01 10:00")
    assert prune(old).cancelled == 1


def test_a_chat_whose_predecessor_is_pruned_goes_and_a_later_one_still_waits_for_it(old: Connection) -> None:
    send_some(old, 7)
    old.execute("select pause_conversation(7)")
    enqueue(old, 7)
    send_some(old, 8)
    now(old)
    enqueue(old, 7)
    assert prune(old).sent == 1
    old.execute("select resume_conversation(7)")
    with psycopg.connect(old.info.dsn) as other:
        other.execute("select from chat_queue where seq = 2 for update")
        send_batch(old)
        assert sent(old) == [(8, 1)], "3 does not overtake 2, which somebody has locked"
    old.execute("update chat_queue set due_at = now()")
    send_batch(old)
    assert sent(old) == [(8, 1), (7, 2), (7, 3)]


def test_a_requeued_dead_letter_goes_though_all_around_it_is_pruned(old: Connection) -> None:
    bad = fail_for_good(old, 7)
    send_some(old, 7, 7)
    send_some(old, 8)
    now(old)
    assert prune(old).sent == 2
    old.execute("drop trigger refuse_bad on sent_log")
    old.execute("select requeue_chat(%s)", [bad])
    enqueue(old, 7)
    send_batch(old)
    assert sent(old) == [(8, 1), (7, 1), (7, 4)]


def test_batches_are_bounded_and_each_says_whether_there_is_more(old: Connection) -> None:
    send_some(old, *[7] * 8)
    now(old)
    reports = [prune(old, most=3) for _ in range(3)]
    assert [(r.sent, r.more) for r in reports] == [(3, True), (3, True), (1, False)]
    for keep, most in ((dt.timedelta(hours=23), 3), (OLD, 0)):
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            prune(old, keep, most)


def test_only_one_prunes_at_a_time_and_it_waits_for_no_other(
    old: Connection, connect: Callable[[], Connection]
) -> None:
    send_some(old, *[7] * 5)
    now(old)
    other = connect()
    with other.transaction():
        other.execute("select from chats where seq = 3 for update")
        assert prune(old).sent == 2
        assert positions(old) == [3, 4, 5]
    with other.transaction():
        assert prune(other).sent == 2
        assert prune(old).more is None
    assert positions(old) == [5]


def test_order_holds_while_a_worker_sends_and_all_that_it_has_sent_is_pruned_at_once(
    shop: Connection, database: str, start: Start
) -> None:
    shop.execute("create table history (position bigint, chat_id bigint, conversation_id integer, seq integer)")
    shop.execute(
        """create function remember() returns trigger language plpgsql security definer as $$ begin
             insert into history values (new.position, new.chat_id, new.conversation_id, new.seq); return new; end $$;
           create trigger remember before insert on sent_log for each row execute function remember()"""
    )
    start("worker", DATABASE_URL=database)
    enough, pruned = threading.Event(), 0
    clock(shop, "2040-01-01 00:00")  # of the one who prunes: all is old
    with ThreadPoolExecutor() as pool:
        producers = [pool.submit(enqueue_until, database, range(10 * n + 1, 10 * n + 6), 300, enough) for n in (0, 1)]
        try:
            while pruned < 400:
                pruned += prune(shop, OLD, 50).sent  # once: it may never come to the end of what they produce
        finally:
            enough.set()
        ids = [chat for producer in producers for chat in producer.result()]
    eventually(lambda: count(shop, "chat_queue") == 0)
    log = shop.execute("select position, chat_id, conversation_id, seq from history order by position").fetchall()
    assert sorted(chat for _, chat, _, _ in log) == sorted(ids)
    assert [position for position, *_ in log] == list(range(1, len(log) + 1))
    seqs = defaultdict(list)
    for _, _, conversation, seq in log:
        seqs[conversation].append(seq)
    assert all(got == list(range(1, len(got) + 1)) for got in seqs.values())
    prune_all(shop)
    assert (count(shop, "chats"), positions(shop)) == (1, [len(log)])


def test_a_channel_that_is_behind_stops_it_and_status_says_so(old: Connection, shoptalk: Shoptalk) -> None:
    send_some(old, *[7] * 5)
    now(old)
    old.execute("insert into channels (store_id, name, kind, cursor, paused_at) values (1, 'crm', 'webhook', 2, now())")
    assert prune(old).sent == 2
    assert positions(old) == [3, 4, 5]
    found = shoptalk("status", "--json").json["pruned"]
    assert (found["days"], found["earliest"], found["held_by"], found["store_id"]) == (90, 3, "crm", 1)
    assert "channel crm of store 1 has not delivered them yet" in shoptalk("status").out
    assert "because channel crm of store 1" in shoptalk("prune", "--older-than", "90d", "--dry-run").out
    old.execute("update channels set cursor = 5")
    old.execute(
        "insert into channel_dead_letters values (1, 3, 3, 'x', 1, now(), null), (1, 4, 4, 'x', 1, now(), now())"
    )
    assert prune(old).sent == 1, "one that is to be delivered once more stops it too"
    assert old.execute("select position from channel_dead_letters").fetchall() == [(4,)]
    old.execute("delete from channel_dead_letters")
    assert prune(old).sent == 1
    assert shoptalk("status", "--json").json["pruned"]["held_by"] is None


def test_a_channel_that_begins_from_the_start_begins_with_what_is_left(old: Connection) -> None:
    send_some(old, *[7] * 5)
    now(old)
    prune(old, most=2)
    old.execute("insert into channels (store_id, name, kind, cursor) values (1, 'crm', 'webhook', 0)")
    assert (prune(old).sent, prune(old).held_by) == (0, 1)
    assert positions(old) == [3, 4, 5]


def test_a_stream_with_a_pruned_cursor_is_told_where_it_goes_on(old: Connection, web: Web) -> None:
    send_some(old, *[7] * 3)
    now(old)
    send_some(old, 7)
    assert prune(old).sent == 3
    reader = web.open("conversation_id=7", "1")
    events = reader.events()
    reset, chat = next(events), next(events)
    assert (reset["event"], reset["id"], json.loads(chat["data"])["seq"]) == ("reset", "3", 4)
    reader.close()
    for query, cursor in (("conversation_id=7", "3"), ("client_id=1&from=start", "")):
        reader = web.open(query, cursor)
        assert reader.chats(1)[0]["seq"] == 4
        reader.close()


def test_what_was_cancelled_lately_is_not_walked(old: Connection) -> None:
    now(old)
    send_some(old, 7)
    old.execute(
        "insert into chats (chat_id, conversation_id, seq, sender, payload, client_id, operator_id, created_at)"
        " select g, 7, g, 'client', 'x', 1, 1, now() from generate_series(100, 5000) g;"
        "insert into cancelled_chats select g, now() from generate_series(100, 5000) g; analyze cancelled_chats"
    )
    _, rows = looked_at(old, lambda: prune(old))["cancelled_chats"]
    assert rows <= 10


@pytest.mark.parametrize("key", [("conversation_id", 7), ("client_id", 1)])
def test_a_stream_that_is_catching_up_is_told_of_what_was_pruned_under_it(
    old: Connection, database: str, key: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "PAGE", 2)
    monkeypatch.setattr(stream, "WINDOW", 2)
    send_some(old, *[7] * 6)
    now(old)
    send_some(old, 7)
    with catching_up(database, key, until=7) as events:
        assert next(events).count(b"event: chat") == 2
        prune(old, most=4)
        assert next(events).startswith(b"event: reset\nid: 4\n")
        assert b"".join(events).count(b"event: chat") == 3


def test_a_conversation_answers_what_is_there(old: Connection, client: FlaskClient) -> None:
    send_some(old, 7, 7, 8)
    now(old)
    send_some(old, 8)
    prune(old)
    whole = client.get("/v1/conversations/7").get_json()
    assert (whole["chat"], whole["client_id"], whole["store_id"], whole["cursor"]) == ([], 1, 1, "4")
    assert client.get("/app/getConversation/7/").get_json()["conversation"]["chat"] == []
    assert client.get("/v1/conversations/7/chats").get_json() == {"chat": []}
    assert [chat["seq"] for chat in client.get("/v1/conversations/8").get_json()["chat"]] == [2]
    assert client.get("/v1/conversations/9").status_code == 404
    listed = client.get("/v1/operators/1/conversations?limit=1")
    assert [c["conversation_id"] for c in listed.get_json()["conversations"]] == [8]
    assert "Link" not in listed.headers


def test_the_list_has_a_conversation_of_which_only_an_earlier_chat_is_left(
    old: Connection, client: FlaskClient
) -> None:
    old.execute("select add_store(3, 'UTC', '00:00', '00:00'), pause_store(3)")
    old.execute("insert into operators values (3, 'Ole', 'day', 3)")
    enqueue(old, 7, operator=3)
    later = enqueue(old, 7, operator=3).chat_id
    old.execute("select cancel_chat(%s)", [later])
    now(old)
    assert prune(old).cancelled == 1
    (listed,) = client.get("/v1/operators/3/conversations").get_json()["conversations"]
    assert (listed["last_chat"]["seq"], listed["last_chat"]["state"]) == (1, "held")


def test_a_chat_id_that_is_pruned_is_free_again(old: Connection) -> None:
    enqueue(old, 7, chat_id=5)
    send_some(old, 8)
    assert enqueue(old, 7, chat_id=5).is_repeat
    now(old)
    prune(old)
    again = enqueue(old, 7, chat_id=5)
    assert (again.is_repeat, again.seq) == (False, 2)


def test_attempts_and_failures_of_what_goes_go_with_it(old: Connection) -> None:
    (chat, _) = send_some(old, 7, 7)
    old.execute("insert into chat_failures values (%s, 1, 'once', now(), null)", [chat])
    old.execute("insert into channels (store_id, name, kind, cursor) values (1, 'crm', 'webhook', 2)")
    attempt = "insert into channel_attempts (channel_id, chat_id, attempted_at, took_seconds) values (1, 1, %s, 1)"
    old.execute(attempt, [LONG_AGO])
    now(old)
    old.execute(attempt, [dt.datetime.now(dt.UTC)])
    assert prune(old).sent == 1
    assert (count(old, "chat_failures"), count(old, "channel_attempts")) == (0, 1)


def test_the_worker_prunes_what_is_older_than_it_is_told_to_keep(
    old: Connection, as_role: AsRole, start: Start
) -> None:
    send_some(old, *[7] * 1200)
    now(old)
    send_some(old, 7)
    forgetful = start("worker", DATABASE_URL=as_role("worker"), SHOPTALK_KEEP_DAYS="90")
    forgetful.expect("pruned sent=1200 cancelled=0")
    assert positions(old) == [1201]


def test_nothing_is_pruned_unless_it_is_set(old: Connection, database: str, start: Start) -> None:
    send_some(old, *[7] * 3)
    now(old)
    start("worker", DATABASE_URL=database)
    eventually(lambda: count(old, "queue_samples") > 0)
    enqueue(old, 7)
    eventually(lambda: count(old, "sent_log") == 4)
    assert old.execute("select at from pruned").fetchone() == (None,)


def test_the_verb(old: Connection, shoptalk: Shoptalk) -> None:
    old.execute("select cancel_chat(%s)", [enqueue(old, 8).chat_id])
    send_some(old, *[7] * 3)
    now(old)
    dry = shoptalk("prune", "--older-than", "12w", "--dry-run", "--json").json
    assert (dry["older_than_days"], dry["dry_run"], dry["sent"], dry["cancelled"]) == (84, True, 2, 1)
    assert count(old, "chats") == 4
    assert shoptalk("prune", "--older-than", "90d").out == "removed: 2 chats sent, 1 chat cancelled\n"
    assert shoptalk("prune", "--older-than", "90d", "--json").json["sent"] == 0
    assert count(old, "chats") == 1
    for age in ("90", "0d", "x"):
        assert shoptalk("prune", "--older-than", age).status == 2
