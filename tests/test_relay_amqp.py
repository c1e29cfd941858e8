"""RabbitMQ: a real broker, real relay processes, and pika as an independent client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import aiormq.exceptions
import pika
import pika.exceptions
import psycopg
import pytest
from flask.testing import FlaskClient

from drill.rabbit import Node, Rabbit
from relay.broker import disconnect, raising_delivery_errors
from sql.settings import BadSetting, Settings
from tests.support.db import AsRole, Connection, enqueue
from tests.support.processes import ROOT, Process, Start, eventually
from tests.support.proxy import Proxy
from tests.support.relay import check, send_all

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]
logging.getLogger("pika").setLevel(logging.CRITICAL)  # the tests cut connections on purpose

MakeProxy = Callable[[str, int], Proxy]
PERSISTENT = 2


@pytest.fixture
def broker(rabbit: Rabbit) -> Iterator[Node]:
    """The node, without exchanges and queues of ours."""
    node = rabbit.nodes[0]
    clean(node)
    yield node
    clean(node)


def clean(node: Node) -> None:
    with contextlib.closing(node.connect()) as connection:
        channel = connection.channel()
        for queue in ("shoptalk.inbound", "shoptalk.dead", "shop", "other"):
            channel.queue_delete(queue)
        for exchange in ("shoptalk", "shoptalk.dead"):
            channel.exchange_delete(exchange)


def bind(node: Node, queue: str = "shop", key: str = "store.*.conversation.*.chat", **arguments: Any) -> None:
    """Declares, as a shop's own program would, the exchange (if it is first), a durable queue, and the binding."""
    with contextlib.closing(node.connect()) as connection:
        channel = connection.channel()
        channel.exchange_declare("shoptalk", "topic", durable=True)
        channel.queue_declare(queue, durable=True, arguments=arguments or None)
        channel.queue_bind(queue, "shoptalk", key)


class Reader(threading.Thread):
    """Reads a queue with pika, acknowledges each message, and reconnects after every cut."""

    def __init__(self, node: Node, queue: str = "shop") -> None:
        super().__init__(daemon=True)
        self.got: list[dict[str, Any]] = []
        self.properties: list[pika.BasicProperties] = []
        self.keys: list[str] = []
        self._node, self._queue = node, queue
        self._done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._done.is_set():
            with (
                contextlib.suppress(pika.exceptions.AMQPError, OSError),
                contextlib.closing(self._node.connect()) as connection,
            ):
                self._read(connection.channel())

    def _read(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=50)
        for method, properties, body in channel.consume(self._queue, inactivity_timeout=0.1):
            if self._done.is_set():
                return
            if method is not None:
                self.got.append(json.loads(body))
                self.properties.append(properties)
                self.keys.append(method.routing_key)
                channel.basic_ack(method.delivery_tag)

    def end(self) -> None:
        self._done.set()
        self.join()


@pytest.fixture
def read(broker: Node) -> Iterator[Callable[..., Reader]]:
    """Starts readers that end with the test."""
    made: list[Reader] = []

    def read(queue: str = "shop") -> Reader:
        made.append(Reader(broker, queue))
        return made[-1]

    yield read
    for reader in made:
        reader.end()


Read = Callable[..., Reader]


def relay(start: Start, database: str, url: str) -> Process:
    process = start("relay", DATABASE_URL=database, AMQP_URL=url)
    process.expect("started")
    return process


def channel(client: FlaskClient) -> dict[str, Any]:
    return dict(client.get("/v1/channels/amqp").get_json())


def is_there(client: FlaskClient) -> bool:
    """Whether the relay has made its channel. Chats sent earlier are not delivered to it."""
    return client.get("/v1/channels/amqp").status_code == 200


def ids(reader: Reader) -> set[int]:
    return {chat["chat_id"] for chat in reader.got}


def check_repeats(reader: Reader) -> None:
    """Asserts that messages with the same id have the same content."""
    by_id: dict[int, set[str]] = defaultdict(set)
    for chat, properties in zip(reader.got, reader.properties, strict=True):
        assert properties.message_id == str(chat["chat_id"])
        by_id[chat["chat_id"]].add(json.dumps(chat))
    assert all(len(contents) == 1 for contents in by_id.values())


# Out ---------------------------------------------------------------------------------------------------


def test_each_sent_chat_is_published_as_rest_shows_it(
    shop: Connection, client: FlaskClient, database: str, start: Start, broker: Node, read: Read
) -> None:
    bind(broker)
    bind(broker, "other", "store.2.#")
    relay(start, database, broker.url)
    eventually(lambda: is_there(client))
    conversations = send_all(shop, 40, 5)
    reader, other = read(), read("other")
    eventually(lambda: len(ids(reader)) == 200)
    check(reader.got, conversations)
    assert reader.got[0] == client.get(f"/v1/chats/{reader.got[0]['chat_id']}").get_json()
    assert reader.keys[0] == "store.1.conversation.100.chat"
    properties = reader.properties[0]
    assert (properties.content_type, properties.delivery_mode) == ("application/json", PERSISTENT)
    assert (properties.type, properties.headers) == ("chat.sent", {"position": 1})
    check_repeats(reader)
    eventually(lambda: channel(client)["behind"] == 0 and channel(client)["state"] == "active")
    shop.execute("set shoptalk.now = '2026-03-02 10:00+00'")  # store 2 is open
    send_all(shop, 3, store=2)
    eventually(lambda: len(other.got) == 3)
    assert {key.split(".")[1] for key in other.keys} == {"2"}


def test_a_chat_that_no_queue_takes_is_a_dead_letter_and_is_delivered_once_a_queue_is_bound(
    shop: Connection, client: FlaskClient, database: str, start: Start, broker: Node, read: Read
) -> None:
    relay(start, database, broker.url)
    eventually(lambda: is_there(client))
    conversations = send_all(shop, 3, 2)
    eventually(lambda: channel(client)["dead_letters"] == 6)
    dead_letters = client.get("/v1/channels/amqp/dead-letters").get_json()["dead_letters"]
    assert dead_letters[0]["reason"] == "no queue is bound for store.1.conversation.100.chat"
    assert dead_letters[0]["requeue_at"] is not None
    assert channel(client)["state"] == "active"
    assert channel(client)["behind"] == 0
    bind(broker)
    assert client.post("/v1/channels/amqp/dead-letters/requeue").status_code == 200
    reader = read()
    eventually(lambda: len(ids(reader)) == 6)
    check(reader.got, conversations)
    eventually(lambda: channel(client)["dead_letters"] == 0)


def test_pause_resume_and_replay(
    shop: Connection, client: FlaskClient, database: str, start: Start, broker: Node, read: Read
) -> None:
    bind(broker)
    relay(start, database, broker.url)
    eventually(lambda: is_there(client))
    assert client.post("/v1/channels/amqp/pause").get_json()["state"] == "paused"
    conversations = send_all(shop, 3)
    client.post("/v1/channels/amqp/resume")
    reader = read()
    eventually(lambda: len(reader.got) == 3)
    shop.execute("select replay_channel('amqp', null, 1)")
    eventually(lambda: len(reader.got) == 5)
    check(reader.got, conversations)
    check_repeats(reader)
    assert client.get("/v1/channels").get_json()["channels"][0]["kind"] == "amqp"
    assert client.get("/v1/channels/crm").status_code == 404


def test_a_relay_that_looks_for_its_channel_notifies_no_relay(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    """Every relay does so regularly: a notification each time would wake the relays in an endless loop."""
    listener = connect()
    listener.execute("listen channels_changed")
    for _ in range(3):
        shop.execute("select open_system_channel('amqp')")
    assert len(list(listener.notifies(timeout=0.5))) == 1


def test_a_full_queue_delays_the_channel_and_keeps_the_order(
    shop: Connection, client: FlaskClient, database: str, start: Start, broker: Node, read: Read
) -> None:
    bind(broker, **{"x-max-length": 5, "x-overflow": "reject-publish"})
    relay(start, database, broker.url)
    eventually(lambda: is_there(client))
    conversations = send_all(shop, 20)
    eventually(lambda: channel(client)["state"] == "failing")
    assert "nack" in channel(client)["last_error"]
    reader = read()
    eventually(lambda: len(ids(reader)) == 20)
    check(reader.got, conversations)
    check_repeats(reader)


@pytest.mark.parametrize("call", [raising_delivery_errors, disconnect])
@pytest.mark.parametrize("error", [aiormq.exceptions.AMQPError("expected 'channel.open'"), None])
def test_a_task_ends_though_the_library_swallows_its_cancellation(
    call: Callable[..., Any], error: Exception | None
) -> None:
    """aiormq does so while it opens a channel; the relay then waited forever for its inbound task."""

    class Line:
        async def close(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if error is not None:
                    raise error from None

    async def work() -> None:
        if call is disconnect:
            await disconnect(Line())  # type: ignore[arg-type]
        else:
            async with raising_delivery_errors():
                await Line().close()

    async def cancelled() -> bool:
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled()

    assert asyncio.run(cancelled())


def test_a_broker_that_is_killed_and_started_again_loses_nothing(
    shop: Connection, client: FlaskClient, database: str, start: Start, broker: Node, read: Read
) -> None:
    bind(broker)
    reader = read()
    relay(start, database, broker.url)
    eventually(lambda: is_there(client))
    send_all(shop, 40, 20)
    eventually(lambda: len(reader.got) > 100)
    broker.kill()
    conversations = send_all(shop, 5, 20)
    eventually(lambda: channel(client)["state"] == "failing")
    broker.start()
    eventually(lambda: len(ids(reader)) == 900)
    check(reader.got, conversations)
    check_repeats(reader)
    eventually(lambda: channel(client)["behind"] == 0)


def test_a_connection_that_is_cut_in_mid_batch_loses_nothing(
    shop: Connection, client: FlaskClient, database: str, start: Start, broker: Node, read: Read, proxy: MakeProxy
) -> None:
    bind(broker)
    reader = read()
    line = proxy("127.0.0.1", broker.port)
    relay(start, database, broker.url.replace(str(broker.port), str(line.port)))
    eventually(lambda: line.connections == 2)  # out and in
    eventually(lambda: is_there(client))
    for turn in range(1, 4):
        before = line.connections
        line.cut(after_bytes=20_000)  # some thirty chats of a hundred
        conversations = send_all(shop, 10, 10)
        eventually(lambda before=before: line.connections > before)  # type: ignore[misc]
        eventually(lambda turn=turn: len(ids(reader)) == 100 * turn)  # type: ignore[misc]
    check(reader.got, conversations)
    check_repeats(reader)


def test_two_relays_one_killed_and_one_stopped_for_a_while_lose_nothing_and_keep_order(
    shop: Connection, client: FlaskClient, database: str, start: Start, broker: Node, read: Read
) -> None:
    bind(broker)
    reader = read()
    relays = [relay(start, database, broker.url) for _ in range(2)]
    eventually(lambda: is_there(client))
    for turn, how in enumerate((signal.SIGKILL, signal.SIGSTOP)):
        conversations = send_all(shop, 30, 20)
        eventually(lambda turn=turn: len(reader.got) > 600 * turn + 50)  # type: ignore[misc]
        pid = shop.execute("select leased_by from channels").fetchone()[0]  # type: ignore[index]
        owner = next(r for r in relays if pid.endswith(f":{r.popen.pid}"))
        owner.popen.send_signal(how)
        eventually(lambda turn=turn: len(ids(reader)) == 600 * (turn + 1))  # type: ignore[misc]
        if turn == 0:
            relays[relays.index(owner)] = relay(start, database, broker.url)
    owner.popen.send_signal(signal.SIGCONT)
    conversations = send_all(shop, 1, 1)
    eventually(lambda: len(ids(reader)) == 1201)
    check(reader.got, conversations)
    check_repeats(reader)
    eventually(lambda: channel(client)["behind"] == 0)


# In ----------------------------------------------------------------------------------------------------


def publish(node: Node, bodies: list[tuple[Any, str | None]]) -> None:
    """Publishes each (body, message_id) to the queue, with confirms. Bodies that are not bytes are sent as JSON."""
    with contextlib.closing(node.connect()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body, message_id in bodies:
            properties = pika.BasicProperties(message_id=message_id, delivery_mode=PERSISTENT)
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            channel.basic_publish("", "shoptalk.inbound", text, properties, mandatory=True)


def has_queue(node: Node) -> bool:
    with contextlib.closing(node.connect()) as connection:
        try:
            return bool(connection.channel().queue_declare("shoptalk.inbound", passive=True).method.consumer_count)
        except pika.exceptions.ChannelClosedByBroker:
            return False


def chat(conversation: int, payload: str, **others: Any) -> dict[str, Any]:
    return {"conversation_id": conversation, "client_id": 1, "operator_id": 1, "payload": payload} | others


def count(db: Connection) -> int:
    return int(db.execute("select count(*) from chats").fetchone()[0])  # type: ignore[index]


def left(node: Node, queue: str = "shoptalk.inbound") -> int:
    """How many messages are ready in the queue."""
    with contextlib.closing(node.connect()) as connection:
        channel = connection.channel()
        ready = channel.queue_declare(queue, passive=True).method.message_count
        return int(ready)


def test_a_published_chat_is_accepted_once_in_order_and_acknowledged(
    shop: Connection,
    as_role: AsRole,
    start: Start,
    broker: Node,
) -> None:
    relay(start, as_role("relay"), broker.url)
    eventually(lambda: has_queue(broker))
    bodies: list[tuple[Any, str | None]] = [(chat(7 + n % 3, f"text {n}"), f"message-{n}") for n in range(300)]
    repeated = [bodies[n] for n in range(0, 300, 7)]
    own_id = (
        chat(7, "mine", chat_id=5, sender="operator"),
        "message-0",
    )  # its chat_id takes precedence over its message_id
    publish(broker, bodies + repeated + [own_id, own_id])
    eventually(lambda: count(shop) >= 301)
    eventually(lambda: left(broker) == 0)
    rows = shop.execute(
        "select conversation_id, seq, payload from chats where chat_id <> 5 order by conversation_id, seq"
    )
    expected = [(7 + c, seq, f"text {3 * (seq - 1) + c}") for c in range(3) for seq in range(1, 101)]
    assert rows.fetchall() == expected
    assert shop.execute("select sender, seq from chats where chat_id = 5").fetchone() == ("operator", 101)


def test_an_invalid_message_is_dead_lettered_with_the_reason(
    shop: Connection, database: str, start: Start, broker: Node, read: Read
) -> None:
    relay(start, database, broker.url)
    eventually(lambda: has_queue(broker))
    enqueue(shop, 9, "here", client=1, operator=1)
    bad: list[tuple[Any, str, int, str]] = [
        (b"\xff\xfe", "bytes", 400, "not JSON"),
        (b"[" * 60_000, "deep", 400, "not JSON"),
        (b'"' + b"x" * 70_000 + b'"', "large", 413, "65536"),
        ([chat(9, "x")], "list", 400, "object"),
        ({}, "empty", 400, "payload: this field is required"),
        (chat(9, "x" * 300), "long", 400, "payload"),
        (chat(9, "a\0b"), "nul", 400, "NUL"),
        (chat(9, "\ud800"), "surrogate", 400, "payload"),
        (chat(9, "x", client_id=77), "client", 404, "there is no client 77"),
        (chat(9, "x", client_id=2, operator_id=2), "parties", 409, "conversation 9 is between another"),
        (chat(9, "x", urgent=True), "urgent", 403, "urgent"),
        (chat(9, "x"), "n\0l", 400, "message_id"),
    ]
    publish(broker, [(body, message_id) for body, message_id, _, _ in bad] + [(chat(9, "good"), "good")])
    eventually(lambda: count(shop) == 2)
    got: dict[str, tuple[int, str, bytes]] = {}

    def take() -> bool:
        with contextlib.closing(broker.connect()) as connection:
            for _, properties, body in connection.channel().consume("shoptalk.dead", inactivity_timeout=1):
                if properties is None:
                    break
                got[properties.message_id] = (properties.headers["x-status"], properties.headers["x-reason"], body)
        return len(got) == len(bad)

    eventually(take)
    for body, message_id, status, reason in bad:
        assert got[message_id][0] == status, message_id
        assert reason in got[message_id][1], message_id
        assert got[message_id][2] == (body if isinstance(body, bytes) else json.dumps(body).encode())
    eventually(lambda: left(broker) == 0)


def test_a_message_that_breaks_the_protocol_ends_among_the_dead_letters(
    shop: Connection, database: str, start: Start, broker: Node
) -> None:
    with contextlib.closing(broker.connect()) as connection:
        # The queue exists already and keeps its own arguments: a delivery limit of 1.
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1, "x-dead-letter-exchange": "shoptalk.dead"}
        connection.channel().queue_declare("shoptalk.inbound", durable=True, arguments=arguments)
    publish_raw_message_id(broker, b"\xff\xff")
    publish(broker, [(chat(9, f"after it {n}"), f"fine-{n}") for n in range(5)])
    relay(start, database, broker.url)
    eventually(lambda: count(shop) == 5)
    assert left(broker, "shoptalk.dead") == 1


def publish_raw_message_id(node: Node, message_id: bytes) -> None:
    """Publishes a message_id that is not valid UTF-8. pika refuses to write one; the broker accepts it."""
    properties = pika.BasicProperties(message_id="?" * len(message_id))
    encode = properties.encode
    with contextlib.closing(node.connect()) as connection:
        channel = connection.channel()
        properties.encode = lambda: [piece.replace(b"?" * len(message_id), message_id) for piece in encode()]
        channel.basic_publish("", "shoptalk.inbound", json.dumps(chat(9, "x")).encode(), properties)


def test_killed_relays_a_killed_broker_and_cut_lines_accept_each_message_once(
    shop: Connection, database: str, start: Start, broker: Node, proxy: MakeProxy
) -> None:
    line = proxy("127.0.0.1", broker.port)
    url = broker.url.replace(str(broker.port), str(line.port))
    relays = [relay(start, database, url) for _ in range(2)]
    eventually(lambda: has_queue(broker))
    # An orderly restart first: RabbitMQ 3.10 may lose the leader of a quorum queue when it is killed in the queue's
    # first seconds (docs/rabbitmq.md).
    broker.kill(signal.SIGTERM)
    broker.start()
    eventually(lambda: has_queue(broker))
    sent = 0
    for turn in range(4):
        publish(broker, [(chat(7 + n % 5, f"text {n}"), f"message-{n}") for n in range(sent, sent + 250)])
        sent += 250
        eventually(lambda sent=sent: count(shop) > sent - 250)  # type: ignore[misc]
        match turn:
            case 0:
                line.cut(after_bytes=10)  # in the middle of an acknowledgement
            case 1:
                broker.kill()
                broker.start()
            case 2:
                relays[0].popen.send_signal(signal.SIGKILL)
        eventually(lambda sent=sent: count(shop) >= sent)  # type: ignore[misc]
    rows = shop.execute("select conversation_id, seq, payload from chats order by conversation_id, seq").fetchall()
    assert rows == [(7 + c, seq, f"text {5 * (seq - 1) + c}") for c in range(5) for seq in range(1, 201)]
    eventually(lambda: left(broker) == 0)


def test_while_the_database_is_unavailable_the_messages_stay_in_the_queue(
    shop: Connection, database: str, start: Start, broker: Node, proxy: MakeProxy
) -> None:
    where = psycopg.conninfo.conninfo_to_dict(database)
    line = proxy(str(where["host"]), int(where["port"] or 5432))
    relay(start, psycopg.conninfo.make_conninfo(database, host="127.0.0.1", port=line.port), broker.url)
    eventually(lambda: has_queue(broker))
    line.shut()
    publish(broker, [(chat(7, f"text {n}"), f"message-{n}") for n in range(250)])
    eventually(lambda: not has_queue(broker))  # the relay leaves the queue, because it cannot renew its lease
    assert left(broker) == 250
    assert count(shop) == 0
    line.open()
    eventually(lambda: count(shop) == 250)
    rows = shop.execute("select payload from chats order by seq").fetchall()
    assert rows == [(f"text {n}",) for n in range(250)]
    eventually(lambda: left(broker) == 0)
    assert left(broker, "shoptalk.dead") == 0


# Settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://x/", "amqp://", "amqp://h:0/", "amqp://u:secret@h:x/", "amqp://a,b"])
def test_a_url_that_cannot_be_used_is_named_without_its_password(url: str) -> None:
    with pytest.raises(BadSetting) as error:
        Settings.from_environment({"AMQP_URL": url})
    assert "AMQP_URL" in str(error.value)
    assert "secret" not in str(error.value)


def test_without_the_extra_the_error_names_what_to_install(database: str) -> None:
    code = (
        "import sys\nsys.modules['aio_pika'] = None\n"
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'aio_pika' else find(name, *rest)\n"
        "from relay.__main__ import main\nmain()"
    )
    env = {"DATABASE_URL": database, "PATH": "/usr/bin:/bin", "AMQP_URL": "amqp://localhost/"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "requirements-amqp.txt" in done.stderr


def test_an_unavailable_broker_is_retried_and_its_password_kept_secret(
    shop: Connection, client: FlaskClient, database: str, start: Start
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        process = relay(start, database, f"amqp://guest:hunter2@127.0.0.1:{closed.getsockname()[1]}/")
        eventually(lambda: is_there(client) and channel(client)["consecutive_failures"] >= 2)
    assert process.end() == 0
    assert "hunter2" not in "".join(process.lines) + str(channel(client))
