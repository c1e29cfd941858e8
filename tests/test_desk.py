"""What the desk reads and writes over REST: the lists, the store's hours, read marks, typing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from sql.database import make_engine, query
from tests.support.api import at_fault, problem
from tests.support.db import Connection, enqueue
from tests.support.processes import eventually


def listed(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return list(answer.get_json()["conversations"])


def mark(client: FlaskClient, conversation: int, reader: str, seq: int) -> Any:
    return client.put(f"/v1/conversations/{conversation}/read", json={"reader": reader, "seq": seq})


@pytest.mark.parametrize("path", ["/v1/operators/1/conversations", "/v1/stores/1/conversations"])
def test_a_desk_lists_its_conversations_newest_activity_first(shop: Connection, client: FlaskClient, path: str) -> None:
    for conversation in (7, 8, 9, 7):
        enqueue(shop, conversation, f"to {conversation}")
    enqueue(shop, 10, "another store's", client=2, operator=2)
    shop.execute("select send_chats()")
    enqueue(shop, 8, "queued")
    answer = client.get(path).get_json()
    assert [c["conversation_id"] for c in answer["conversations"]] == [8, 7, 9]
    (latest,) = shop.execute("select max(position) from sent_log").fetchone() or ()
    assert answer["cursor"] == str(latest)  # 4 or 5: store 2 may be open just now
    first = answer["conversations"][0]
    chat = first.pop("last_chat")
    assert chat == {k: v for k, v in client.get(f"/v1/chats/{chat['chat_id']}").get_json().items() if k != "sent_at"}
    assert (chat["payload"], chat["seq"], chat["state"]) == ("queued", 2, "queued")
    assert first == {
        "conversation_id": 8, "store_id": 1, "client_id": 1, "username": "Ann", "operator_id": 1,
        "operator_name": "Olga", "operator_group": "day", "read": {"client": 0, "operator": 0},
        "unread": {"client": 0, "operator": 1},
    }  # fmt: skip


def test_a_list_of_many_chats_counts_as_activity_too(shop: Connection, client: FlaskClient) -> None:
    for conversation in (7, 8):
        enqueue(shop, conversation, "x")
    client.post("/v1/chats", json=[{"conversation_id": 7, "client_id": 1, "operator_id": 1, "payload": "x"}] * 2)
    assert [c["conversation_id"] for c in listed(client, "/v1/stores/1/conversations")] == [7, 8]


def test_unread_is_what_the_other_party_sent_above_the_mark(shop: Connection, client: FlaskClient) -> None:
    for sender in ("client", "operator", "client", "client"):
        enqueue(shop, 7, "x", sender=sender)
    shop.execute("select send_chats()")
    enqueue(shop, 7, "not sent yet")
    unread = lambda: listed(client, "/v1/stores/1/conversations")[0]["unread"]  # noqa: E731
    assert unread() == {"client": 1, "operator": 3}
    assert mark(client, 7, "operator", 3).get_json() == {"conversation_id": 7, "reader": "operator", "seq": 3}
    assert unread() == {"client": 1, "operator": 1}
    assert mark(client, 7, "client", 2).status_code == 200
    assert unread() == {"client": 0, "operator": 1}
    assert listed(client, "/v1/operators/1/conversations")[0]["read"] == {"client": 2, "operator": 3}


def test_unread_is_counted_up_to_a_hundred(shop: Connection, client: FlaskClient) -> None:
    shop.execute("select enqueue_chat(7, 1, 1, 'x') from generate_series(1, 150)")
    shop.execute("select send_chats()")
    assert listed(client, "/v1/stores/1/conversations")[0]["unread"] == {"client": 0, "operator": 100}


def test_pages_go_back_through_all_conversations_once(shop: Connection, client: FlaskClient) -> None:
    with shop.transaction():  # all at one instant, so that the id decides
        shop.execute("set local shoptalk.now = '2026-03-02 10:00+00'")
        for conversation in range(1, 8):
            enqueue(shop, conversation, "x")
    path, seen = "/v1/operators/1/conversations?limit=3", []
    while path:
        answer = client.get(path)
        seen.append([c["conversation_id"] for c in answer.get_json()["conversations"]])
        link = re.fullmatch('<(.*)>; rel="next"', answer.headers.get("Link", ""))
        path = link[1] if link else ""
    assert seen == [[7, 6, 5], [4, 3, 2], [1]]


def test_an_empty_desk_is_no_missing_one(shop: Connection, client: FlaskClient) -> None:
    assert client.get("/v1/operators/2/conversations").get_json() == {"conversations": [], "cursor": "0"}
    problem(client.get("/v1/operators/3/conversations"), 404)
    problem(client.get("/v1/stores/3/conversations"), 404)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "before=", "before=x", "before=1", "before=1-", "before=-1-1",
              "before=²-1", "before=" + "9" * 17 + "-1", "before=1-" + "9" * 11],
)  # fmt: skip
def test_a_bad_page_of_a_desk_names_the_parameter(shop: Connection, client: FlaskClient, query: str) -> None:
    assert at_fault(client.get("/v1/stores/1/conversations?" + query)) == {query.split("=")[0]}


def test_a_desk_of_100_000_conversations_reads_only_the_chats_of_its_page(shop: Connection, database: str) -> None:
    """By the plan's own counts, without statistics and with them: no table but conversations is walked."""
    shop.execute("""
        insert into conversations select g, 1, 1, 1, 'day', 3, now() + g * interval '1 s'
          from generate_series(1, 100000) g;
        insert into chats select g * 10 + n, g, n, 'client', 'x', 1, 1, now()
          from generate_series(1, 100000) g, generate_series(1, 3) n where g > 90000;
        insert into sent_log select row_number() over (), chat_id, conversation_id, seq, now() from chats;
    """)
    engine = make_engine(database, "test", pool_size=1)
    bounds = {"operator_id": 1, "store_id": None, "before_at": "infinity", "before_id": 2**31 - 1, "page": 51}
    explain = "explain (analyze, timing off, format json) " + str(query("api/list_conversations"))
    for prepare in ("reset all", "analyze"):
        shop.execute(prepare)
        with engine.connect() as connection:
            plan = connection.execute(sa.text(explain), bounds).scalar_one()
        walked = [
            node for node in nodes(plan[0]["Plan"])
            if node.get("Relation Name") not in (None, "conversations", "operators", "clients", "stores")
            and node["Actual Rows"] * node["Actual Loops"] > 51 * 3
        ]  # fmt: skip
        assert not walked, json.dumps(plan)
    engine.dispose()


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", []) for node in nodes(part))]


def test_a_store_says_whether_it_is_open_and_until_when(shop: Connection, client: FlaskClient) -> None:
    def store(number: int, now: str) -> dict[str, Any]:
        shop.execute(f"""do $$ begin
            execute format('alter database %I set shoptalk.now = %L', current_database(), '{now}+00');
        end $$""")
        client.application.extensions["shoptalk"].engine.dispose()  # the setting is of new sessions
        return dict(client.get(f"/v1/stores/{number}").get_json())

    at = lambda day, time: f"2026-03-{day}T{time}:00.000000Z"  # noqa: E731
    assert store(2, "2026-03-02 03:00") == {
        "store_id": 2, "timezone": "UTC", "open": False, "opens_at": at("02", "09:00"), "closes_at": at("02", "14:00"),
    }  # fmt: skip
    assert store(2, "2026-03-02 09:00") == {
        "store_id": 2, "timezone": "UTC", "open": True, "opens_at": at("03", "09:00"), "closes_at": at("02", "14:00"),
    }  # fmt: skip
    assert store(1, "2026-03-02 03:00") == {
        "store_id": 1, "timezone": "UTC", "open": True, "opens_at": None, "closes_at": None}  # fmt: skip


def test_the_queue_has_a_history_of_an_hour(shop: Connection, client: FlaskClient) -> None:
    assert "history" not in client.get("/v1/queue").get_json()
    enqueue(shop, 7, "x")
    for hour, minute, second in ((-30, 0, 0), (-2, 0, 0), (-1, 30, 0), (0, -1, 0), (0, 0, 0)):
        at = f"now() + interval '{hour} h {minute} min {second} s'"
        shop.execute(f"select set_config('shoptalk.now', ({at})::text, false), sample_queue(), sample_queue()")
    shop.execute("select set_config('shoptalk.now', '', false)")
    history = client.get("/v1/queue?history=true").get_json()["history"]
    assert [sample | {"at": ""} for sample in history] == [
        {"at": "", "held": 0, "queued": 1, "failed": 0, "sent": 0}] * 3  # fmt: skip
    assert [sample["at"] for sample in history] == sorted({sample["at"] for sample in history})
    assert shop.execute("select count(*) from queue_samples").fetchone() == (4,)  # the oldest is forgotten
    assert at_fault(client.get("/v1/queue?history=yes")) == {"history"}


def test_the_worker_samples_the_queue(shop: Connection, database: str, start: Any) -> None:
    start("worker", DATABASE_URL=database)
    eventually(lambda: shop.execute("select count(*) from queue_samples").fetchone() == (1,))


def test_a_read_mark_never_goes_back(shop: Connection, client: FlaskClient) -> None:
    for _ in range(3):
        enqueue(shop, 7, "x")
    assert [mark(client, 7, "client", seq).get_json()["seq"] for seq in (2, 1, 3, 3)] == [2, 2, 3, 3]
    assert client.get("/v1/conversations/7").get_json()["read"] == {"client": 3, "operator": 0}
    assert at_fault(mark(client, 7, "client", 4), 409) == {"seq"}
    problem(mark(client, 8, "client", 1), 404)
    problem(client.put("/v1/conversations/x/read", json={"reader": "client", "seq": 1}), 404)


def test_a_conversation_says_who_is_in_it(shop: Connection, client: FlaskClient) -> None:
    enqueue(shop, 7, "x")
    conversation = client.get("/v1/conversations/7").get_json()
    assert (conversation["username"], conversation["operator_name"], conversation["timezone"]) == ("Ann", "Olga", "UTC")


def test_typing_is_not_stored_and_needs_a_conversation(shop: Connection, client: FlaskClient) -> None:
    enqueue(shop, 7, "x")
    for _ in range(2):
        answer = client.post("/v1/conversations/7/typing", json={"sender": "client"})
        assert (answer.status_code, answer.data) == (204, b"")
    problem(client.post("/v1/conversations/8/typing", json={"sender": "client"}), 404)
    problem(client.post("/v1/conversations/x/typing", json={"sender": "client"}), 404)
