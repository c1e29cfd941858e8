"""Rate limits, cross-origin requests, and slow clients."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import socket
import threading
import time
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.gate import limits
from api.gate.keys import KeyRing
from sql.database import make_engine
from tests.support.api import MakeClient, bearer, problem, token
from tests.support.db import Connection, enqueue, make_key, post_and_send
from tests.support.processes import Start, eventually
from tests.support.web import IMPATIENT_APP, Reader, Web

CHAT = {"conversation_id": 7, "client_id": 1, "operator_id": 1, "payload": "x"}


def statuses(client: FlaskClient, count: int, **how: Any) -> list[int]:
    return [client.get("/app/", **how).status_code for _ in range(count)]


def test_a_key_gets_so_many_requests_a_minute(database: str, make_client: MakeClient) -> None:
    client = make_client(database, api_keys=("one", "two"), key_per_minute=3)
    assert statuses(client, 4, headers=bearer("one")) == [200, 200, 200, 429]
    answer = client.get("/app/", headers=bearer("one"))
    problem(answer, 429)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert statuses(client, 1, headers=bearer("two")) == [200]


def test_a_party_gets_so_many_with_all_its_tokens_and_each_chat_of_a_list_counts(
    shop: Connection, database: str, make_client: MakeClient
) -> None:
    client = make_client(database, api_keys=("one",), token_per_minute=5)
    first, second = (token(client, "one", client_id=1) for _ in range(2))
    assert statuses(client, 1, headers=bearer(first)) + statuses(client, 1, headers=bearer(second)) == [200, 200]
    new = {"client_id": 1, "operator_id": 1, "payload": "x"}
    assert client.post("/v1/chats", json=[new] * 3, headers=bearer(first)).status_code == 200
    assert statuses(client, 1, headers=bearer(second)) == [429]
    assert statuses(client, 1, headers=bearer(token(client, "one", client_id=2))) == [200]


def test_an_address_gets_so_many_without_a_credential(database: str, make_client: MakeClient) -> None:
    client = make_client(database, api_keys=("one",), address_per_minute=2)

    def of(address: str, **how: Any) -> list[int]:
        return statuses(client, 3, environ_overrides={"REMOTE_ADDR": address}, **how)

    assert of("203.0.113.7") == [401, 401, 429]
    assert of("203.0.113.7", headers=bearer("one")) == [200, 200, 200]
    assert of("203.0.113.8", headers={"X-Forwarded-For": "198.51.100.1"}) == [401, 401, 429]
    assert of("127.0.0.1") == of("") == [401, 401, 401]
    assert of("2001:db8::1") == [401, 401, 429]
    assert of("2001:db8::2") == [429, 429, 429]
    assert client.get("/desk", environ_overrides={"REMOTE_ADDR": "203.0.113.7"}).status_code == 429
    assert client.get("/healthz", environ_overrides={"REMOTE_ADDR": "203.0.113.7"}).status_code == 200


def test_behind_a_proxy_the_address_is_the_one_that_it_saw(database: str, make_client: MakeClient) -> None:
    client = make_client(database, api_keys=("one",), address_per_minute=2, proxies=1)
    for invented in ("198.51.100.1", "198.51.100.2", "198.51.100.3"):
        status = statuses(client, 1, headers={"X-Forwarded-For": f"{invented}, 203.0.113.7"})
    assert status == [429]
    assert statuses(client, 1, headers={"X-Forwarded-For": "203.0.113.8"}) == [401]


def test_many_addresses_do_not_fill_the_memory(
    database: str, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_COUNTED", 10)
    client = make_client(database, api_keys=("one",))
    for number in range(100):
        client.get("/v1/queue", environ_overrides={"REMOTE_ADDR": f"203.0.113.{number}"})
    assert len(client.application.extensions["shoptalk"].rates._storage.storage) <= 11


def test_nothing_is_counted_while_there_are_no_keys(database: str, make_client: MakeClient) -> None:
    client = make_client(database, key_per_minute=1, token_per_minute=1, address_per_minute=1)
    assert statuses(client, 3) == [200, 200, 200]


# Backpressure ----------------------------------------------------------------------------------------


def post(client: FlaskClient) -> int:
    return client.post("/v1/chats", json=CHAT).status_code


def test_chats_are_refused_while_too_many_wait(
    shop: Connection, database: str, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_SECONDS", 0.0)
    client = make_client(database, most_waiting=5)
    assert post(client) == 201
    for _ in range(10):
        enqueue(shop)
    shop.execute("select pg_stat_force_next_flush()")
    eventually(lambda: post(client) == 429)
    answer = client.post("/app/startChat/", json=CHAT)
    assert "wait to be sent" in problem(answer, 429)["detail"]
    assert int(answer.headers["Retry-After"]) > 0
    assert client.get("/v1/conversations/7").status_code == 200
    shop.execute("select send_chats()")
    shop.execute("select pg_stat_force_next_flush()")
    eventually(lambda: post(client) == 201)


def test_chats_are_refused_while_the_oldest_waits_too_long(
    shop: Connection, database: str, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_SECONDS", 0.0)
    client = make_client(database, oldest_queued_seconds=60)
    shop.execute("select set_config('shoptalk.now', (now() - interval '2 min')::text, false)")
    enqueue(shop)
    assert post(client) == 429
    shop.execute("reset shoptalk.now")
    shop.execute("select send_chats()")
    assert post(client) == 201  # past what was sent it is found too
    shop.execute("select set_config('shoptalk.now', (now() - interval '90 s')::text, false)")
    enqueue(shop, 8)
    assert post(client) == 429
    # What waits for its store to open, or for its next attempt, is not late.
    shop.execute("reset shoptalk.now")
    shop.execute("update chat_queue set due_at = now() + interval '1 h'")
    assert post(client) == 201


def test_without_the_settings_the_queue_is_not_looked_at(
    client: FlaskClient, shop: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.Pressure, "_look", lambda self: pytest.fail("looked"))
    assert post(client) == 201


# Browsers --------------------------------------------------------------------------------------------

SHOP, OTHER = "https://shop.example", "https://shop.example.evil"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def test_only_pages_on_the_list_may_call(database: str, make_client: MakeClient) -> None:
    client = make_client(database, api_keys=("one",), cors_origins=frozenset({SHOP}))
    preflight = client.options("/v1/chats", headers=ASK | {"Origin": SHOP})
    assert (preflight.status_code, preflight.data) == (204, b"")
    assert preflight.headers["Access-Control-Allow-Origin"] == SHOP
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    for headers in ({"Origin": SHOP}, {"Origin": SHOP} | bearer("one")):
        answer = client.get("/v1/queue", headers=headers)
        assert answer.headers["Access-Control-Allow-Origin"] == SHOP
        assert "Origin" in answer.headers["Vary"]
    for origin in (OTHER, "null", SHOP + ":444", "http://shop.example"):
        for answer in (
            client.options("/v1/chats", headers=ASK | {"Origin": origin}),
            client.get("/v1/queue", headers={"Origin": origin} | bearer("one")),
        ):
            assert "Access-Control-Allow-Origin" not in answer.headers
    assert client.options("/v1/chats", headers=ASK | {"Origin": OTHER}).status_code == 401
    assert client.options("/v1/chats", headers={"Origin": SHOP}).status_code == 401


def test_while_it_is_open_no_page_of_another_site_changes_anything(shop: Connection, client: FlaskClient) -> None:
    form = {"data": CHAT, "headers": {"Sec-Fetch-Site": "cross-site", "Origin": OTHER}}
    problem(client.post("/app/startChat/", **form), 403)  # type: ignore[arg-type]
    assert shop.execute("select count(*) from chats").fetchone() == (0,)
    assert client.get("/v1/queue", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    assert client.post("/v1/chats", json=CHAT, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 201


def test_while_it_is_open_no_other_name_is_answered(shop: Connection, client: FlaskClient) -> None:
    """A page whose name is made to lead here is of this site, to the browser."""
    for host, status in (
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("shop.localhost", 200),
        ("evil.example:8000", 403), ("127.0.0.1.evil.example", 403), ("10.0.0.1", 403), ("[", 403),
    ):  # fmt: skip
        as_browsers_do = {"Host": host, "Accept-Language": "en"}
        assert client.get("/v1/queue", headers=as_browsers_do).status_code == status, host
        assert client.get("/v1/queue", headers={"Host": host}).status_code == 200, host
    shop.execute("select make_key('first')")


def test_answers_are_not_cached(shop: Connection, client: FlaskClient) -> None:
    for path in ("/v1/queue", "/v1/stores/1", "/nowhere"):
        assert client.get(path).headers["Cache-Control"] == "no-store"
        assert client.get(path).headers["X-Content-Type-Options"] == "nosniff"


# On real gunicorn ------------------------------------------------------------------------------------


@pytest.fixture
def impatient(start: Start, database: str, shop: Connection) -> Web:
    shop.execute("select make_key('first')")
    return Web(start, database, app=IMPATIENT_APP)


def call(web: Web, key: str, path: str, body: object) -> Any:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)) as connection:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"} | bearer(key))
        return json.load(connection.getresponse())


def test_a_body_that_drips_is_cut_off(impatient: Web, shop: Connection) -> None:
    key = make_key(shop, "shop")
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=30) as connection:
        head = (
            f"POST /v1/chats HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        )
        connection.sendall(f"{head}Content-Length: 100000\r\n\r\n".encode())
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.1):
                connection.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert b" 408 " in connection.recv(4096).split(b"\r\n")[0]
        finally:
            ended.set()
            thread.join()


def test_streams_end_with_their_key(impatient: Web, shop: Connection, database: str) -> None:
    key = make_key(shop, "shop")
    made = call(impatient, key, "/v1/tokens", {"client_id": 1})["token"]
    readers = [
        Reader(impatient.port, query, credential=credential).begin()
        for query, credential in (("conversation_id=7", key), ("client_id=1", made))
    ]
    shop.execute("select revoke_key('shop')")
    for reader in readers:
        assert list(reader.events()) == []
        reader.close()


def test_who_has_expired_is_let_in_no_more(shop: Connection, database: str) -> None:
    """What a stream asks after each heartbeat."""
    engine = make_engine(database, "test")
    ring = KeyRing(engine, ("key",))
    holder = ring.caller("key")
    assert holder is not None
    assert ring.is_valid(holder)
    assert not ring.is_valid(dataclasses.replace(holder, expires_at=time.time() - 1))
    engine.dispose()


def test_a_stream_shows_only_what_is_within_reach(impatient: Web, shop: Connection) -> None:
    shop.execute("update store_hours set opens = '00:00', closes = '00:00'")  # or there is nothing to leave out
    mine = make_key(shop, "mine", store_id=1)
    post_and_send(shop, 7, "before")
    post_and_send(shop, 8, "before, elsewhere", operator=2)
    reader = Reader(impatient.port, "client_id=1&from=start", credential=mine)
    assert reader.chats(1)[0]["payload"] == "before"
    post_and_send(shop, 8, "elsewhere", operator=2)
    post_and_send(shop, 7, "here")
    assert reader.chats(1)[0]["payload"] == "here"
    reader.close()
    assert shop.execute("select count(*) from sent_log").fetchone() == (4,)


def test_a_clients_stream_does_not_tell_what_its_operator_has_waiting(impatient: Web, shop: Connection) -> None:
    key = make_key(shop, "shop")

    shop.execute("delete from store_hours")  # for ever closed: what is sent now is held
    post_and_send(shop, 7, "hello")
    readers = {
        party: Reader(impatient.port, "conversation_id=7", credential=made["token"])
        for party in ("client", "operator")
        if (made := call(impatient, key, "/v1/tokens", {"conversation_id": 7, "as": party}))
    }
    for reader in readers.values():
        reader.begin()
    call(impatient, key, "/v1/chats", CHAT | {"sender": "operator", "payload": "a surprise"})
    assert "a surprise" in next(readers["operator"].events("change"))["data"]
    call(impatient, key, "/v1/chats", CHAT | {"payload": "my own"})
    assert "my own" in next(readers["client"].events("change"))["data"]
    for reader in readers.values():
        reader.close()
