"""The example clients: each sends a chat, follows its conversation, and goes on after web has died."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from tests.conftest import ROOT, Connection, Process
from tests.test_deploy import Run, program, run  # noqa: F401
from tests.test_enqueue import enqueue
from tests.test_stream import Web

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
    run: Run,  # noqa: F811
) -> None:
    start("worker", DATABASE_URL=database)
    web = Web(start, database)
    clients = {}
    for conversation, (name, (needed, *command)) in enumerate(CLIENTS.items(), start=7):
        program(needed)
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


def test_the_page_shows_the_programs_as_they_are() -> None:
    page = (ROOT / "docs" / "clients.md").read_text()
    for *_, path in CLIENTS.values():
        assert f"]({'../' + path})" in page, path
