"""`shoptalk`: every command, its errors, and its exit status."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import psycopg
import pytest

from cli import main as cli_main
from tests.support.cli import Shoptalk
from tests.support.db import AsRole, Connection, clock, enqueue, poison, send_batch, sent, states
from tests.support.processes import ROOT


def commands(group: click.Group = cli_main.shoptalk, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join([*path, name]), command


ALL = dict(commands())


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert not [name for name in ALL if f"`shoptalk {name}" not in text and f"shoptalk {name}" not in text]


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_json_and_a_help_with_examples(shoptalk: Shoptalk, name: str) -> None:
    assert any("--json" in parameter.opts for parameter in ALL[name].params)
    answer = shoptalk(*name.split(), "--help")
    assert answer.status == 0
    assert f"shoptalk {name}" in answer.out.partition("Examples:")[2]


def test_the_program_is_installed_and_runs_from_the_checkout(shop: Connection, database: str) -> None:
    assert "shoptalk = cli.main:main" in (ROOT / "setup.cfg").read_text()
    for command in ([sys.executable, "-m", "cli"], [str(ROOT / "bin" / "shoptalk")]):
        done = subprocess.run(
            [*command, "status", "--json"], cwd=ROOT, env={"DATABASE_URL": database, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert {state["state"] for state in json.loads(done.stdout)["states"]} >= {"held", "queued", "sent"}


def test_status_shows_the_queue_and_pauses(shop: Connection, shoptalk: Shoptalk) -> None:
    enqueue(shop, 7)
    enqueue(shop, 8)
    shop.execute("select pause_conversation(8)")
    shop.execute("insert into channels (store_id, name, kind, cursor) values (1, 'crm', 'webhook', 0)")
    shop.execute("select pause_channel('crm', 1), sample_queue()")
    found = shoptalk("status", "--json").json
    assert {s["state"]: s["chats"] for s in found["states"]} == {
        "held": 1, "queued": 1, "sent": 0, "failed": 0, "cancelled": 0}  # fmt: skip
    assert [(p["kind"], p["id"], p["waiting"]) for p in found["paused"]] == [("conversation", 8, 1)]
    assert [(c["name"], c["state"]) for c in found["channels"]] == [("crm", "paused")]
    dt.datetime.fromisoformat(found["worker_seen_at"])
    text = shoptalk("status").out
    assert "queued" in text
    assert "paused: conversation 8" in text
    assert "channel crm of store 1: paused" in text


def test_the_inspector_can_see_the_status(
    shop: Connection, as_role: AsRole, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", as_role("inspector"))
    assert shoptalk("status").status == 0
    answer = shoptalk("pause", "store", "1")
    assert answer.status == 3
    assert "needs the owner of the schema" in answer.err


def test_pause_and_resume(shop: Connection, shoptalk: Shoptalk) -> None:
    enqueue(shop, 7)
    assert shoptalk("pause", "store", "1").out == "store 1 is paused, waiting: 1 chat\n"
    assert shoptalk("pause", "conversation", "7", "--json").json == {"conversation": 7, "chats": 1}
    send_batch(shop)
    assert sent(shop) == []
    assert shoptalk("resume", "store", "1", "--json").json == {"store": 1, "chats": 1}
    assert shoptalk("resume", "conversation", "7").status == 0
    send_batch(shop)
    assert sent(shop) == [(7, 1)]
    answer = shoptalk("pause", "store", "99")
    assert (answer.status, answer.err) == (1, "shoptalk: there is no store 99\n")


def test_release(shop: Connection, shoptalk: Shoptalk) -> None:
    shop.execute("update store_hours set closes = opens where store_id = 2")
    shop.execute("delete from store_hours where store_id = 2")
    ids = [enqueue(shop, conversation, operator=2).chat_id for conversation in (7, 8, 9, 9)]
    assert shoptalk("release", "chat", str(ids[2]), "--json").json == {"chat": ids[2], "chats": 1}
    assert shoptalk("release", "conversation", "7").status == 0
    assert shoptalk("release", "store", "2").out == "store 2 is released: 2 chats\n"
    send_batch(shop)
    assert len(sent(shop)) == 4
    assert shoptalk("release", "chat", str(ids[0])).err == f"shoptalk: chat {ids[0]} is not held\n"
    assert shoptalk("release", "store", str(2**40)).status == 1


def test_cancel_reports_each_chat_that_it_cannot_cancel(shop: Connection, shoptalk: Shoptalk) -> None:
    first = enqueue(shop, 7).chat_id
    send_batch(shop)
    second = enqueue(shop, 7).chat_id
    answer = shoptalk("cancel", str(first), str(second), "99", "--json")
    assert answer.status == 1
    assert [(a["chat_id"], a["cancelled"]) for a in answer.json] == [(first, False), (second, True), (99, False)]
    assert answer.json[0]["reason"] == f"chat {first} is sent and cannot be cancelled"
    assert states(shop) == ["sent", "cancelled"]
    assert shoptalk("cancel", str(second)).status == 0


def test_a_locked_chat_does_not_stop_the_others(
    shop: Connection, connect: Callable[[], Connection], shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.session.LOCK_SECONDS", 1)
    ids = [enqueue(shop, conversation).chat_id for conversation in (7, 8, 9)]
    shop.execute("listen chat_event")
    other = connect()
    with other.transaction():
        other.execute("select from chat_queue where conversation_id = 8 for update")
        answer = shoptalk("cancel", *map(str, ids))
    assert answer.status == 1
    first, second, third = answer.out.splitlines()
    assert (first, third) == (f"cancelled: chat {ids[0]}", f"cancelled: chat {ids[2]}")
    assert second.startswith(f"not cancelled: another session has locked chat {ids[1]}")
    assert states(shop) == ["cancelled", "queued", "cancelled"]
    assert told(shop, 2) == [[ids[0]], [ids[2]]]


def test_changes_before_ctrl_c_are_reported_and_announced(
    shop: Connection, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [enqueue(shop, conversation).chat_id for conversation in (7, 8)]
    shop.execute("listen chat_event")
    echo = click.echo

    def stop_after_first(text: str, **options: Any) -> None:
        echo(text, **options)
        if text == f"cancelled: chat {ids[0]}":
            raise KeyboardInterrupt

    monkeypatch.setattr("cli.queue.click.echo", stop_after_first)
    answer = shoptalk("cancel", *map(str, ids))
    assert (answer.status, answer.out) == (1, f"cancelled: chat {ids[0]}\n")
    assert answer.err.endswith("shoptalk: stopped; changes made so far are kept\n")
    assert told(shop, 1) == [[ids[0]]]
    assert states(shop) == ["cancelled", "queued"]


def told(db: Connection, notifications: int) -> list[list[int]]:
    """The chats that the next notifications to open pages name."""
    heard = db.notifies(timeout=5, stop_after=notifications)
    return [json.loads(notice.payload)["data"]["chat_ids"] for notice in heard]


def sent_long_ago(db: Connection, chats: int) -> None:
    for _ in range(chats):
        enqueue(db, 7)
    send_batch(db)
    db.execute("update sent_log set sent_at = now() - interval '1 year'")


def test_a_stopped_prune_says_that_its_changes_are_kept(
    shop: Connection, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_long_ago(shop, 4)

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cli.prune.CHATS", 1)
    monkeypatch.setattr("cli.prune.time.sleep", stop)
    answer = shoptalk("prune", "--older-than", "90d")
    assert answer.status == 1
    assert answer.err.endswith("shoptalk: stopped; changes made so far are kept\n")
    assert len(sent(shop)) == 3


def test_a_prune_during_which_another_one_starts(
    shop: Connection, connect: Callable[[], Connection], shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent_long_ago(shop, 4)
    other, pauses = connect(), itertools.count()

    def meanwhile(_: float) -> None:
        function = {0: "pg_advisory_lock", 2: "pg_advisory_unlock"}.get(next(pauses))
        if function:
            other.execute(f"select {function}(prune_lock())")

    monkeypatch.setattr("cli.prune.CHATS", 1)
    monkeypatch.setattr("cli.prune.time.sleep", meanwhile)
    answer = shoptalk("prune", "--older-than", "90d")
    assert (answer.status, answer.out) == (0, "removed: 3 chats sent, 0 chats cancelled\n")
    other.execute("select pg_advisory_lock(prune_lock())")
    answer = shoptalk("prune", "--older-than", "90d")
    assert (answer.status, answer.err) == (1, "shoptalk: another prune is running\n")

    other.execute("select pg_advisory_unlock(prune_lock())")
    sent_long_ago(shop, 4)
    pauses = itertools.chain([0], itertools.repeat(1))
    monkeypatch.setattr("cli.prune.OTHERS_SECONDS", 0.1)
    answer = shoptalk("prune", "--older-than", "90d")
    assert (answer.status, "the chats removed so far stay removed" in answer.err) == (1, True)


def test_open_pages_hear_of_a_cancellation(shop: Connection, shoptalk: Shoptalk) -> None:
    chat = enqueue(shop, 7).chat_id
    shop.execute("listen chat_event")
    shoptalk("cancel", str(chat))
    assert told(shop, 1) == [[chat]]


def test_requeue(shop: Connection, shoptalk: Shoptalk) -> None:
    clock(shop, "2026-03-02 10:00")
    poison(shop)
    ids = [enqueue(shop, conversation, "bad", operator=op).chat_id for conversation, op in ((7, 1), (8, 2), (9, 2))]
    for hour in range(11, 16):
        clock(shop, f"2026-03-02 {hour}:00")
        shop.execute("update chat_queue set any_hour = true")
        send_batch(shop)
    assert states(shop) == ["failed"] * 3
    assert shoptalk("requeue", str(ids[0])).out == f"requeued: chat {ids[0]}\n"
    assert shoptalk("requeue", str(ids[0])).err.endswith("1 of 1 chat not requeued\n")
    assert shoptalk("requeue", "--all", "--store", "1", "--json").json == {"requeued": 0}
    shop.execute("listen chat_event")
    assert shoptalk("requeue", "--all", "--store", "2").out == "requeued: 2 chats\n"
    assert sorted(told(shop, 2)) == [[id] for id in ids[1:]]
    assert shoptalk("requeue", "--all").out == "requeued: 0 chats\n"
    assert "failed" not in states(shop)
    for wrong in ([], ["--all", "7"], ["7", "--store", "1"]):
        assert shoptalk("requeue", *wrong).status == 2


def test_hours(shop: Connection, shoptalk: Shoptalk) -> None:
    shop.execute("select close_on(2, '{2026-12-25}', '{Christmas}')")
    assert shoptalk("hours", "show", "2", "--json").json["weekly"]["mon"] == [["09:00", "14:00"]]
    text = shoptalk("hours", "show", "2").out
    assert "mon  09:00-14:00" in text
    assert "2026-12-25  closed  Christmas" in text
    explained = shoptalk("hours", "explain", "2", "--at", "2026-12-25T10:00:00Z")
    assert "store 2 is closed" in explained.out
    assert "according to exception Christmas: fri 2026-12-25, closed all day" in explained.out
    assert "next opening 2026-12-26 09:00:00 UTC" in explained.out
    shop.execute("select pause_store(2)")
    assert "shoptalk resume store 2" in shoptalk("hours", "explain", "2").out
    assert shoptalk("hours", "explain", "2", "--at", "noon").status == 2
    assert shoptalk("hours", "show", "99").err == "shoptalk: there is no store 99\n"
    assert shoptalk("hours", "explain", "99").status == 1


def test_keys(shop: Connection, shoptalk: Shoptalk) -> None:
    key = shoptalk("keys", "make", "till", "--scope", "send", "--store", "1").out.strip()
    assert key.startswith("shoptalk_")
    (listed,) = shoptalk("keys", "list", "--json").json
    assert (listed["name"], listed["scopes"], listed["store_id"]) == ("till", ["send"], 1)
    assert key not in shoptalk("keys", "list").out
    assert shoptalk("keys", "make", "till").err == "shoptalk: there is already a key till\n"
    assert shoptalk("keys", "revoke", "till").status == 0
    assert shoptalk("keys", "revoke", "till", "--json").status == 1
    assert shoptalk("keys", "rotate", "--forget", "--json").json == {"rotated": True, "forgotten": True}


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("host=127.0.0.1 port=1 dbname=x", "cannot reach the database"),
        ("not a url", "cannot reach the database"),
        ("postgresql://shop:50%off@127.0.0.1/shop", "percent-encode its password"),
    ],
)
def test_a_database_that_cannot_be_reached(
    shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch, url: str, error: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    answer = shoptalk("status")
    assert answer.status == 3
    assert error in answer.err
    assert "Traceback" not in answer.err
    assert "50%off" not in answer.err


def test_a_database_without_our_schema(server: str, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", psycopg.conninfo.make_conninfo(server, dbname="template1"))
    answer = shoptalk("status")
    assert answer.status == 3
    assert "has no schema yet" in answer.err


def test_a_lock_that_is_held_too_long(
    shop: Connection, connect: Callable[[], Connection], shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.session.LOCK_SECONDS", 1)
    enqueue(shop, 7)
    other = connect()
    with other.transaction():
        other.execute("select from conversations for update")
        answer = shoptalk("pause", "conversation", "7")
    assert answer.status == 3
    assert "another session holds a lock" in answer.err


def test_without_a_database_url_it_is_the_embedded_one_that_bin_run_made(
    shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.setenv("SHOPTALK_DATA", str(tmp_path / "none"))
    answer = shoptalk("status")
    assert (answer.status, "start bin/run once" in answer.err) == (3, True)
