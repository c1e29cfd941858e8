"""Webhooks: a real relay process against a receiver that verifies with the specification's reference library."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpcore
import psycopg
import pytest
from flask.testing import FlaskClient

from relay.guard import GuardedNetwork, is_public
from relay.webhook import retry_after_seconds
from tests.support.db import Connection, enqueue
from tests.support.processes import ROOT, Start, eventually
from tests.support.relay import SECRET, Receiver, check, put_webhook, read_channel, send_all, start_relay, status


def test_each_chat_of_the_store_is_posted_signed_and_in_order(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    start_relay(start, database)
    shop.execute("set shoptalk.now = '2026-03-02 10:00+00'")  # store 2 is open
    send_all(shop, 3, store=2)
    shop.execute("reset shoptalk.now")
    conversations = send_all(shop, 40, 5)
    eventually(lambda: len(receiver.got) >= 200)
    receiver.check(conversations)
    assert len(receiver.got) == 200
    assert receiver.headers[0]["webhook-id"].isdigit()
    eventually(lambda: read_channel(client)["behind"] == 0 and read_channel(client)["state"] == "active")
    attempts = client.get("/v1/stores/1/channels/crm/attempts").get_json()["attempts"]
    assert {(a["status"], a["error"]) for a in attempts} == {(200, None)}


def test_the_secret_is_made_shown_once_and_changed_without_a_gap(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    made = put_webhook(client, receiver, secret=None)["secret"]
    assert made.startswith("whsec_")
    assert made.removeprefix("whsec_") not in client.get("/v1/stores/1/channels/crm").text
    assert "secret" not in put_webhook(client, receiver, secret=None)
    assert "secret" not in put_webhook(client, receiver, secret=SECRET)
    start_relay(start, database)
    send_all(shop, 1)
    eventually(lambda: len(receiver.got) == 1)  # verified with the new secret
    receiver.secret = made  # for a day the old one signs as well
    send_all(shop, 1)
    eventually(lambda: len(receiver.got) == 2)


def hang(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)  # until the relay gives up
    handler.close_connection = True


def too_long(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(10 * 2**20))
    handler.end_headers()
    sent = 0
    try:
        while sent < 10 * 2**20:
            sent += handler.wfile.write(b"x" * 65536)
    except OSError:
        pass
    handler.server.sent = sent  # type: ignore[attr-defined]
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(500), "answered 500"),
        (status(302, Location="/elsewhere"), "answered 302"),
        (status(404), "answered 404"),
        (hang, "no answer within 2 s"),
    ],
)
def test_any_answer_but_2xx_is_retried_with_the_same_id(
    answer: Any, error: str,
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver,
) -> None:  # fmt: skip
    put_webhook(client, receiver, timeout_seconds=2 if answer is hang else 20)
    receiver.answers = [answer, answer]
    start_relay(start, database)
    conversations = send_all(shop, 2)
    eventually(lambda: len(receiver.got) == 2)
    receiver.check(conversations)
    assert len({headers["webhook-id"] for headers in receiver.headers[:3]}) == 1
    eventually(lambda: read_channel(client)["consecutive_failures"] == 0)
    assert read_channel(client)["last_error"] == error
    attempts = client.get("/v1/stores/1/channels/crm/attempts").get_json()["attempts"]
    assert [a["error"] for a in attempts] == [None, None, error, error]


def test_retry_after_is_honoured(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver, retry_seconds=[0.01])  # a receiver that sends Retry-After is not given up
    receiver.answers = [status(429, Retry_After="1"), status(503, Retry_After="0")]
    start_relay(start, database)
    send_all(shop, 1)
    eventually(lambda: len(receiver.got) == 1)
    first, second, third = receiver.times
    assert second - first >= 0.9
    assert third - second >= 0.9
    assert retry_after_seconds("Fri, 01 Jan 2100 00:00:00 GMT") == 86400
    assert [retry_after_seconds(text) for text in ("-1", "soon", "", "²")] == [None] * 4
    assert retry_after_seconds("Mon, 01 Jan 99999999999 00:00:00 GMT") is None
    assert retry_after_seconds("0") == 1


def test_a_chat_is_refused_only_for_its_own_refusals(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    receiver.answers = [status(502), status(502), status(400)]
    start_relay(start, database)
    send_all(shop, 1)
    eventually(lambda: len(receiver.got) == 1)
    eventually(lambda: read_channel(client)["behind"] == 0)
    assert read_channel(client)["dead_letters"] == 0


def test_a_changed_url_holds_from_the_next_batch_on(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    wrong = Receiver()
    changed = threading.Event()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        changed.wait(20)
        status(200)(handler)

    wrong.answers = [slowly]
    put_webhook(client, wrong)
    start_relay(start, database)
    conversations = send_all(shop, 300)
    eventually(lambda: len(wrong.times) == 1)
    put_webhook(client, receiver)
    changed.set()
    eventually(lambda: read_channel(client)["behind"] == 0)
    assert len(wrong.times) <= 200
    check([{"conversation_id": 100, "seq": 1}, *wrong.got, *receiver.got], conversations)
    assert receiver.got
    wrong.close()


def test_410_disables_and_resume_continues_where_it_was(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    receiver.answers = [status(410)]
    start_relay(start, database)
    conversations = send_all(shop, 3)
    eventually(lambda: read_channel(client)["state"] == "disabled")
    assert not receiver.got
    assert client.post("/v1/stores/1/channels/crm/resume").status_code == 200
    eventually(lambda: len(receiver.got) == 3)
    receiver.check(conversations)


def test_a_receiver_that_fails_for_the_whole_schedule_is_disabled_and_nothing_is_lost(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver, retry_seconds=[0.01, 0.01])
    receiver.answers = [status(500)] * 3
    start_relay(start, database)
    send_all(shop, 1)
    eventually(lambda: read_channel(client)["state"] == "disabled")
    assert len(receiver.times) == 3
    put_webhook(client, receiver)  # a change ends the wait
    eventually(lambda: len(receiver.got) == 1)


def test_a_body_of_ten_megabytes_is_not_read(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    receiver.answers = [too_long]
    start_relay(start, database)
    send_all(shop, 2)
    eventually(lambda: len(receiver.got) == 1)  # the first chat counts as delivered, and the second one followed
    eventually(lambda: hasattr(receiver.server, "sent"))
    assert receiver.server.sent < 8 * 2**20


def test_a_refused_chat_becomes_a_dead_letter_and_the_rest_goes_on(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    ids = [enqueue(shop, 7, "hi").chat_id for _ in range(4)]
    receiver.refuses = {ids[1]}
    start_relay(start, database)
    shop.execute("select send_chats()")
    eventually(lambda: len(receiver.got) == 3)
    assert [chat["chat_id"] for chat in receiver.got] == [ids[0], ids[2], ids[3]]
    assert sum(h["webhook-id"] == str(ids[1]) for h in receiver.headers) == 3
    eventually(lambda: read_channel(client)["dead_letters"] == 1)
    (failure,) = client.get("/v1/stores/1/channels/crm/dead-letters").get_json()["dead_letters"]
    assert (failure["chat_id"], failure["reason"]) == (ids[1], "answered 422")
    receiver.refuses = set()
    assert client.post(f"/v1/stores/1/channels/crm/dead-letters/{ids[1]}/requeue").status_code == 200
    eventually(lambda: len(receiver.got) == 4)
    assert receiver.got[-1]["chat_id"] == ids[1]
    eventually(lambda: read_channel(client)["dead_letters"] == 0)
    assert client.delete(f"/v1/stores/1/channels/crm/dead-letters/{ids[1]}").status_code == 404


def test_pause_skip_and_replay(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    client.put("/v1/stores/1/channels/other", json={"kind": "webhook", "url": receiver.url})
    client.post("/v1/stores/1/channels/crm/pause")
    assert client.get("/v1/stores/1/channels/other").get_json()["state"] == "active"
    client.delete("/v1/stores/1/channels/other")
    start_relay(start, database)
    conversations = send_all(shop, 3)
    first = shop.execute("select chat_id from sent_log where position = 1").fetchone()[0]  # type: ignore[index]
    assert read_channel(client)["state"] == "paused"
    assert client.delete(f"/v1/stores/1/channels/crm/dead-letters/{first + 1}").status_code == 404
    assert client.delete(f"/v1/stores/1/channels/crm/dead-letters/{first}").status_code == 200
    client.post("/v1/stores/1/channels/crm/resume")
    eventually(lambda: len(receiver.got) == 2)
    assert [chat["seq"] for chat in receiver.got] == [2, 3]
    client.post("/v1/stores/1/channels/crm/replay", json={"cursor": 0})
    eventually(lambda: len(receiver.got) == 5)
    receiver.got = receiver.got[2:]
    receiver.check(conversations)
    client.delete("/v1/stores/1/channels/crm")
    send_all(shop, 1)
    assert client.get("/v1/stores/1/channels/crm").status_code == 404


def test_private_addresses_are_refused_where_they_are_not_allowed(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver, url=receiver.url.replace("127.0.0.1", "localhost"), retry_seconds=[60])
    start("relay", DATABASE_URL=database).expect("started")
    send_all(shop, 1)
    eventually(lambda: read_channel(client)["state"] == "failing")
    assert "not a public address" in read_channel(client)["last_error"]
    assert not receiver.times


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1",
                                     "fc00::1", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0"])  # fmt: skip
def test_private_and_translated_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert is_public(ipaddress.ip_address("8.8.8.8"))


def test_a_name_server_that_does_not_answer_occupies_one_thread_however_many_look_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    answer = threading.Event()

    def getaddrinfo(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        answer.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    async def connect(network: GuardedNetwork, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                await network.connect_tcp("slow.example", 1)
        except (TimeoutError, httpcore.ConnectError) as error:
            return str(error)
        return "connected"

    async def several() -> None:
        network = GuardedNetwork(allow_private=False)
        assert await asyncio.gather(*(connect(network, 0.01) for _ in range(8))) == [""] * 8
        assert asked == ["slow.example"]
        answer.set()
        assert await connect(network, 60) == "slow.example is 127.0.0.1, which is not a public address"

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    asyncio.run(several())


def test_an_older_token_moves_nothing(shop: Connection) -> None:
    shop.execute("insert into channels (store_id, name, kind, cursor) values (1, 'x', 'webhook', 0)")
    token = shop.execute("select token from lease_channel(1, 'a', 6)").fetchone()[0]  # type: ignore[index]
    assert shop.execute("select token from lease_channel(1, 'b', 6)").fetchone() is None
    shop.execute("update channels set lease_until = shoptalk_now()")  # the first relay was stopped for too long
    newer = shop.execute("select token from lease_channel(1, 'b', 6)").fetchone()[0]  # type: ignore[index]
    settle = "select settle_batch(1, %s, 5, 0, '{}', '[]', '[]')"
    assert shop.execute(settle, [token]).fetchone() == (False,)
    assert shop.execute("select cursor from channels").fetchone() == (0,)
    assert shop.execute(settle, [newer]).fetchone() == (True,)
    assert shop.execute("select renew_lease(1, %s, 6)", [token]).fetchone() == (False,)
    shop.execute("update channels set lease_until = 'infinity'")  # the clock has stepped back since
    assert shop.execute("select token from lease_channel(1, 'c', 6)").fetchone() is not None


def test_a_dead_receiver_delays_no_other(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    dead = {"kind": "webhook", "url": "http://127.0.0.1:9/", "retry_seconds": [3600]}
    client.put("/v1/stores/1/channels/dead", json=dead)
    start_relay(start, database)
    send_all(shop, 5)
    eventually(lambda: len(receiver.got) == 5)
    eventually(lambda: client.get("/v1/stores/1/channels/dead").get_json()["state"] == "failing")


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", "amqp"), ("url", "ftp://x/"), ("url", "http://a:b@x/"), ("url", "http://[::1/"), ("url", "http://ü/"),
     ("secret", "whsec_abc"), ("secret", ""), ("retry_seconds", []), ("timeout_seconds", 0),
      ("from", "middle"), ("url", 7)],
)  # fmt: skip
def test_bad_settings_name_the_field(shop: Connection, client: FlaskClient, field: str, value: Any) -> None:
    body = {"kind": "webhook", "url": "https://example.org/", field: value}
    answer = client.put("/v1/stores/1/channels/crm", json=body)
    assert answer.status_code == 400
    assert answer.get_json(force=True)["errors"][0]["field"] == field
    assert client.put("/v1/stores/99/channels/crm", json={**body, field: None}).status_code in (400, 404)


def test_without_channels_nothing_is_loaded_and_the_relay_idles(database: str) -> None:
    code = (
        "import asyncio, os, sys\nfrom relay.__main__ import run\nfrom sql.settings import Settings\n"
        "async def main():\n    asyncio.get_running_loop().call_later(1, os.kill, os.getpid(), 15)\n"
        "    await run(Settings.from_environment())\nasyncio.run(main())\n"
        "print('loaded', sorted({'httpcore', 'aio_pika', 'pika', 'slixmpp', 'standardwebhooks'} & set(sys.modules)))"
    )
    env = {"DATABASE_URL": database, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "loaded []", done.stderr


def test_attempts_are_pruned_to_the_newest_thousand(shop: psycopg.Connection[Any]) -> None:
    shop.execute("insert into channels (store_id, name, kind, cursor) values (1, 'x', 'webhook', 0)")
    shop.execute(
        "insert into channel_attempts (channel_id, chat_id, attempted_at, took_seconds)"
        " select 1, g, now(), 0 from generate_series(1, 1500) g"
    )
    shop.execute("select prune_channels()")
    assert shop.execute("select count(*), min(chat_id) from channel_attempts").fetchone() == (1000, 501)


def test_the_json_of_a_webhook_is_that_of_the_api(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    start_relay(start, database)
    send_all(shop, 1)
    eventually(lambda: len(receiver.got) == 1)
    assert receiver.got[0] == json.loads(client.get(f"/v1/chats/{receiver.got[0]['chat_id']}").data)
