"""Webhooks: a real relay process against a receiver that verifies with the specification's reference library."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import psycopg
import pytest
from flask.testing import FlaskClient
from standardwebhooks import Webhook

from relay.guard import GuardedNetwork, is_public
from relay.webhook import retry_after_seconds
from tests.conftest import ROOT, Connection, Process, eventually
from tests.proxy import Proxy
from tests.test_enqueue import enqueue

Start = Callable[..., Process]
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Receiver:
    """A web server that keeps what it is sent, and answers as it is told: `answers` first, then `otherwise`."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.secret = SECRET
        self.answers: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.otherwise = status(200)
        self.refuses: set[int] = set()
        self.lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                body = Webhook(receiver.secret).verify(data, dict(self.headers))
                with receiver.lock:
                    receiver.times.append(time.monotonic())
                    receiver.headers.append({k.lower(): v for k, v in self.headers.items()})
                    answer = receiver.answers.pop(0) if receiver.answers else None
                    if body["data"]["chat_id"] in receiver.refuses:
                        answer = status(422)
                    if answer is None:
                        receiver.got.append(body["data"])
                (answer or receiver.otherwise)(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def check(self, conversations: dict[int, int]) -> None:
        check(self.got, conversations)


def check(got: list[dict[str, Any]], conversations: dict[int, int]) -> None:
    """Each conversation's chats are all there, and in order: a repeat only repeats what was there."""
    order: dict[int, list[int]] = defaultdict(list)
    for chat in got:
        if chat["seq"] > max(order[chat["conversation_id"]], default=0):
            order[chat["conversation_id"]].append(chat["seq"])
    assert order == {c: list(range(1, last + 1)) for c, last in conversations.items()}


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def put(client: FlaskClient, receiver: Receiver, **others: Any) -> dict[str, Any]:
    body = {"kind": "webhook", "url": receiver.url, "secret": SECRET, "retry_seconds": [0.05] * 9} | others
    answer = client.put("/v1/stores/1/channels/crm", json=body)
    assert answer.status_code in (200, 201), answer.get_json(force=True)
    return dict(answer.get_json())


def relay(start: Start, database: str, **env: str) -> Process:
    process = start("relay", DATABASE_URL=database, SHOPTALK_WEBHOOK_ALLOW_PRIVATE="1", **env)
    process.expect("started")
    return process


def send(db: Connection, chats: int, conversations: int = 1, store: int = 1) -> dict[int, int]:
    """So many chats a conversation; answers the last seq of each."""
    for number in range(conversations):
        for _ in range(chats):
            enqueue(db, 100 * store + number, "hi", client=store, operator=store)
    while db.execute("select sent from send_chats(20)").fetchone()[0]:  # type: ignore[index]
        pass
    rows = db.execute("select conversation_id, last_seq from conversations where store_id = %s", [store])
    return {int(conversation): int(last) for conversation, last in rows}


def channel(client: FlaskClient) -> dict[str, Any]:
    return dict(client.get("/v1/stores/1/channels/crm").get_json())


def test_each_chat_of_the_store_is_posted_signed_and_in_order(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    relay(start, database)
    shop.execute("set shoptalk.now = '2026-03-02 10:00+00'")  # store 2 is open
    send(shop, 3, store=2)
    shop.execute("reset shoptalk.now")
    conversations = send(shop, 40, 5)
    eventually(lambda: len(receiver.got) >= 200)
    receiver.check(conversations)
    assert len(receiver.got) == 200
    assert receiver.headers[0]["webhook-id"].isdigit()
    eventually(lambda: channel(client)["behind"] == 0 and channel(client)["state"] == "active")
    attempts = client.get("/v1/stores/1/channels/crm/attempts").get_json()["attempts"]
    assert {(a["status"], a["error"]) for a in attempts} == {(200, None)}


def test_the_secret_is_made_shown_once_and_changed_without_a_gap(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    made = put(client, receiver, secret=None)["secret"]
    assert made.startswith("whsec_")
    assert made.removeprefix("whsec_") not in client.get("/v1/stores/1/channels/crm").text
    assert "secret" not in put(client, receiver, secret=None)
    assert "secret" not in put(client, receiver, secret=SECRET)
    relay(start, database)
    send(shop, 1)
    eventually(lambda: len(receiver.got) == 1)  # verified with the new one
    receiver.secret = made  # and with the old one for a while
    send(shop, 1)
    eventually(lambda: len(receiver.got) == 2)


def hang(handler: BaseHTTPRequestHandler) -> None:
    handler.rfile.read(1)  # until the other side gives up
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
def test_any_answer_but_2xx_is_tried_again_with_the_same_id(
    answer: Any, error: str,
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver,
) -> None:  # fmt: skip
    put(client, receiver, timeout_seconds=2 if answer is hang else 20)
    receiver.answers = [answer, answer]
    relay(start, database)
    conversations = send(shop, 2)
    eventually(lambda: len(receiver.got) == 2)
    receiver.check(conversations)
    assert len({headers["webhook-id"] for headers in receiver.headers[:3]}) == 1
    eventually(lambda: channel(client)["attempts"] == 0)
    assert channel(client)["last_error"] == error
    attempts = client.get("/v1/stores/1/channels/crm/attempts").get_json()["attempts"]
    assert [a["error"] for a in attempts] == [None, None, error, error]


def test_retry_after_is_honoured(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver, retry_seconds=[0.01])  # who says when to come again is not given up
    receiver.answers = [status(429, Retry_After="1"), status(503, Retry_After="0")]
    relay(start, database)
    send(shop, 1)
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
    put(client, receiver)
    receiver.answers = [status(502), status(502), status(400)]
    relay(start, database)
    send(shop, 1)
    eventually(lambda: len(receiver.got) == 1)
    eventually(lambda: channel(client)["behind"] == 0)
    assert channel(client)["failures"] == 0


def test_a_changed_url_holds_from_the_next_batch_on(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    wrong = Receiver()
    changed = threading.Event()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        changed.wait(20)
        status(200)(handler)

    wrong.answers = [slowly]
    put(client, wrong)
    relay(start, database)
    conversations = send(shop, 300)
    eventually(lambda: len(wrong.times) == 1)
    put(client, receiver)
    changed.set()
    eventually(lambda: channel(client)["behind"] == 0)
    assert len(wrong.times) <= 200
    check([{"conversation_id": 100, "seq": 1}, *wrong.got, *receiver.got], conversations)
    assert receiver.got
    wrong.close()


def test_410_disables_and_resume_goes_on_where_it_was(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    receiver.answers = [status(410)]
    relay(start, database)
    conversations = send(shop, 3)
    eventually(lambda: channel(client)["state"] == "disabled")
    assert not receiver.got
    assert client.post("/v1/stores/1/channels/crm/resume").status_code == 200
    eventually(lambda: len(receiver.got) == 3)
    receiver.check(conversations)


def test_a_receiver_that_fails_for_the_whole_schedule_is_disabled_and_nothing_is_lost(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver, retry_seconds=[0.01, 0.01])
    receiver.answers = [status(500)] * 3
    relay(start, database)
    send(shop, 1)
    eventually(lambda: channel(client)["state"] == "disabled")
    assert len(receiver.times) == 3
    put(client, receiver)  # changing it lets it try at once
    eventually(lambda: len(receiver.got) == 1)


def test_ten_megabytes_back_are_not_read(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    receiver.answers = [too_long]
    relay(start, database)
    send(shop, 2)
    eventually(lambda: len(receiver.got) == 1)  # it was delivered all the same, and the next one came
    eventually(lambda: hasattr(receiver.server, "sent"))
    assert receiver.server.sent < 8 * 2**20


def test_a_refused_chat_becomes_a_dead_letter_and_the_rest_goes_on(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    ids = [enqueue(shop, 7, "hi").chat_id for _ in range(4)]
    receiver.refuses = {ids[1]}
    relay(start, database)
    shop.execute("select send_chats()")
    eventually(lambda: len(receiver.got) == 3)
    assert [chat["chat_id"] for chat in receiver.got] == [ids[0], ids[2], ids[3]]
    assert sum(h["webhook-id"] == str(ids[1]) for h in receiver.headers) == 3
    eventually(lambda: channel(client)["failures"] == 1)
    (failure,) = client.get("/v1/stores/1/channels/crm/failures").get_json()["failures"]
    assert (failure["chat_id"], failure["reason"]) == (ids[1], "answered 422")
    receiver.refuses = set()
    assert client.post(f"/v1/stores/1/channels/crm/failures/{ids[1]}/requeue").status_code == 200
    eventually(lambda: len(receiver.got) == 4)
    assert receiver.got[-1]["chat_id"] == ids[1]
    eventually(lambda: channel(client)["failures"] == 0)
    assert client.delete(f"/v1/stores/1/channels/crm/failures/{ids[1]}").status_code == 404


def test_pause_skip_and_replay(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    client.put("/v1/stores/1/channels/other", json={"kind": "webhook", "url": receiver.url})
    client.post("/v1/stores/1/channels/crm/pause")
    assert client.get("/v1/stores/1/channels/other").get_json()["state"] == "active"
    client.delete("/v1/stores/1/channels/other")
    relay(start, database)
    conversations = send(shop, 3)
    first = shop.execute("select chat_id from sent_log where position = 1").fetchone()[0]  # type: ignore[index]
    assert channel(client)["state"] == "paused"
    assert client.delete(f"/v1/stores/1/channels/crm/failures/{first + 1}").status_code == 404
    assert client.delete(f"/v1/stores/1/channels/crm/failures/{first}").status_code == 200
    client.post("/v1/stores/1/channels/crm/resume")
    eventually(lambda: len(receiver.got) == 2)
    assert [chat["seq"] for chat in receiver.got] == [2, 3]
    client.post("/v1/stores/1/channels/crm/replay", json={"cursor": 0})
    eventually(lambda: len(receiver.got) == 5)
    receiver.got = receiver.got[2:]
    receiver.check(conversations)
    client.delete("/v1/stores/1/channels/crm")
    send(shop, 1)
    assert client.get("/v1/stores/1/channels/crm").status_code == 404


def test_private_addresses_are_refused_where_they_are_not_allowed(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver, url=receiver.url.replace("127.0.0.1", "localhost"), retry_seconds=[60])
    start("relay", DATABASE_URL=database).expect("started")
    send(shop, 1)
    eventually(lambda: channel(client)["state"] == "failing")
    assert "not a public address" in channel(client)["last_error"]
    assert not receiver.times


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1",
                                     "fc00::1", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0"])  # fmt: skip
def test_what_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert is_public(ipaddress.ip_address("8.8.8.8"))


def test_a_name_server_that_does_not_answer_takes_one_thread_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_relay_that_is_told_to_end_begins_no_more_and_repeats_nothing(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    def take_your_time(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.5)  # 100 of them, eight at once, take twice as long as an ending relay has
        status(200)(handler)

    receiver.otherwise = take_your_time
    put(client, receiver)
    conversations = send(shop, 1, 100)
    process = relay(start, database)
    eventually(lambda: len(receiver.got) >= 16)
    assert process.end() == 0
    assert len(receiver.got) < 100
    receiver.otherwise = status(200)
    relay(start, database)
    eventually(lambda: len(receiver.got) >= 100)
    receiver.check(conversations)
    eventually(lambda: channel(client)["behind"] == 0)
    assert len(receiver.got) == 100


def test_leases_are_renewed_however_long_reads_of_the_log_take(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    for number in range(4):  # as many as the relay has threads for its reads
        body = {"kind": "webhook", "url": receiver.url, "secret": SECRET}
        assert client.put(f"/v1/stores/1/channels/c{number}", json=body).status_code == 201
    send(shop, 1)
    shop.execute(
        """create sequence gate;
           create function wait_at_gate() returns boolean language plpgsql as $$ begin
             while (select is_called from gate) loop perform pg_sleep(0.05); end loop; return true; end $$;
           select nextval('gate');
           alter table conversations rename to gated;
           create view conversations as select * from gated where wait_at_gate()"""
    )
    relay(start, database)

    def reads() -> list[tuple[object, ...]]:
        reading = "select pid, xact_start from pg_stat_activity where application_name = 'shoptalk relay'"
        return shop.execute(f"{reading} and state = 'active' and query ~ 'entries as' order by pid").fetchall()

    def leases() -> set[object]:
        return {until for (until,) in shop.execute("select lease_until from channels")}

    eventually(lambda: len(reads()) == 4)
    waiting = reads()
    for _ in range(2):
        before = leases()
        eventually(lambda: not leases() & before)  # noqa: B023
    assert reads() == waiting
    shop.execute("select setval('gate', 1, false)")
    eventually(lambda: len(receiver.got) == 4)


def test_two_relays_one_killed_and_one_that_overslept_lose_nothing_and_keep_order(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    relays = [relay(start, database), relay(start, database)]
    for turn in range(2):
        conversations = send(shop, 30, 20)
        eventually(lambda turn=turn: len(receiver.got) > 600 * turn + 100)  # type: ignore[misc]
        pid = shop.execute("select leased_by from channels").fetchone()[0]  # type: ignore[index]
        owner = next((r for r in relays if pid and pid.endswith(f":{r.popen.pid}")), relays[turn])
        owner.popen.send_signal(signal.SIGKILL if turn == 0 else signal.SIGSTOP)
        eventually(lambda turn=turn: len({c["chat_id"] for c in receiver.got}) == 600 * (turn + 1))  # type: ignore[misc]
        receiver.check(conversations)
        if turn == 0:
            relays[relays.index(owner)] = relay(start, database)
        else:
            cursor = channel(client)["cursor"]
            owner.popen.send_signal(signal.SIGCONT)
            conversations = send(shop, 1, 1)
            eventually(lambda: channel(client)["behind"] == 0)
            receiver.check(conversations)
            assert channel(client)["cursor"] > cursor
    by_id = defaultdict(set)
    for chat in receiver.got:
        by_id[chat["chat_id"]].add((chat["conversation_id"], chat["seq"]))
    assert all(len(content) == 1 for content in by_id.values())


def test_connections_cut_in_mid_batch_lose_nothing(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver,
    proxy: Callable[[str, int], Proxy],
) -> None:  # fmt: skip
    line = proxy("127.0.0.1", receiver.server.server_port)
    put(client, receiver, url=f"http://127.0.0.1:{line.port}/hook")
    relay(start, database)
    for turn in range(1, 4):
        before = line.connections
        line.cut(after_bytes=20_000)  # some thirty chats of a hundred
        conversations = send(shop, 10, 10)
        eventually(lambda turn=turn: len({chat["chat_id"] for chat in receiver.got}) == 100 * turn)  # type: ignore[misc]
        assert line.connections > before
    receiver.check(conversations)
    repeats = len(receiver.got) - 300
    assert repeats <= 3 * 8, "of what was answered in time, nothing comes twice"


def test_an_older_token_moves_nothing(shop: Connection) -> None:
    shop.execute("insert into channels (store_id, name, kind, cursor) values (1, 'x', 'webhook', 0)")
    token = shop.execute("select token from lease_channel(1, 'a', 6)").fetchone()[0]  # type: ignore[index]
    assert shop.execute("select token from lease_channel(1, 'b', 6)").fetchone() is None
    shop.execute("update channels set lease_until = shoptalk_now()")  # it overslept
    newer = shop.execute("select token from lease_channel(1, 'b', 6)").fetchone()[0]  # type: ignore[index]
    settle = "select settle_batch(1, %s, 5, 0, '{}', '[]', '[]')"
    assert shop.execute(settle, [token]).fetchone() == (False,)
    assert shop.execute("select cursor from channels").fetchone() == (0,)
    assert shop.execute(settle, [newer]).fetchone() == (True,)
    assert shop.execute("select token from renew_lease(1, %s, 6)", [token]).fetchone() is None
    shop.execute("update channels set lease_until = 'infinity'")  # the clock stepped back since
    assert shop.execute("select token from lease_channel(1, 'c', 6)").fetchone() is not None


def test_a_dead_far_side_delays_nobody_else(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    dead = {"kind": "webhook", "url": "http://127.0.0.1:9/", "retry_seconds": [3600]}
    client.put("/v1/stores/1/channels/dead", json=dead)
    relay(start, database)
    send(shop, 5)
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


def test_messages_are_pruned_to_the_newest_thousand_attempts(shop: psycopg.Connection[Any]) -> None:
    shop.execute("insert into channels (store_id, name, kind, cursor) values (1, 'x', 'webhook', 0)")
    shop.execute(
        "insert into channel_attempts (channel_id, chat_id, attempted_at, took_seconds)"
        " select 1, g, now(), 0 from generate_series(1, 1500) g"
    )
    shop.execute("select prune_channels()")
    assert shop.execute("select count(*), min(chat_id) from channel_attempts").fetchone() == (1000, 501)


def test_json_of_a_webhook_is_the_streams(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put(client, receiver)
    relay(start, database)
    send(shop, 1)
    eventually(lambda: len(receiver.got) == 1)
    assert receiver.got[0] == json.loads(client.get(f"/v1/chats/{receiver.got[0]['chat_id']}").data)
