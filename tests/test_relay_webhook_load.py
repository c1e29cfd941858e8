"""Webhooks when relays are killed or stopped, connections are cut, and reads take long."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest
from flask.testing import FlaskClient

from tests.support.db import Connection, enqueue
from tests.support.processes import Start, eventually
from tests.support.proxy import Proxy
from tests.support.relay import SECRET, Receiver, put_webhook, read_channel, send_all, start_relay, status

pytestmark = pytest.mark.system


def test_a_relay_that_is_stopped_starts_no_more_chats_and_repeats_none(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    def take_your_time(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.5)  # 100 of them, eight at once, take twice as long as a stopping relay waits
        status(200)(handler)

    receiver.otherwise = take_your_time
    put_webhook(client, receiver)
    conversations = send_all(shop, 1, 100)
    process = start_relay(start, database)
    eventually(lambda: len(receiver.got) >= 16)
    assert process.end() == 0
    assert len(receiver.got) < 100
    receiver.otherwise = status(200)
    start_relay(start, database)
    eventually(lambda: len(receiver.got) >= 100)
    receiver.check(conversations)
    eventually(lambda: read_channel(client)["behind"] == 0)
    assert len(receiver.got) == 100


def test_leases_are_renewed_however_long_reads_of_the_log_take(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    for number in range(4):  # as many as the relay has threads for reads
        body = {"kind": "webhook", "url": receiver.url, "secret": SECRET}
        assert client.put(f"/v1/stores/1/channels/c{number}", json=body).status_code == 201
    send_all(shop, 1)
    shop.execute(
        """create sequence gate;
           create function wait_at_gate() returns boolean language plpgsql as $$ begin
             while (select is_called from gate) loop perform pg_sleep(0.05); end loop; return true; end $$;
           select nextval('gate');
           alter table conversations rename to gated;
           create view conversations as select * from gated where wait_at_gate()"""
    )
    start_relay(start, database)

    def reads() -> list[tuple[object, ...]]:
        reading = "select pid, xact_start from pg_stat_activity where application_name = 'shoptalk relay'"
        return shop.execute(f"{reading} and state = 'active' and query ~ 'entries as' order by pid").fetchall()

    def leases() -> set[object]:
        return {until for (until,) in shop.execute("select lease_until from channels")}

    eventually(lambda: len(reads()) == 4)
    waiting = reads()
    for _ in range(2):
        before = leases()
        eventually(lambda: not leases() & before)  # noqa: B023
    assert reads() == waiting
    shop.execute("select setval('gate', 1, false)")
    eventually(lambda: len(receiver.got) == 4)


def test_two_relays_one_killed_and_one_stopped_for_a_while_lose_nothing_and_keep_order(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    put_webhook(client, receiver)
    relays = [start_relay(start, database), start_relay(start, database)]
    for turn in range(2):
        conversations = send_all(shop, 30, 20)
        eventually(lambda turn=turn: len(receiver.got) > 600 * turn + 100)  # type: ignore[misc]
        pid = shop.execute("select leased_by from channels").fetchone()[0]  # type: ignore[index]
        owner = next((r for r in relays if pid and pid.endswith(f":{r.popen.pid}")), relays[turn])
        owner.popen.send_signal(signal.SIGKILL if turn == 0 else signal.SIGSTOP)
        eventually(lambda turn=turn: len({c["chat_id"] for c in receiver.got}) == 600 * (turn + 1))  # type: ignore[misc]
        receiver.check(conversations)
        if turn == 0:
            relays[relays.index(owner)] = start_relay(start, database)
        else:
            cursor = read_channel(client)["cursor"]
            owner.popen.send_signal(signal.SIGCONT)
            conversations = send_all(shop, 1, 1)
            eventually(lambda: read_channel(client)["behind"] == 0)
            receiver.check(conversations)
            assert read_channel(client)["cursor"] > cursor
    by_id = defaultdict(set)
    for chat in receiver.got:
        by_id[chat["chat_id"]].add((chat["conversation_id"], chat["seq"]))
    assert all(len(content) == 1 for content in by_id.values())


def test_connections_cut_in_mid_batch_lose_nothing(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver,
    proxy: Callable[[str, int], Proxy],
) -> None:  # fmt: skip
    line = proxy("127.0.0.1", receiver.server.server_port)
    put_webhook(client, receiver, url=f"http://127.0.0.1:{line.port}/hook")
    start_relay(start, database)
    for turn in range(1, 4):
        before = line.connections
        line.cut(after_bytes=20_000)  # some thirty chats of a hundred
        conversations = send_all(shop, 10, 10)
        eventually(lambda turn=turn: len({chat["chat_id"] for chat in receiver.got}) == 100 * turn)  # type: ignore[misc]
        assert line.connections > before
    receiver.check(conversations)
    repeats = len(receiver.got) - 300
    assert repeats <= 3 * 8, "a chat that was answered in time is never repeated"


def test_a_dead_letter_whose_commit_failed_is_recorded_in_the_end(
    shop: Connection, client: FlaskClient, database: str, start: Start, receiver: Receiver
) -> None:
    """The chat is ahead of one that is still retried, so the cursor does not bring it back; it must not be skipped."""
    put_webhook(client, receiver)
    enqueue(shop, 7)
    rejected = enqueue(shop, 8).chat_id
    receiver.otherwise, receiver.refuses = status(500), {rejected}
    shop.execute(
        """create sequence tries;
           create function fail_once() returns trigger language plpgsql as $$ begin
             if nextval('tries') = 1 then raise 'deadlock' using errcode = '40P01'; end if; return new; end $$;
           create trigger fail_once before insert on channel_dead_letters for each row execute function fail_once()"""
    )
    shop.execute("select send_chats()")
    start_relay(start, database)
    eventually(lambda: read_channel(client)["dead_letters"] == 1)
    assert shop.execute("select last_value from tries").fetchone() == (2,)
