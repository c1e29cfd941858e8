"""Presence: who has a stream open, over all web processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.support.db import Connection, post_and_send
from tests.support.processes import Start, eventually
from tests.support.web import IMPATIENT_APP, Reader, Web


def presence(reader: Reader) -> Iterator[tuple[str, int, bool]]:
    for event in reader.events("presence"):
        data = json.loads(event["data"])
        yield data["party"], data["id"], data["present"]


def first(reader: Reader) -> dict[str, bool]:
    """How a conversation's stream says that things stand when it begins."""
    states = presence(reader)
    return {party: present for party, _, present in (next(states), next(states))}


def settled(reader: Reader, **expected: bool) -> bool:
    """Whether it is told so in the end: one process tells what the other may already have looked for."""
    now: dict[str, bool] = {}
    for party, _, present in presence(reader):
        now[party] = present
        if now == expected:
            break
    return now == expected


def test_a_conversation_shows_who_comes_and_who_leaves_in_whatever_process(
    shop: Connection, web: Web, database: str, start: Start, client: FlaskClient
) -> None:
    post_and_send(shop)
    elsewhere = Web(start, database, app=IMPATIENT_APP)
    desk = web.open("conversation_id=7&as=operator")
    assert first(desk) == {"client": False, "operator": True}
    states = presence(desk)
    window = elsewhere.open("conversation_id=7&as=client")
    assert next(states) == ("client", 1, True)
    assert settled(window, client=True, operator=True)
    now = client.get("/v1/conversations/7").get_json()["present"]
    assert now == {"client": True, "operator": True}
    window.close()
    # Once the server has noticed, and the reader has not come back for some seconds.
    assert next(states) == ("client", 1, False)
    desk.close()


def test_an_operator_is_present_in_every_conversation_of_theirs(shop: Connection, web: Web) -> None:
    post_and_send(shop)
    window = web.open("conversation_id=7&as=client")
    assert first(window) == {"client": True, "operator": False}
    states = presence(window)
    desk = web.open("operator_id=1&as=operator").begin()
    assert next(states) == ("operator", 1, True)
    desk.close()
    window.close()


def keep(db: Connection, process: str, came: list[Any] = [], gone: list[Any] = []) -> None:  # noqa: B006
    def named(places: list[Any]) -> str:
        return json.dumps([dict(zip(("scope", "scope_id", "party"), place, strict=True)) for place in places])

    db.execute("select keep_presence(%s, %s, %s)", [process, named(came), named(gone)])


def told(db: Connection) -> list[tuple[str, bool]]:
    signals = [json.loads(notify.payload)["data"] for notify in db.notifies(timeout=0.2)]
    return [(signal["party"], signal["present"]) for signal in signals]


def test_the_readers_of_a_process_that_died_are_reported_as_away(
    shop: Connection, connect: Callable[[], Connection], client: FlaskClient
) -> None:
    post_and_send(shop)
    hears = connect()
    hears.execute("listen chat_event")
    place = ("conversation_id", 7, "client")
    keep(shop, "dies", came=[place])
    assert told(hears) == [("client", True)]
    assert client.get("/v1/conversations/7").get_json()["present"]["client"] is True
    shop.execute("update web_processes set seen_at = seen_at - interval '31 seconds' where process = 'dies'")
    assert client.get("/v1/conversations/7").get_json()["present"]["client"] is False
    keep(shop, "lives")
    assert told(hears) == [("client", False)]


def test_only_the_first_arrival_and_the_last_departure_are_reported(
    shop: Connection, connect: Callable[[], Connection]
) -> None:
    post_and_send(shop)
    hears = connect()
    hears.execute("listen chat_event")
    place = ("client_id", 1, "client")
    for process, came, gone, expected in (
        ("one", [place], [], [("client", True)]),
        ("two", [place], [], []),
        ("one", [place], [], []),  # its beat
        ("one", [], [place], []),
        ("two", [], [place], [("client", False)]),
    ):
        keep(shop, process, came, gone)
        assert told(hears) == expected, process


@pytest.mark.parametrize("query", ["client_id=1&as=operator", "store_id=1&as=client", "conversation_id=7&as=boss"])
def test_an_impossible_party_is_refused_by_name(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/v1/stream?{query}")
    assert answer.status_code == 400
    assert answer.get_json()["errors"][0]["field"] == "as"


def is_heard(db: Connection) -> bool:
    """Whether the web process's feed listens by now."""
    row = db.execute(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle'"
        " and application_name = 'shoptalk feed' and query like 'listen chat_event%'"
    ).fetchone()
    return row == (1,)


def test_a_strangers_notification_changes_nothing(shop: Connection, web: Web) -> None:
    """Anybody who reaches the database can NOTIFY."""
    post_and_send(shop)
    window = web.open("conversation_id=7&as=client")
    first(window)
    eventually(lambda: is_heard(shop))
    for payload in (
        "",
        "null",
        "[]",
        '{"event": "presence", "data": {}, "to": {"conversation_id": 7}, "scope": ["conversation_id", 7]}',
        '{"event": "chat", "data": {}, "to": {}}',
        '{"event": "presence", "data": {"party": 1}, "to": {}, "scope": [7]}',
        '{"event": "presence", "data": {"party": 1, "present": 1}, "to": {"conversation_id": 7}, "scope": ["x", 1]}',
        '{"event": "typing", "data": {}, "to": {"conversation_id": "seven"}}',
        "[" * 5000,
    ):
        shop.execute("select pg_notify('chat_event', %s)", [payload])
    post_and_send(shop, payload="after")
    assert window.chats(1)[0]["payload"] == "after"
    window.close()
