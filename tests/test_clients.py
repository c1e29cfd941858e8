"""The example clients: each sends a chat, follows its conversation, and goes on after web has died."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from flask.testing import FlaskClient

from tests.support.db import Connection, enqueue
from tests.support.processes import ROOT, Process, Start, eventually, find_program
from tests.support.web import Web

pytestmark = pytest.mark.system

CLIENTS = {
    "curl": ["curl", "/bin/sh", "examples/chat.sh"],
    "python": [sys.executable, sys.executable, "examples/chat.py"],
    "javascript": ["node", "node", "examples/chat.mjs"],
}
LETTERS = "Grüße & 100 % von Ann: 'ja' \"nein\""


def test_each_client_sends_a_chat_and_misses_none(
    shop: Connection,
    database: str,
    start: Callable[..., Process],
    run: Start,
) -> None:
    start("worker", DATABASE_URL=database)
    web = Web(start, database)
    clients = {}
    for conversation, (name, (needed, *command)) in enumerate(CLIENTS.items(), start=7):
        find_program(needed)
        env = {"SHOPTALK_URL": f"http://127.0.0.1:{web.port}", "CONVERSATION": str(conversation)}
        clients[conversation] = name, run(*command, LETTERS, "3", **env)
    for name, client in clients.values():
        assert ("Gr\\u00fc\\u00dfe" if name == "curl" else LETTERS) in client.expect("100 %")
    web.process.end(signal.SIGKILL)
    for conversation in clients:
        enqueue(shop, conversation, "while you were away")
    web.run()
    for conversation, (_, client) in clients.items():
        client.expect("while you were away")
        enqueue(shop, conversation, "live")
    for _, client in clients.values():
        client.expect("live")
        assert client.popen.wait(30) == 0
    assert shop.execute("select count(*) from sent_log").fetchone() == (9,)


KEY = "k" * 32


class Fading(ThreadingHTTPServer):
    """Takes every POST; of its streams the first is cut within an event and a chunk, the second falls silent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cursors: list[str] = []
        self.ended = threading.Event()


class Answer(BaseHTTPRequestHandler):
    server: Fading
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.begin("Content-Length", "2")
        self.wfile.write(b"{}")

    def do_GET(self) -> None:
        self.close_connection = True
        self.begin("Transfer-Encoding", "chunked")
        self.server.cursors.append(self.headers["Last-Event-ID"])
        number = len(self.server.cursors)
        self.chunk(b"retry: 1000\nid: %d\n\n" % (number - 1) + event(number))
        if number == 1:
            self.wfile.write(b"fff\r\n" + event(2)[:20])
        else:
            self.server.ended.wait()

    def begin(self, name: str, value: str) -> None:
        self.send_response(200 if self.headers["Authorization"] == f"Bearer {KEY}" else 401)
        self.send_header(name, value)
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def log_message(self, *_: object) -> None:
        pass


def event(number: int) -> bytes:
    return b'event: chat\nid: %d\ndata: {"seq": %d, "sender": "client", "payload": "chat %d"}\n\n' % ((number,) * 3)


@pytest.fixture
def fading() -> Iterator[Fading]:
    with Fading() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.ended.set()
        server.shutdown()


def hasty(path: str, folder: Path) -> str:
    """The example, but with 2 s for its 30."""
    text = (ROOT / path).read_text()
    for long, short in (("--speed-time 30", "--speed-time 2"), ("timeout=30", "timeout=2"), ("30_000", "2_000")):
        text = text.replace(long, short)
    copy = folder / Path(path).name
    copy.write_text(text)
    return str(copy)


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_comes_back_from_a_cut_within_a_chunk_and_from_silence(
    name: str,
    fading: Fading,
    run: Start,
    tmp_path: Path,
) -> None:
    needed, *command, path = CLIENTS[name]
    find_program(needed)
    client = run(*command, hasty(path, tmp_path), "hi", "3", SHOPTALK_URL=fading.url, SHOPTALK_KEY=KEY)
    assert client.popen.wait(60) == 0
    assert [line.rpartition("chat ")[2][:1] for line in client.lines] == ["1", "2", "3"], client.lines
    assert fading.cursors == ["0", "1", "2"]


@pytest.mark.parametrize("how", [signal.SIGTERM, None])
def test_other_users_cannot_read_curls_key_and_it_is_left_nowhere(
    how: signal.Signals | None,
    fading: Fading,
    run: Start,
    tmp_path: Path,
) -> None:
    find_program("curl")
    count = "9" if how else "2"
    env = {"SHOPTALK_URL": fading.url, "SHOPTALK_KEY": KEY, "TMPDIR": str(tmp_path)}
    client = run("/bin/sh", "examples/chat.sh", "hi", count, **env)
    shell = psutil.Process(client.popen.pid)
    client.expect("chat 1")
    if how is None:
        assert client.popen.wait(60) == 0
    else:
        (file,) = tmp_path.glob("*/key")
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        client.expect("chat 2")
        (curl,) = shell.children()
        assert f"@{file}" in curl.cmdline()
        assert KEY not in " ".join(curl.cmdline())
        client.end(how)
        eventually(lambda: not curl.is_running() or curl.status() == psutil.STATUS_ZOMBIE)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_the_programs_as_they_are() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for *_, path in CLIENTS.values():
        assert f"]({'../' + path})" in page, path


def test_a_chat_that_was_edited_and_comes_again_with_its_first_text_is_refused(
    shop: Connection, client: FlaskClient
) -> None:
    shop.execute("select pause_store(1)")
    chat = {"chat_id": 2**52, "conversation_id": 7, "client_id": 1, "operator_id": 1, "payload": "first"}
    assert client.post("/v1/chats", json=chat).status_code == 201
    assert client.patch(f"/v1/chats/{2**52}", json={"payload": "second"}).status_code == 200
    assert client.post("/v1/chats", json=chat).status_code == 409
    assert client.post("/v1/chats", json=chat | {"payload": "second"}).status_code == 200
