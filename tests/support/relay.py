"""A webhook receiver, and chats for it."""

from __future__ import annotations

import base64
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from flask.testing import FlaskClient
from standardwebhooks import Webhook

from tests.support.db import Connection, enqueue
from tests.support.processes import Process, Start

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Receiver:
    """A web server that keeps the chats it receives. It gives each of `answers` once, and then always `otherwise`."""

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
    """Asserts that each conversation has all its chats, and in order. Repeats of earlier chats are allowed."""
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


def send_all(db: Connection, chats: int, conversations: int = 1, store: int = 1) -> dict[int, int]:
    """Enqueues this many chats for each conversation and sends all of them. Returns the last seq of each."""
    for number in range(conversations):
        for _ in range(chats):
            enqueue(db, 100 * store + number, "hi", client=store, operator=store)
    while db.execute("select sent from send_chats(20)").fetchone()[0]:  # type: ignore[index]
        pass
    rows = db.execute("select conversation_id, last_seq from conversations where store_id = %s", [store])
    return {int(conversation): int(last) for conversation, last in rows}


def put_webhook(client: FlaskClient, receiver: Receiver, **others: Any) -> dict[str, Any]:
    """Makes or changes the channel crm of store 1, which posts to the receiver."""
    body = {"kind": "webhook", "url": receiver.url, "secret": SECRET, "retry_seconds": [0.05] * 9} | others
    answer = client.put("/v1/stores/1/channels/crm", json=body)
    assert answer.status_code in (200, 201), answer.get_json(force=True)
    return dict(answer.get_json())


def start_relay(start: Start, database: str, **env: str) -> Process:
    """Starts a relay that may post to this host."""
    process = start("relay", DATABASE_URL=database, SHOPTALK_WEBHOOK_ALLOW_PRIVATE="1", **env)
    process.expect("started")
    return process


def read_channel(client: FlaskClient) -> dict[str, Any]:
    return dict(client.get("/v1/stores/1/channels/crm").get_json())
