"""Database roles: each process can do its work in its role, and nothing else."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.support.api import BODIES, MASTER, MakeClient, ask, bearer, calls
from tests.support.db import AsRole, Connection, enqueue
from tests.support.processes import Start, eventually
from tests.support.relay import Receiver
from tests.support.web import Reader, Web

ROLES = ("web", "worker", "relay", "inspector")
SECRETS = {"api_keys", "token_secrets", "channels"}
WRITES = {"web": {("clients", "INSERT"), ("operators", "INSERT"), ("channels", "DELETE")}}


def test_every_process_does_all_of_its_work_in_its_role(
    start: Start,
    as_role: AsRole,
    shop: Connection,
    receiver: Receiver,
) -> None:
    web = Web(start, as_role("web"))
    worker = start("worker", DATABASE_URL=as_role("worker"))
    relay = start("relay", DATABASE_URL=as_role("relay"), SHOPTALK_WEBHOOK_ALLOW_PRIVATE="1")
    shop.execute("select put_webhook(1, 'crm', %s, %s, '', true)", [json.dumps({"url": receiver.url}), receiver.secret])
    reader = Reader(web.port, "conversation_id=7&as=client").begin()
    with psycopg.connect(as_role("web"), autocommit=True) as producer:
        enqueue(producer, 7, "hello")
    assert reader.chats(1)[0]["payload"] == "hello"
    eventually(lambda: [chat["payload"] for chat in receiver.got] == ["hello"])
    eventually(lambda: shop.execute("select count(*) > 0 from queue_samples").fetchone() == (True,))
    eventually(lambda: shop.execute("select count(*) > 0 from presence").fetchone() == (True,))
    reader.close()
    for process in (worker, relay):
        process.end()
        assert not [line for line in process.lines if "permission denied" in line or "failed" in line]


def test_every_route_works_in_the_role_of_web(shop: Connection, as_role: AsRole, make_client: MakeClient) -> None:
    client = make_client(as_role("web"), api_keys=(MASTER,))
    enqueue(shop, 7, "x", chat_id=70)
    hook = BODIES["PUT", "/v1/stores/<store_id>/channels/<name>"]
    client.put("/v1/stores/1/channels/crm", json=hook, headers=bearer(MASTER))
    for call in sorted(calls(client), key=lambda call: call.method == "DELETE"):
        answer = ask(client, call, MASTER)
        answer.close()
        assert answer.status_code < 503, (call, answer.text)
    client.application.extensions["shoptalk"].feed.close()
    assert shop.execute("select count(*) from store_exceptions").fetchone() != (0,)  # holidays: also at the commit


def relations(db: Connection) -> list[str]:
    rows = db.execute(
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')"
    )
    return [name for (name,) in rows]


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_write_but_through_its_functions(db: Connection, role: str) -> None:
    """All tables and views that there are: one that is new is closed until somebody opens it."""
    names = relations(db)
    assert {"chats", "chat_queue", "sent_log", "api_keys"} <= set(names)
    for name in names:
        for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
            may = db.execute("select has_table_privilege(%s, %s, %s)", [f"shoptalk_{role}", name, right]).fetchone()
            assert may == ((name, right) in WRITES.get(role, set()),), (name, right)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_read_only_what_it_must(db: Connection, role: str) -> None:
    readable = {
        name
        for name in relations(db)
        if db.execute("select has_table_privilege(%s, %s, 'SELECT')", [f"shoptalk_{role}", name]).fetchone() == (True,)
    }
    if role == "worker":
        assert readable == {"schema_version"}
    if role == "relay":
        assert readable == {
            "schema_version",
            "conversations",
            "chats",
            "sent_log",
            "channels",
            "channel_dead_letters",
            "pruned",
        }
    if role == "web":
        assert readable & SECRETS == {"api_keys", "token_secrets"}
    if role == "inspector":
        assert readable == set(relations(db)) - SECRETS


def test_functions_that_write_are_for_one_role_each(db: Connection) -> None:
    rows = db.execute(
        "select p.oid::regprocedure::text, proconfig, array(select r from unnest(%s::text[]) r"
        " where has_function_privilege('shoptalk_' || r, p.oid, 'execute')) from pg_proc p where prosecdef"
        " and pronamespace = 'public'::regnamespace",
        [list(ROLES)],
    ).fetchall()
    assert len(rows) > 20
    for name, settings, roles in rows:
        assert "search_path=public, pg_temp" in settings, name
        assert len(roles) == (0 if name.startswith("hours_changed") else 1), name
        assert roles != ["inspector"]


DENIED = {
    "web": [
        "insert into chats select * from chats", "update chats set payload = 'x'", "delete from chats",
        "insert into sent_log values (9, 9, 9, 9, now())", "delete from chat_queue", "update stores set timezone = '0'",
        "select settings from channels", "select send_chats()", "select lease_channel(1, 'x', 9)",
        "select make_key('x')",
        "select revoke_key('x')", "select rotate_token_secret()", "update api_keys set revoked_at = null",
        "create table x ()", "alter table chats add x integer",
        "set role shoptalk_worker", "select grant_roles()",
    ],
    "worker": [
        "select * from chats", "select * from chat_queue", "select * from api_keys", "select * from channels",
        "select enqueue_chat(7, 1, 1, 'x')", "select cancel_chat(1)", "delete from sent_log", "select make_key('x')",
    ],
    "relay": [
        "select enqueue_chat(7, 1, 1, 'x')", "select send_chats()", "update channels set cursor = 0",
        "select * from api_keys", "select * from token_secrets", "select * from clients",
        "delete from channel_attempts",
    ],
    "inspector": [
        "select * from api_keys", "select * from token_secrets", "select settings from channels",
        "select enqueue_chat(7, 1, 1, 'x')", "select send_chats()", "select cancel_chat(1)", "delete from chat_queue",
        "insert into clients values (9, 'x', 'x')", "select settle_batch(1, 1, 1, 1, null, null, null)",
        "select put_webhook(1, 'x', '{}', 'x', 'x', true)", "select next_release(1, now()); select take_slot(1, now())",
    ],
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_not_is_refused(shop: Connection, as_role: AsRole, role: str) -> None:
    with psycopg.connect(as_role(role), autocommit=True) as connection:
        for statement in DENIED[role]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_the_inspector_sees_the_queue_and_the_keys_without_secrets(shop: Connection, as_role: AsRole) -> None:
    enqueue(shop)
    shop.execute("select make_key('crm')")
    with psycopg.connect(as_role("inspector"), autocommit=True) as connection:
        assert connection.execute("select state from chat_states").fetchall() == [("queued",)]
        assert connection.execute("select chats from queue_status where state = 'queued'").fetchone() == (1,)
        assert connection.execute("select name from keys").fetchall() == [("crm",)]
        connection.execute("select * from channel_status")
        connection.execute("select * from queue_pressure()")


def test_no_other_table_gets_between_a_function_and_its_own(shop: Connection, as_role: AsRole) -> None:
    with psycopg.connect(as_role("web"), autocommit=True) as connection:
        for table in ("chats", "conversations", "clients", "operators", "chat_queue"):
            connection.execute(f"create temp table {table} (like public.{table})")
        connection.execute("set search_path = pg_temp, public")
        enqueue(connection, 7, "hello", chat_id=5)
    assert shop.execute("select payload from chats").fetchall() == [("hello",)]


def test_a_program_of_the_shops_needs_only_the_one_function(shop: Connection, as_role: AsRole) -> None:
    name = psycopg.conninfo.conninfo_to_dict(as_role("inspector"))["user"]
    shop.execute("revoke shoptalk_inspector from " + str(name))
    shop.execute(f"grant execute on function enqueue_chat to {name}")
    with psycopg.connect(as_role("inspector"), autocommit=True) as connection:
        assert enqueue(connection).seq == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select * from chats")
    shop.execute(f"revoke execute on function enqueue_chat from {name}")
