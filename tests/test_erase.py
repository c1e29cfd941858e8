"""Exporting a client's data, and erasing it everywhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import psycopg
import pytest

from tests.support.cli import Shoptalk
from tests.support.db import Connection, enqueue, poison, send_batch, sent, states, wait_until_blocked

SECRET = "xyzzy"  # what must not be found anywhere afterwards
# Columns that can hold text and need no erasing: not a client's, or with nothing in them that a person wrote or is.
HARMLESS = {
    "api_keys.name", "api_keys.scopes", "channels.kind", "channels.leased_by", "channels.name", "channels.settings",
    "chats.sender", "conversations.operator_group", "delivered_marks.party", "inbound_messages.source",
    "operators.operator_group", "operators.operator_name", "operators.xmpp_jid", "presence.party", "presence.process",
    "presence.scope", "queue_samples.channels", "read_marks.party", "schema_version.functions",
    "store_exceptions.name", "stores.away_notice", "stores.timezone", "stores.urgent_for", "web_processes.process",
}  # fmt: skip


def texts(db: Connection) -> list[tuple[str, str]]:
    """(table, column) of all that can hold text."""
    return db.execute(
        "select table_name::text, column_name::text from information_schema.columns join information_schema.tables"
        " using (table_schema, table_name) where table_schema = 'public' and table_type = 'BASE TABLE'"
        " and data_type in ('text', 'jsonb', 'json', 'ARRAY', 'character varying', 'bytea', 'USER-DEFINED')"
    ).fetchall()


def found(db: Connection, needle: str = SECRET) -> set[str]:
    """table.column wherever it stands."""
    return {
        f"{table}.{column}"
        for table, column in texts(db)
        if db.execute(f"select 1 from {table} where {column}::text like %s limit 1", [f"%{needle}%"]).fetchone()
    }


@pytest.fixture
def told(shop: Connection) -> Connection:
    """A shop in which the secret of client 3 stands wherever it can."""
    shop.execute("insert into clients values (3, %s, %s, null, %s)", [SECRET, SECRET, f"{SECRET}@example.org"])
    shop.execute("select set_quiet_hours(3, 'Europe/Oslo', '22:00', '22:01')")
    poison(shop)
    for payload in (SECRET, "{{ username }}", f"bad {SECRET}"):
        enqueue(shop, 7, payload, client=3)
    for _ in range(5):
        send_batch(shop)
        shop.execute("update chat_queue set due_at = now()")
    enqueue(shop, 8, "of another")
    send_batch(shop)
    enqueue(shop, 7, f"for {SECRET}", client=3, sender="operator")
    enqueue(shop, 9, f"held {SECRET}", client=3)
    shop.execute("update chat_queue set due_at = 'infinity', held_since = now()")
    shop.execute("update chat_failures set reason = 'cannot send ' || %s", [SECRET])
    shop.execute(
        "insert into channels (store_id, name, kind, cursor, last_error) values (1, 'crm', 'webhook', 3, %s)", [SECRET]
    )
    shop.execute(
        "insert into channel_dead_letters (channel_id, position, chat_id, reason, failed_at)"
        " select 1, position, chat_id, 'answered 422 ' || %s, now() from sent_log where conversation_id = 7",
        [SECRET],
    )
    shop.execute(
        "insert into channel_attempts (channel_id, chat_id, attempted_at, took_seconds, status, error)"
        " select 1, chat_id, now(), 1, 422, 'answered 422 ' || %s from sent_log where conversation_id = 7",
        [SECRET],
    )
    shop.execute(
        "insert into inbound_messages select 'amqp', %s || chat_id, chat_id, now() from chats"
        " where conversation_id = 7",
        [SECRET],
    )
    return shop


def test_every_column_with_text_is_either_erased_or_known_to_be_harmless(told: Connection) -> None:
    """A new one has to be put into erase_client(), and into `told` above, or into HARMLESS."""
    erased = found(told)
    assert not erased & HARMLESS
    known = HARMLESS | erased | {"chats.template", "quiet_hours.timezone", "api_keys.hash", "token_secrets.secret"}
    assert not {f"{table}.{column}" for table, column in texts(told)} - known


def test_a_client_is_erased_everywhere_and_nothing_loses_its_place(told: Connection) -> None:
    before = told.execute("select chat_id, conversation_id, seq, created_at from chats order by 1").fetchall()
    log = told.execute("select * from sent_log order by position").fetchall()
    told.execute("update chats set payload = 'kept' where conversation_id = 8")
    assert told.execute("select * from erase_client(3)").fetchone() == (2, 5, 3)
    assert found(told) == set()
    assert told.execute("select count(*) from quiet_hours").fetchone() == (0,)
    assert told.execute("select chat_id, conversation_id, seq, created_at from chats order by 1").fetchall() == before
    assert told.execute("select * from sent_log order by position").fetchall() == log
    assert told.execute("select distinct payload from chats order by 1").fetchall() == [("[erased]",), ("kept",)]
    assert states(told) == ["sent", "sent", "cancelled", "cancelled", "sent", "cancelled"]
    assert told.execute("select * from erase_client(3)").fetchone() == (2, 0, 0)


def test_an_erased_conversation_goes_on(told: Connection) -> None:
    told.execute("select erase_client(3)")
    assert enqueue(told, 7, "new", client=3).seq == 5
    told.execute("update chat_queue set due_at = now(), held_since = null")
    send_batch(told)
    assert sent(told)[-1] == (7, 5)


def test_a_chat_being_accepted_is_waited_for_and_erased_too(
    told: Connection, connect: Callable[[], Connection]
) -> None:
    other = connect()
    with other.transaction():
        enqueue(other, 7, f"late {SECRET}", client=3)
        erasing = threading.Thread(target=told.execute, args=["select erase_client(3)"])
        erasing.start()
        wait_until_blocked(connect(), told)
    erasing.join()
    assert found(told) == set()


def test_a_chat_being_sent_is_waited_for_and_stays_sent(told: Connection, connect: Callable[[], Connection]) -> None:
    told.execute("update chat_queue set due_at = now() where conversation_id = 7")
    other = connect()
    with other.transaction():
        send_batch(other)
        erasing = threading.Thread(target=told.execute, args=["select erase_client(3)"])
        erasing.start()
        wait_until_blocked(connect(), told)
    erasing.join()
    assert states(told) == ["sent", "sent", "cancelled", "sent", "sent", "cancelled"]
    assert found(told) == set()


def test_the_export_has_all_that_the_erasure_would_take(told: Connection, shoptalk: Shoptalk) -> None:
    exported = shoptalk("export", "3").json
    assert exported["client"]["username"] == SECRET
    assert exported["quiet_hours"]["timezone"] == "Europe/Oslo"
    assert [c["conversation_id"] for c in exported["conversations"]] == [7, 9]
    chats = exported["conversations"][0]["chats"]
    assert [(c["seq"], c["state"]) for c in chats] == [(1, "sent"), (2, "sent"), (3, "failed"), (4, "held")]
    assert (chats[1]["template"], chats[1]["payload"]) == ("{{ username }}", SECRET)
    assert chats[0]["sent_at"].endswith("+00:00")
    assert len(exported["deliveries"]) == len(exported["delivery_failed"]) == 2
    assert len(exported["sending_failed"]) == 1
    assert len(exported["messages"]) == 4
    whole = json.dumps(exported)
    assert "of another" not in whole
    told.execute("select erase_client(3)")
    assert SECRET not in shoptalk("export", "3").out


def test_the_command_line_asks_before_it_erases(told: Connection, shoptalk: Shoptalk) -> None:
    answer = shoptalk("erase", "3")
    assert (answer.status, "--yes" in answer.err) == (1, True)
    assert found(told)
    assert shoptalk("erase", "3", "--yes", "--json").json == {
        "client_id": 3, "conversations": 2, "chats": 5, "cancelled": 3}  # fmt: skip
    assert shoptalk("erase", "99", "--yes").err == "shoptalk: there is no client 99\n"
    assert shoptalk("export", "99").status == 1


def test_what_does_not_exist_is_said(shop: Connection) -> None:
    for function in ("erase_client", "export_client"):
        with pytest.raises(psycopg.Error) as error:
            shop.execute(f"select {function}(99)")
        assert error.value.sqlstate == "ST404"
