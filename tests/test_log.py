"""Log lines: every event is defined in one place, and no text can forge a line or a field."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Callable

import pytest

from sql.log import EVENTS, Lines, Log
from tests.support.db import Connection, enqueue, poison
from tests.support.processes import ROOT, Start, free_port
from tests.support.web import gunicorn

PACKAGES = ("api", "worker", "relay", "sql", "embedded")


def events_said() -> set[str]:
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "log":
                    words = [c.value for c in ast.walk(node.args[0]) if isinstance(c, ast.Constant)]
                    assert words, f"{path}:{node.lineno}: the event is to be written where it is said"
                    found |= set(words)
    return found


def test_every_event_is_said_somewhere_and_every_one_said_is_known_and_documented() -> None:
    assert events_said() == set(EVENTS)
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:INFO|WARNING|ERROR) \| (.*) \|$", page, re.MULTILINE))
    assert rows == {event: text for event, (_, text) in EVENTS.items()}


def test_nothing_of_ours_is_logged_any_other_way() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "log.py":
                text = path.read_text()
                assert not re.search(r'getLogger\("shoptalk|logging\.(info|warning|error)\(', text), path
                assert not re.search(r"log\.(debug|info|warning|error|exception)\(", text), path


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    def said(as_json: bool, event: str, **fields: object) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            Log("test")(event, **fields)
        return Lines(as_json).format(caplog.records[-1])

    return said


NASTY = 'a "b"\nERROR shoptalk.worker chat_failed chat_id=1'


def test_a_line_is_one_line_whatever_is_in_it(said: Callable[..., str]) -> None:
    line = said(False, "sending_failed", chat_id=12, reason=NASTY, seconds=0.25, text="", plain="a-b.c:1")
    assert line == (
        "WARNING shoptalk.test sending_failed chat_id=12"
        r' reason="a \"b\"\nERROR shoptalk.worker chat_failed chat_id=1"'
        ' seconds=0.250 text="" plain=a-b.c:1'
    )
    assert "\n" not in said(True, "sending_failed", reason=NASTY)
    parsed = json.loads(said(True, "sending_failed", chat_id=12, reason=NASTY))
    at = parsed.pop("at")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", at)
    assert parsed == {
        "level": "WARNING", "logger": "shoptalk.test", "event": "sending_failed", "chat_id": 12, "reason": NASTY,
    }  # fmt: skip


def test_no_text_of_an_errors_looks_like_a_line_of_the_log_nor_moves_the_cursor(said: Callable[..., str]) -> None:
    assert said(False, "feed_lost", reason="\x1b[2J").endswith(r'reason="\u001b[2J"')
    try:
        raise ValueError(NASTY)
    except ValueError:
        lines = said(False, "feed_failed", traceback=True).splitlines()
    assert [line for line in lines if not line.startswith("    ")] == ["ERROR shoptalk.test feed_failed"]


def test_an_errors_first_line_is_its_reason(said: Callable[..., str]) -> None:
    assert said(False, "feed_lost", reason=OSError("gone\nfor good")).endswith("feed_lost reason=gone")
    assert said(False, "feed_lost", reason=TimeoutError()).endswith("feed_lost reason=TimeoutError")


def test_an_unknown_event_is_refused() -> None:
    with pytest.raises(KeyError):
        Log("test")("no_such_event")


def test_a_chat_that_cannot_be_sent_is_named_in_the_log(shop: Connection, database: str, start: Start) -> None:
    poison(shop)
    chat = enqueue(shop, 7, "bad")
    worker = start("worker", DATABASE_URL=database, SHOPTALK_LOG="json")
    first = json.loads(worker.expect("sending_failed"))
    assert (first["chat_id"], first["conversation_id"], first["seq"]) == (chat.chat_id, 7, 1)
    assert (first["attempts"], first["level"]) == (1, "WARNING")
    assert first["reason"]
    shop.execute("update chat_failures set attempts = 4")
    shop.execute("update chat_queue set due_at = now()")
    last = json.loads(worker.expect("chat_failed"))
    assert (last["chat_id"], last["attempts"], last["level"]) == (chat.chat_id, 5, "ERROR")


def test_gunicorns_lines_are_in_the_same_style(shop: Connection, database: str, start: Start) -> None:
    web = start(
        *gunicorn(), DATABASE_URL=database, PORT=str(free_port()), WEB_CONCURRENCY="1", SHOPTALK_LOG="json"
    )  # fmt: skip
    line = json.loads(web.expect("Booting worker"))
    assert (line["level"], line["logger"]) == ("INFO", "gunicorn.error")
    wrong = start("worker", DATABASE_URL=database, SHOPTALK_LOG="xml")
    wrong.expect("SHOPTALK_LOG=xml")
