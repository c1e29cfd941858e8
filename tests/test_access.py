"""Authorization: every route and verb of the app, called by everyone who must not have it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.gate import access
from api.gate import keys as api_keys
from api.wire.needs import needs
from tests.support.api import (
    BODIES,
    CHAT,
    HOOK,
    HOURS,
    MASTER,
    PATH,
    TAKEN,
    MakeClient,
    ask,
    at_fault,
    bearer,
    calls,
    problem,
    token,
)
from tests.support.db import Connection, enqueue, make_key


@pytest.fixture
def guarded(
    shop: Connection, database: str, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlaskClient]:
    """The API with keys, over a shop with two stores, conversations in both, and words that must not get out."""
    monkeypatch.setattr(api_keys, "NEW_SECONDS", 0.0)
    shop.execute("update clients set username = username || ' Sesame'")
    shop.execute("update clients set store_id = client_id")
    enqueue(shop, 7, "open Sesame", chat_id=70)
    enqueue(shop, 8, "sesame too", chat_id=80, client=2)
    enqueue(shop, 9, "sesame of another", chat_id=90, client=2, operator=2)
    shop.execute("insert into channels (name, kind, cursor) values ('crm', 'xmpp', 0)")  # of the whole system
    client = make_client(database, api_keys=(MASTER,))
    for store in (1, 2):
        path = f"/v1/stores/{store}/channels/crm"
        assert client.put(path, json=HOOK, headers=bearer(MASTER)).status_code == 201
    yield client
    client.application.extensions["shoptalk"].feed.close()


def stand(db: Connection) -> str:
    """All that is stored, in short."""
    tables = db.execute(
        "select quote_ident(c.relname) from pg_class c where relnamespace = 'public'::regnamespace"
        " and relkind = 'r' and relname not in ('web_processes', 'presence', 'api_keys', 'token_secrets') order by 1"
    ).fetchall()
    sums = [
        db.execute(f"select md5(string_agg(t::text, ',' order by t::text)) from {name} t").fetchone()
        for (name,) in tables
    ]
    return repr(sums)


def refused(answer: TestResponse, *statuses: int) -> None:
    assert answer.status_code in statuses, (answer.request.path, answer.status_code, answer.text)
    assert not re.search("sesame|oslo|olga|hook.example", answer.text, re.I), answer.text
    if answer.request.method != "HEAD":
        problem(answer, answer.status_code)


def expired(monkeypatch: pytest.MonkeyPatch, client: FlaskClient) -> str:
    made = token(client, conversation_id=7, ttl_seconds=10)
    now = time.time() + 11
    monkeypatch.setattr(api_keys.time, "time", lambda: now)
    return made


def test_the_right_key_may_call_every_route(guarded: FlaskClient) -> None:
    """What the tables below stand on: each of these calls works for whom it is for."""
    without_body = {call for call in calls(guarded) if call.method in ("POST", "PUT", "PATCH")} - {
        call for call in calls(guarded) if (call.method, call.rule) in BODIES
    }
    assert all(re.search("pause|resume|requeue", call.rule) for call in without_body), "an example body is missing"
    for call in sorted(calls(guarded), key=lambda call: call.method == "DELETE"):
        answer = ask(guarded, call, MASTER)
        answer.close()
        # The chat was not refused by a webhook; a night that has just been taken away is not there.
        assert answer.status_code < 300 or (answer.status_code == 404 and re.search("dead-letters|quiet", call.rule)), (
            call
        )


def test_nobody_gets_anything_without_a_credential_that_is_known(
    guarded: FlaskClient, shop: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked = make_key(shop, "revoked")
    shop.execute("select revoke_key('revoked')")
    before = stand(shop)
    late = expired(monkeypatch, guarded)
    forged = token(guarded, conversation_id=7)[:-2] + "xx"
    for call in calls(guarded):
        for credential in (
            None,
            "",
            "wrong",
            "shoptalk_" + "0" * 64,
            MASTER[:-1],
            MASTER + " x",
            revoked,
            late,
            forged,
            "a.b",
        ):
            refused(ask(guarded, call, credential), 401)
    assert stand(shop) == before


def test_a_credential_that_is_not_text_is_unknown(guarded: FlaskClient) -> None:
    for credential in ("\xe9", "\xff.\xfe.\xfd"):
        assert guarded.get("/v1/queue", headers=bearer(credential)).status_code == 401


def test_a_store_cannot_say_that_a_client_of_another_is_there(guarded: FlaskClient, shop: Connection) -> None:
    key = bearer(make_key(shop, "second", "{read}", 2))
    assert guarded.get("/v1/stream?client_id=1&as=client", headers=key).status_code == 404
    answer = guarded.get("/v1/stream?client_id=2&as=client", headers=key)
    assert answer.status_code == 200
    answer.close()


def test_a_key_with_too_small_a_scope_gets_nothing(guarded: FlaskClient, shop: Connection) -> None:
    others = {"send": "{read,admin}", "read": "{send,admin}", "admin": "{send,read}"}
    small = {scope: make_key(shop, scope, scopes) for scope, scopes in others.items()}
    before = stand(shop)
    for call in calls(guarded):
        if call.need.scope in small:
            refused(ask(guarded, call, small[call.need.scope]), 403)
    refused(guarded.post("/v1/tokens", json={"client_id": 1}, headers=bearer(make_key(shop, "a", "{admin}"))), 403)
    assert stand(shop) == before


def test_a_key_of_another_store_gets_nothing(guarded: FlaskClient, shop: Connection) -> None:
    other = make_key(shop, "other", store_id=2)
    before = stand(shop)
    for call in calls(guarded):
        if call.need.of != "nothing":
            refused(ask(guarded, call, other), *((409,) if call.rule in TAKEN else (403, 404)))
    assert stand(shop) == before


@pytest.mark.parametrize(
    "of",
    [{"conversation_id": 9}, {"conversation_id": 8}, {"client_id": 2}, {"operator_id": 2},
     {"conversation_id": 8, "as": "operator"}],
    ids=str,
)  # fmt: skip
def test_a_token_of_others_gets_nothing(guarded: FlaskClient, shop: Connection, of: dict[str, Any]) -> None:
    other = token(guarded, **of)
    before = stand(shop)
    for call in calls(guarded):
        if call.need.of == "nothing" or (call.need.of == "opening" and 9 not in of.values()):
            continue  # the same for everybody, and for everybody of the store
        refused(ask(guarded, call, other), 403, 404)
    assert stand(shop) == before


@pytest.mark.parametrize("credential", ["key of store 2", "token of 9"])
def test_what_is_another_stores_is_answered_like_what_is_not_there(
    guarded: FlaskClient, shop: Connection, credential: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = make_key(shop, "other", store_id=2) if credential.startswith("key") else token(guarded, conversation_id=9)
    asked = 0
    for call in calls(guarded):
        if "<" not in call.rule or call.need.of == "opening":
            continue
        there = ask(guarded, call, asker)
        monkeypatch.setitem(globals(), "PATH", dict.fromkeys(PATH, "4711") | {"name": "crm"})
        missing = ask(guarded, call, asker)
        monkeypatch.undo()
        assert (there.status_code, there.data) == (missing.status_code, missing.data), call
        asked += 1
    assert asked > 30


def test_a_route_that_does_not_say_who_may_call_it_does_not_start() -> None:
    app = Flask("new", static_folder=None)
    app.add_url_rule("/new", "new", lambda: "hello")
    with pytest.raises(RuntimeError, match="new does not declare its needs"):
        access.install(app)
    app = Flask("new", static_folder=None)
    view = needs("read", of="conversation")(lambda number: number)
    app.add_url_rule("/new/<number>", "new", view)
    with pytest.raises(RuntimeError, match="has no <conversation_id>"):
        access.install(app)
    with pytest.raises(ValueError, match="everything"):
        needs("everything")


# Keys ------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_kept_as_a_hash(shop: Connection) -> None:
    key = make_key(shop, "crm", "{read}", 1)
    assert re.fullmatch("shoptalk_[0-9a-f]{64}", key)
    row = shop.execute("select to_json(k)::text from api_keys k").fetchone()
    assert row is not None
    assert key[9:] not in row[0]
    columns = shop.execute(
        "select array_agg(attname::text) from pg_attribute where attrelid = 'keys'::regclass and attnum > 0"
    )
    assert columns.fetchone() == (["key_id", "name", "scopes", "store_id", "created_at", "revoked_at"],)


@pytest.mark.parametrize(
    ("arguments", "state"),
    [(("crm", "{read}", None), "ST409"), (("x", "{read}", 99), "ST404"), (("x", "{root}", None), "23514"),
     (("x", "{}", None), "23514"), (("", "{read}", None), "23514")],
)  # fmt: skip
def test_a_key_that_cannot_be_made(shop: Connection, arguments: tuple[Any, ...], state: str) -> None:
    make_key(shop, "crm")
    with pytest.raises(psycopg.Error) as error:
        shop.execute("select make_key(%s, %s, %s)", arguments)
    assert error.value.sqlstate == state


def test_a_revoked_key_and_its_tokens_are_worth_nothing_within_seconds(
    guarded: FlaskClient, shop: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "CACHE_SECONDS", 0.05)
    key = make_key(shop, "crm")
    time.sleep(0.06)
    made = token(guarded, key, conversation_id=7)
    assert guarded.get("/v1/conversations/7", headers=bearer(made)).status_code == 200
    shop.execute("select revoke_key('crm')")
    time.sleep(0.06)
    for credential in (key, made):
        refused(guarded.get("/v1/conversations/7", headers=bearer(credential)), 401)
    make_key(shop, "crm")  # the name is free again


def test_what_is_open_closes_with_the_first_key_and_stays_so(
    client: FlaskClient, shop: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "CACHE_SECONDS", 0.0)
    before = token(client, client_id=1) if client.get("/v1/queue").status_code == 200 else ""
    key = make_key(shop, "first")
    assert client.get("/v1/queue").status_code == 401
    assert client.get("/v1/stores/1", headers=bearer(before)).status_code == 401
    assert client.get("/v1/queue", headers=bearer(key)).status_code == 200
    shop.execute("select revoke_key('first')")
    assert client.get("/v1/queue").status_code == 401


def test_wrong_keys_do_not_ask_the_database(guarded: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "NEW_SECONDS", 60.0)
    assert guarded.get("/v1/queue", headers=bearer("wrong")).status_code == 401
    monkeypatch.setattr(api_keys.KeyRing, "_read", lambda self: pytest.fail("asked"))
    for number in range(100):
        assert guarded.get("/v1/queue", headers=bearer(f"wrong{number}")).status_code == 401


# Tokens ----------------------------------------------------------------------------------------------


@pytest.fixture
def as_client(guarded: FlaskClient) -> Iterator[dict[str, str]]:
    return bearer(token(guarded, client_id=1))


def test_a_clients_token_chats_in_its_conversations_as_the_client(
    guarded: FlaskClient, as_client: dict[str, str]
) -> None:
    mine = CHAT | {"chat_id": 2**52 + 1}
    assert guarded.post("/v1/chats", json=mine, headers=as_client).status_code == 201
    for method, path, body in (
        ("GET", "/v1/conversations/7", None),
        ("GET", "/v1/conversations/7/chats", None),
        ("GET", f"/v1/chats/{2**52 + 1}", None),
        ("PATCH", f"/v1/chats/{2**52 + 1}", {"payload": "better"}),
        ("DELETE", f"/v1/chats/{2**52 + 1}", None),
        ("PUT", "/v1/conversations/7/read", {"reader": "client", "seq": 1}),
        ("POST", "/v1/conversations/7/typing", {"sender": "client"}),
        ("GET", "/v1/stores/1", None),
        ("PUT", "/v1/clients/1/quiet-hours", {"timezone": "UTC", "from": "22:00", "to": "07:00"}),
    ):
        answer = guarded.open(path, method=method, json=body, headers=as_client)
        assert answer.status_code in (200, 204), (method, path, answer.text)
    for path in ("/v1/stream?conversation_id=7", "/v1/stream?client_id=1"):
        stream = guarded.get(path, headers=as_client)
        assert stream.status_code == 200
        stream.close()


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"sender": "operator"}, 403, "sender"),
        ({"client_id": 2}, 403, "client_id"),
        ({"chat_id": 5}, 403, "chat_id"),
        ({"conversation_id": 8}, 404, "conversation_id"),
        ({"conversation_id": 4711}, 404, "conversation_id"),
        ({"operator_id": 4711}, 404, "operator_id"),
    ],
)
def test_what_a_clients_token_may_not_send(
    guarded: FlaskClient, shop: Connection, as_client: dict[str, str], change: dict[str, Any], status: int, field: str
) -> None:
    before = stand(shop)
    assert at_fault(guarded.post("/v1/chats", json=CHAT | change, headers=as_client), status) == {field}
    assert at_fault(guarded.post("/app/startChat/", json=CHAT | change, headers=as_client), status) == {field}
    results = guarded.post("/v1/chats", json=[CHAT | change, 7], headers=as_client).get_json()
    assert [result["status"] for result in results] == [status, 400]
    assert stand(shop) == before


def test_a_token_of_a_store_begins_conversations_only_within_it(guarded: FlaskClient, shop: Connection) -> None:
    key = make_key(shop, "one", store_id=1)
    mine = bearer(token(guarded, key, client_id=1))
    new = {"client_id": 1, "payload": "x"}
    assert guarded.post("/v1/chats", json=new | {"operator_id": 1}, headers=mine).status_code == 201
    there = guarded.post("/v1/chats", json=new | {"operator_id": 2}, headers=mine)
    missing = guarded.post("/v1/chats", json=new | {"operator_id": 4}, headers=mine)
    assert problem(there, 404)["detail"].replace("2", "4") == problem(missing, 404)["detail"]
    # Nor is a token for another store's parties to be had.
    for of in (
        {"client_id": 2},
        {"operator_id": 2},
        {"conversation_id": 9},
        {"conversation_id": 8, "client_id": 1, "operator_id": 2},
    ):
        assert guarded.post("/v1/tokens", json=of, headers=bearer(key)).status_code in (404, 409), of


def test_a_token_may_do_no_more_than_its_key_and_makes_no_tokens(guarded: FlaskClient, shop: Connection) -> None:
    reader = bearer(token(guarded, make_key(shop, "reader", "{read,admin}"), conversation_id=7))
    assert guarded.get("/v1/conversations/7", headers=reader).status_code == 200
    refused(guarded.post("/v1/chats", json=CHAT, headers=reader), 403)
    refused(guarded.post("/v1/tokens", json={"conversation_id": 7}, headers=reader), 403)
    refused(guarded.put("/v1/stores/1/hours", json=HOURS, headers=reader), 403)


def test_a_client_does_not_see_what_the_operator_has_waiting(guarded: FlaskClient, shop: Connection) -> None:
    enqueue(shop, 7, "a surprise Sesame", sender="operator", chat_id=71)
    client, operator = (bearer(token(guarded, conversation_id=7, **{"as": party})) for party in ("client", "operator"))
    for path in ("/v1/conversations/7", "/v1/conversations/7/chats", "/app/getConversation/7/"):
        assert "surprise" not in guarded.get(path, headers=client).text
        assert "surprise" in guarded.get(path, headers=operator).text
    refused(guarded.get("/v1/chats/71", headers=client), 404)
    refused(guarded.delete("/v1/chats/71", headers=client), 404)
    refused(guarded.delete("/v1/chats/70", headers=operator), 403)
    shop.execute("select send_chats()")
    assert "surprise" in guarded.get("/v1/conversations/7", headers=client).text


def test_a_token_for_a_conversation_that_has_not_begun_begins_it(guarded: FlaskClient, shop: Connection) -> None:
    of = {"conversation_id": 70, "client_id": 1, "operator_id": 1}
    assert at_fault(guarded.post("/v1/tokens", json={"conversation_id": 70}, headers=bearer(MASTER)), 404)
    mine, late = bearer(token(guarded, **of)), bearer(token(guarded, **(of | {"conversation_id": 71})))
    assert guarded.post("/v1/chats", json=of | {"payload": "x"}, headers=mine).status_code == 201
    # Begun by others meanwhile, it is theirs.
    enqueue(shop, 71, "sesame", client=2, operator=2)
    refused(guarded.get("/v1/conversations/71", headers=late), 404)
    refused(guarded.get("/v1/stream?conversation_id=71&from=start", headers=late), 404)
    refused(guarded.post("/v1/chats", json=of | {"conversation_id": 71, "payload": "x"}, headers=late), 409)


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "client_id"), ({"client_id": 1, "operator_id": 1}, "client_id"),
     ({"conversation_id": 7, "client_id": 1}, "operator_id"),
     ({"client_id": 0}, "client_id"), ({"client_id": 1, "ttl_seconds": 9}, "ttl_seconds"),
     ({"client_id": 1, "ttl_seconds": 86401}, "ttl_seconds"), ({"conversation_id": 7, "as": "boss"}, "as")],
)  # fmt: skip
def test_a_token_needs_a_party(guarded: FlaskClient, body: dict[str, Any], field: str) -> None:
    assert at_fault(guarded.post("/v1/tokens", json=body, headers=bearer(MASTER))) == {field}


def test_a_new_secret_signs_and_the_old_one_still_counts_unless_forgotten(
    guarded: FlaskClient, shop: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "CACHE_SECONDS", 0.0)
    key = make_key(shop, "crm")
    olds = [bearer(token(guarded, issuer, conversation_id=7)) for issuer in (key, MASTER)]
    shop.execute("select rotate_token_secret()")
    for old in olds:
        assert guarded.get("/v1/conversations/7", headers=old).status_code == 200
    new = bearer(token(guarded, key, conversation_id=7))
    shop.execute("update token_secrets set created_at = created_at - interval '2 days'")
    shop.execute("select rotate_token_secret()")
    assert shop.execute("select count(*) from token_secrets").fetchone() == (2,)
    assert guarded.get("/v1/conversations/7", headers=olds[0]).status_code == 401
    assert guarded.get("/v1/conversations/7", headers=new).status_code == 200
    shop.execute("select rotate_token_secret(forget => true)")
    assert guarded.get("/v1/conversations/7", headers=new).status_code == 401
