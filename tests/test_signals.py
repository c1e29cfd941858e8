"""Whatever changes a waiting chat, through SQL, the command line or REST, tells the open pages, once."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.cli import Shoptalk
from tests.support.db import Connection
from tests.support.processes import eventually
from tests.support.web import Reader, Web

OPENING = dt.date.today() + dt.timedelta(days=30)
LATER = OPENING + dt.timedelta(days=30)
CLOSED_UNTIL = {day: f"{day.isoformat()}T09:00:00.000000Z" for day in (OPENING, LATER)}


def hours(opening: dt.date) -> dict[str, Any]:
    """Open once, for three hours on that day."""
    days = [{"date": opening.isoformat(), "spans": [["09:00", "12:00"]]}]
    return {"timezone": "UTC", "weekly": {}, "exceptions": days}


@dataclass
class Scene:
    """A held chat of conversation 9, and every way to change it."""

    db: Connection
    shoptalk: Shoptalk
    api: FlaskClient
    chat_id: int

    def sql(self, statement: str) -> None:
        self.db.execute(statement, {"chat": self.chat_id, "later": json.dumps(hours(LATER))})

    def cli(self, *arguments: str) -> None:
        answer = self.shoptalk(*(argument.replace("CHAT", str(self.chat_id)) for argument in arguments))
        assert answer.status == 0, answer.err

    def rest(self, method: str, path: str, body: Any = None) -> None:
        answer = self.api.open(path.replace("CHAT", str(self.chat_id)), method=method, json=body)
        assert answer.status_code == 200, answer.text

    def fail(self) -> None:
        """As if sending it had failed for good."""
        self.db.execute("delete from chat_queue")
        self.db.execute("insert into chat_failures values (%s, 5, 'x', now(), now())", [self.chat_id])


@pytest.fixture
def scene(shop: Connection, web: Web, client: FlaskClient, shoptalk: Shoptalk) -> Scene:
    shop.execute("select change_hours(2, %s)", [json.dumps(hours(OPENING))])
    row = shop.execute("select chat_id from enqueue_chat(9, 1, 2, 'old', 'operator')").fetchone()
    assert row is not None
    return Scene(shop, shoptalk, client, row[0])


NOW_HELD = {"state": "held", "release_at": CLOSED_UNTIL[OPENING], "payload": "old"}
PAUSED = {"state": "held", "release_at": None}
QUEUED = {"state": "queued"}
QUIET = {"timezone": "UTC", "from": "08:00", "to": "10:00"}
AFTER_QUIET_HOURS = {"state": "held", "release_at": f"{OPENING.isoformat()}T10:00:00.000000Z"}
ERASED = {"state": "cancelled", "payload": "[erased]"}


def paused(what: str) -> Callable[[Scene], None]:
    return lambda scene: scene.sql(f"select pause_{what}({2 if what == 'store' else 9})")


def in_quiet_hours(scene: Scene) -> None:
    scene.sql("select set_quiet_hours(1, 'UTC', '08:00', '10:00')")


Change = tuple[str, Callable[[Scene], None], Callable[[Scene], None], dict[str, Any]]
CHANGES: list[Change] = [
    ("sql cancel", lambda s: None, lambda s: s.sql("select cancel_chat(%(chat)s)"), {"state": "cancelled"}),
    ("cli cancel", lambda s: None, lambda s: s.cli("cancel", "CHAT"), {"state": "cancelled"}),
    ("rest cancel", lambda s: None, lambda s: s.rest("DELETE", "/v1/chats/CHAT"), {"state": "cancelled"}),
    ("sql edit", lambda s: None, lambda s: s.sql("select edit_chat(%(chat)s, 'new')"), NOW_HELD | {"payload": "new"}),
    ("rest edit", lambda s: None, lambda s: s.rest("PATCH", "/v1/chats/CHAT", {"payload": "new"}), {"payload": "new"}),
    ("sql requeue", Scene.fail, lambda s: s.sql("select requeue_chat(%(chat)s)"), NOW_HELD),
    ("sql requeue all", Scene.fail, lambda s: s.sql("select requeue_failed(2)"), NOW_HELD),
    ("cli requeue", Scene.fail, lambda s: s.cli("requeue", "CHAT"), NOW_HELD),
    ("cli requeue all", Scene.fail, lambda s: s.cli("requeue", "--all"), NOW_HELD),
    ("sql pause store", lambda s: None, lambda s: s.sql("select pause_store(2)"), PAUSED),
    ("cli pause store", lambda s: None, lambda s: s.cli("pause", "store", "2"), PAUSED),
    ("sql resume store", paused("store"), lambda s: s.sql("select resume_store(2)"), NOW_HELD),
    ("cli resume store", paused("store"), lambda s: s.cli("resume", "store", "2"), NOW_HELD),
    ("sql pause conversation", lambda s: None, lambda s: s.sql("select pause_conversation(9)"), PAUSED),
    ("cli pause conversation", lambda s: None, lambda s: s.cli("pause", "conversation", "9"), PAUSED),
    ("sql resume conversation", paused("conversation"), lambda s: s.sql("select resume_conversation(9)"), QUEUED),
    ("cli resume conversation", paused("conversation"), lambda s: s.cli("resume", "conversation", "9"), QUEUED),
    ("sql release chat", lambda s: None, lambda s: s.sql("select release_chat(%(chat)s)"), QUEUED),
    ("cli release chat", lambda s: None, lambda s: s.cli("release", "chat", "CHAT"), QUEUED),
    ("sql release conversation", lambda s: None, lambda s: s.sql("select release_conversation(9)"), QUEUED),
    ("sql release store", lambda s: None, lambda s: s.sql("select release_store(2)"), QUEUED),
    ("cli release store", lambda s: None, lambda s: s.cli("release", "store", "2"), QUEUED),
    ("sql hours", lambda s: None, lambda s: s.sql("select change_hours(2, %(later)s)"),
     {"release_at": CLOSED_UNTIL[LATER]}),
    ("sql hours by table", lambda s: None,
     lambda s: s.sql("update store_exception_spans set opens = '10:00'"),
     {"release_at": f"{OPENING}T10:00:00.000000Z"}),
    ("rest hours", lambda s: None, lambda s: s.rest("PUT", "/v1/stores/2/hours", hours(LATER)),
     {"release_at": CLOSED_UNTIL[LATER]}),
    ("sql quiet hours", lambda s: None, in_quiet_hours, AFTER_QUIET_HOURS),
    ("rest quiet hours", lambda s: None, lambda s: s.rest("PUT", "/v1/clients/1/quiet-hours", QUIET),
     AFTER_QUIET_HOURS),
    ("rest no quiet hours", in_quiet_hours, lambda s: s.rest("DELETE", "/v1/clients/1/quiet-hours"), NOW_HELD),
    ("sql erase", lambda s: None, lambda s: s.sql("select erase_client(1)"), ERASED),
    ("cli erase", lambda s: None, lambda s: s.cli("erase", "1", "--yes"), ERASED),
]  # fmt: skip


def open_streams(web: Web, db: Connection, *queries: str) -> list[Reader]:
    """Streams of a web process that listens already: it begins to with its first stream."""
    readers = [web.open(query).begin() for query in queries]
    listening = "select count(*) from pg_stat_activity where query = 'listen chat_event' and state = 'idle'"
    eventually(lambda: db.execute(listening).fetchone() == (1,))
    return readers


def changes(db: Connection, *readers: Reader) -> list[list[dict[str, Any]]]:
    """The changes that each stream has reported by now: up to an event that is announced behind them."""
    db.execute("select notify_event('typing', cv, '{}') from conversations cv")
    found: list[list[dict[str, Any]]] = []
    for reader in readers:
        events = iter(reader.events("change", "typing"))
        told = itertools.takewhile(lambda event: event["event"] == "change", events)
        found.append([json.loads(event["data"]) for event in told])
    return found


@pytest.mark.parametrize(("before", "change", "then"), [one[1:] for one in CHANGES], ids=[one[0] for one in CHANGES])
def test_a_change_of_a_waiting_chat_is_told_once(
    scene: Scene, web: Web, before: Callable[[Scene], None], change: Callable[[Scene], None], then: dict[str, Any]
) -> None:
    before(scene)
    readers = open_streams(web, scene.db, "conversation_id=9", "operator_id=2", "store_id=2")
    change(scene)
    for found in changes(scene.db, *readers):
        assert [chat["chat_id"] for chat in found] == [scene.chat_id]
        assert found[0].items() >= then.items()
    for reader in readers:
        reader.close()


def test_a_chat_that_is_given_up_is_told(scene: Scene, web: Web) -> None:
    (reader,) = open_streams(web, scene.db, "conversation_id=9")
    scene.sql("select record_failure(q, 'x', now()) from chat_queue q, generate_series(1, 5)")
    (found,) = changes(scene.db, reader)
    assert [(chat["chat_id"], chat["state"]) for chat in found] == [(scene.chat_id, "failed")]
    reader.close()


def test_a_chat_that_is_taken_back_at_closing_is_told(scene: Scene, web: Web) -> None:
    scene.sql("delete from chat_queue")
    scene.sql('select change_hours(2, \'{"timezone": "UTC", "weekly": {}, "exceptions": []}\')')
    scene.sql("insert into chat_queue values (now(), null, %(chat)s, 9, 1, 2)")
    (reader,) = open_streams(web, scene.db, "conversation_id=9")
    scene.sql("select send_chats()")
    (found,) = changes(scene.db, reader)
    assert [(chat["chat_id"], chat["state"], chat["release_at"]) for chat in found] == [(scene.chat_id, "held", None)]
    reader.close()


def test_the_texts_of_sent_chats_that_are_erased_are_told_too(scene: Scene, web: Web) -> None:
    scene.sql("select release_store(2)")
    scene.sql("select send_chats()")
    (reader,) = open_streams(web, scene.db, "client_id=1")
    scene.sql("select erase_client(1)")
    (found,) = changes(scene.db, reader)
    assert [(chat["state"], chat["payload"]) for chat in found] == [("sent", "[erased]")]
    reader.close()


def test_what_changes_elsewhere_is_not_told(scene: Scene, web: Web) -> None:
    scene.db.execute("select enqueue_chat(10, 2, 2, 'other', 'operator')")
    (reader,) = open_streams(web, scene.db, "conversation_id=10")
    scene.sql("select edit_chat(%(chat)s, 'new'), pause_conversation(9), erase_client(1)")
    assert changes(scene.db, reader) == [[]]
    scene.sql("select pause_store(2)")
    (found,) = changes(scene.db, reader)
    assert [chat["conversation_id"] for chat in found] == [10]
    reader.close()


def test_a_store_of_many_waiting_chats_is_one_notification(scene: Scene, connect: Callable[[], Connection]) -> None:
    scene.db.execute("select enqueue_chat(i, 1, 2, 'x', 'operator') from generate_series(100, 600) i")
    listener = connect()
    listener.execute("listen chat_event")
    scene.sql("select pause_store(2)")
    assert len(list(listener.notifies(timeout=0.5))) == 1
    scene.sql("select cancel_chat(chat_id) from chat_queue where conversation_id < 110")
    assert len(list(listener.notifies(timeout=0.5))) == 11


def test_a_busy_stream_leaves_nothing_out_for_the_others(scene: Scene, web: Web) -> None:
    """All streams of a process are served by one statement, with a limit for each of them."""
    scene.db.execute("select enqueue_chat(20, 2, 2, 'x', 'operator') from generate_series(1, 150)")
    quiet, busy, store = open_streams(web, scene.db, "conversation_id=9", "conversation_id=20", "store_id=2")
    scene.sql("select pause_store(2)")
    found = changes(scene.db, quiet, busy, store)
    assert [len(chats) for chats in found] == [1, 100, 100]
    assert [chat["seq"] for chat in found[1]] == list(range(51, 151)), "the newest"
    for reader in (quiet, busy, store):
        reader.close()


def test_a_malformed_change_is_ignored(scene: Scene, web: Web) -> None:
    (reader,) = open_streams(web, scene.db, "conversation_id=9")
    for data in ("{}", '{"store_id": true}', '{"store_id": 2, "conversation_id": "x"}', '{"chat_ids": 5}',
                 '{"chat_ids": [true]}', '{"chat_ids": ["1"]}', '{"client_id": 99999999999}', "[]"):  # fmt: skip
        event = "json_build_object('event', 'change', 'to', '{}'::json, 'data', %s::json)"
        scene.db.execute(f"select pg_notify('chat_event', {event}::text)", [data])
    scene.sql("select edit_chat(%(chat)s, 'new')")
    (found,) = changes(scene.db, reader)
    assert [chat["payload"] for chat in found] == ["new"]
    reader.close()
