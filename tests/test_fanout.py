"""FANOUT=amqp: web nodes that get new chats from a real RabbitMQ, and read missing ones from the log."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drill.rabbit import Node, Rabbit
from sql.fanout import EXCHANGE
from sql.settings import BadSetting, Settings
from tests.support.db import AsRole, Connection
from tests.support.processes import ROOT, Start, eventually, free_port
from tests.support.proxy import Proxy
from tests.support.relay import send_all
from tests.support.web import gunicorn

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

MakeProxy = Callable[[str, int], Proxy]


@pytest.fixture
def broker(rabbit: Rabbit) -> Iterator[Node]:
    node = rabbit.nodes[0]
    yield node
    with contextlib.closing(node.connect()) as connection:
        connection.channel().exchange_delete(EXCHANGE)


class Stream(threading.Thread):
    """Reads a stream of one node to its end. It never reconnects, which would hide what the node has left out."""

    def __init__(self, port: int, selection: str) -> None:
        super().__init__(daemon=True)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.request("GET", f"/v1/stream?{selection}")
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.readline().startswith(b"retry")
        self.start()

    def run(self) -> None:
        name = ""
        with contextlib.suppress(OSError, http.client.HTTPException, AttributeError, ValueError):
            while line := self._answer.readline().decode():
                if line.startswith("event: "):
                    name = line[7:].strip()
                elif line.startswith("data: "):
                    self.events.append((name, json.loads(line[6:])))
        self._answer.close()
        self._connection.close()

    @property
    def seqs(self) -> list[tuple[int, int]]:
        """(conversation_id, seq) of each chat, in the order of arrival."""
        return [(data["conversation_id"], data["seq"]) for name, data in self.events if name == "chat"]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [data for event, data in self.events if event == name]


class Nodes:
    """The relays, which use the first URL, and a web node with one process for each other URL."""

    def __init__(
        self, start: Start, database: str, urls: list[str], relays: int = 1, relay_database: str | None = None
    ) -> None:
        env = {"DATABASE_URL": database, "FANOUT": "amqp", "WEB_CONCURRENCY": "1", "SHOPTALK_HOURS": "00:00-00:00"}
        relay_env = env | {"DATABASE_URL": relay_database or database, "AMQP_URL": urls[0]}
        self.relays = [start("relay", **relay_env) for _ in range(relays)]
        self.ports = [free_port() for _ in urls[1:]]
        webs = [
            start(*gunicorn(), **env, AMQP_URL=url, PORT=str(port))
            for url, port in zip(urls[1:], self.ports, strict=True)
        ]
        for web in webs:
            web.expect("Booting worker")
        for port in self.ports:
            eventually(lambda port=port: answers(port))  # type: ignore[misc]


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Makes a request and returns the status and the JSON."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


def answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/readyz")[0] == 200
    except OSError:
        return False


def listeners(db: Connection) -> set[str]:
    """The names of the sessions that listen."""
    rows = db.execute(
        "select application_name from pg_stat_activity where query like 'listen%' and datname = current_database()"
    )
    return {str(row[0]) for row in rows}


def queues(broker: Node) -> int:
    """1 if a web node's queue is bound to the exchange, else 0. Only a publisher can find that out."""
    with contextlib.closing(broker.connect()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish(EXCHANGE, "", b"{}", mandatory=True)
        except Exception:  # no queue yet, or no exchange
            return 0
        return 1


def everything(conversations: dict[int, int]) -> set[tuple[int, int]]:
    return {(c, seq) for c, last in conversations.items() for seq in range(1, last + 1)}


def check(stream: Stream, conversations: dict[int, int]) -> None:
    """Asserts that the stream has every chat once, in order within its conversation."""
    assert len(stream.seqs) == len(set(stream.seqs))
    for number in conversations:
        own = [seq for c, seq in stream.seqs if c == number]
        assert own == sorted(own)
    assert set(stream.seqs) == everything(conversations)


def test_two_nodes_get_every_chat_and_signal_and_neither_listens(
    shop: Connection,
    as_role: AsRole,
    start: Start,
    broker: Node,
) -> None:
    nodes = Nodes(start, as_role("web"), [broker.url] * 3, relay_database=as_role("relay"))
    streams = [Stream(port, "store_id=1") for port in nodes.ports]
    nodes.relays[0].expect("fanout_began")
    conversations = send_all(shop, 10, 5)
    for stream in streams:
        eventually(lambda stream=stream: len(stream.seqs) >= 50)  # type: ignore[misc]
        check(stream, conversations)
    assert listeners(shop) <= {"shoptalk fanout", "shoptalk relay listener"}
    eventually(lambda: queues(broker) == 1)
    assert ask(nodes.ports[0], "POST", "/v1/conversations/100/typing", {"sender": "client"})[0] < 300
    for stream in streams:
        eventually(lambda stream=stream: bool(stream.of("typing")))  # type: ignore[misc]
    relayed = streams[0].of("chat")[0]
    assert ask(nodes.ports[1], "GET", f"/v1/chats/{relayed['chat_id']}") == (200, relayed)


def test_a_killed_broker_a_cut_line_and_a_killed_relay_leave_no_gap_in_open_streams(
    shop: Connection, database: str, start: Start, broker: Node, proxy: MakeProxy
) -> None:
    line = proxy("127.0.0.1", broker.port)
    nodes = Nodes(start, database, [broker.url, broker.url, f"amqp://guest:guest@127.0.0.1:{line.port}/"], relays=2)
    streams = [Stream(port, "store_id=1") for port in nodes.ports]
    streams += [Stream(port, "conversation_id=101") for port in nodes.ports]
    eventually(lambda: queues(broker) == 1)
    conversations: dict[int, int] = {}
    for turn in range(4):
        conversations = send_all(shop, 10, 5)
        match turn:
            case 0:
                broker.kill()
            case 1:
                broker.start()
                line.cut()
            case 2:
                owner = next(r for r in nodes.relays if any("fanout_began" in line for line in r.lines))
                owner.popen.send_signal(signal.SIGKILL)
        conversations = send_all(shop, 10, 5)
        for stream in streams:
            wanted = len(everything(conversations)) if stream in streams[:2] else conversations[101]
            eventually(lambda stream=stream, wanted=wanted: len(stream.seqs) >= wanted)  # type: ignore[misc]
    for stream in streams[:2]:
        check(stream, conversations)
    for stream in streams[2:]:
        check(stream, {101: conversations[101]})


def test_without_a_relay_the_nodes_read_the_log_themselves(
    shop: Connection, database: str, start: Start, broker: Node
) -> None:
    nodes = Nodes(start, database, [broker.url] * 2, relays=0)
    stream = Stream(nodes.ports[0], "store_id=1")
    conversations = send_all(shop, 5, 2)
    eventually(lambda: len(stream.seqs) >= 10)
    check(stream, conversations)


def test_a_message_that_was_lost_is_read_from_the_log(
    shop: Connection, database: str, start: Start, broker: Node
) -> None:
    nodes = Nodes(start, database, [broker.url] * 2, relays=0)
    stream = Stream(nodes.ports[0], "store_id=1")
    eventually(lambda: queues(broker) == 1)
    conversations = send_all(shop, 9, 1)
    (chat_id,) = shop.execute("select chat_id from sent_log where position = 9").fetchone()  # type: ignore[misc]
    _, last = ask(nodes.ports[0], "GET", f"/v1/chats/{chat_id}")
    with contextlib.closing(broker.connect()) as connection:
        message = {"after": 8, "chats": [[9, 1, last]]}
        connection.channel().basic_publish(EXCHANGE, "", json.dumps(message).encode())
    eventually(lambda: len(stream.seqs) >= 9)
    check(stream, conversations)


def test_malformed_messages_to_the_nodes_do_no_harm(
    shop: Connection, database: str, start: Start, broker: Node
) -> None:
    """Publishers there are trusted, but a message that is not the relay's must not end the node's reading."""
    nodes = Nodes(start, database, [broker.url] * 2)
    stream = Stream(nodes.ports[0], "store_id=1")
    nodes.relays[0].expect("fanout_began")
    eventually(lambda: queues(broker) == 1)
    with contextlib.closing(broker.connect()) as connection:
        for body in (b"", b"\xff", b"[]", b'{"chats": 1}', b'{"after": "x"}', b'{"signals": ["x", 1, null]}', b"1"):
            connection.channel().basic_publish(EXCHANGE, "", body)
    conversations = send_all(shop, 5, 2)
    eventually(lambda: len(stream.seqs) >= 10)
    check(stream, conversations)


def test_without_fanout_none_of_its_modules_is_loaded(database: str) -> None:
    code = (
        "import sys\nfrom api import context\nfrom api.app import create_app\n"
        "from sql.settings import Settings\ncreate_app(Settings.from_environment())\n"
        "print('loaded', sorted({'pika', 'aio_pika', 'api.push.nodes', 'sql.fanout'} & set(sys.modules)))"
    )
    env = {"DATABASE_URL": database, "PATH": "/usr/bin:/bin", "AMQP_URL": "amqp://localhost/"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "loaded []", done.stderr


@pytest.mark.parametrize("env", [{"FANOUT": "kafka"}, {"FANOUT": "amqp"}])
def test_an_invalid_fanout_is_named(env: dict[str, str]) -> None:
    with pytest.raises(BadSetting, match="FANOUT"):
        Settings.from_environment(env)
