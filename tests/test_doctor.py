"""`shoptalk doctor`: it finds each problem, its fix works, and it finds nothing on a healthy system."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
import signal
import struct
import time
import zoneinfo
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import testing.postgresql
from psycopg.types.json import Jsonb

from cli.examination import Check, CheckContext, Finding
from cli.output import mask_passwords
from sql.install import VERSION, file_digests, prepare
from tests.support.cli import Shoptalk
from tests.support.db import AsRole, Connection, Postgresql, enqueue, on
from tests.support.processes import Start, eventually, free_port

Row = dict[str, Any]
Doctor = Callable[..., list[Row]]


class Own(Postgresql):
    """A server for this file alone: it has no other sessions, and its settings can be changed."""

    DEFAULT_SETTINGS = {  # noqa: RUF012
        **Postgresql.DEFAULT_SETTINGS,
        "postgres_args": "-h 127.0.0.1 -c max_connections=24 -c max_prepared_transactions=5 -c wal_level=logical"
        " -c max_notify_queue_pages=64 -c autovacuum_naptime=1h",
    }

    def terminate(self, *_: object) -> None:
        super(testing.postgresql.Postgresql, self).terminate(signal.SIGQUIT)  # no test needs it again

    def initialize_database(self) -> None:
        super().initialize_database()
        with (Path(self.get_data_directory()) / "postgresql.conf").open("a") as settings:
            settings.write("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with Own() as own:
        yield own.url(database="postgres")


@pytest.fixture(scope="module")
def one_database(server: str) -> str:
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute("create database shop")
    prepare(on(server, "shop"))
    return on(server, "shop")


@pytest.fixture
def database(one_database: str) -> str:
    """One database, emptied for each test: on a busy machine creating one takes a second."""
    with psycopg.connect(one_database, autocommit=True) as admin:
        admin.execute("set session_replication_role = replica")
        admin.execute(
            "do $$ declare name text; begin for name in select tablename from pg_tables where schemaname = 'public'"
            " and tablename <> 'schema_version' loop execute 'delete from ' || name; end loop; end $$"
        )
        admin.execute("select pg_stat_reset()")  # the dead rows of all tests together would be a finding
    return one_database


@pytest.fixture
def well(shop: Connection) -> Connection:
    """The shop, with a worker that was just seen."""
    shop.execute("select sample_queue()")
    return shop


@pytest.fixture
def doctor(shoptalk: Shoptalk) -> Doctor:
    """Returns findings that are not ok, of these checks, or of all but durability, whose settings make tests fast."""

    def doctor(*checks: str) -> list[Row]:
        answer = shoptalk("doctor", "--json", *checks)
        found = answer.json["findings"]
        assert answer.status == int(any(row["status"] == "problem" for row in found)), answer
        assert all(row["text"] and bool(row["fix"]) == (row["status"] != "ok") for row in found)
        chosen = set(checks) or {row["check"] for row in found} - {"durability"}
        return [row for row in found if row["status"] != "ok" and row["check"] in chosen]

    return doctor


def fix(db: Connection, found: Row) -> None:
    """Executes the fix, as psql would."""
    for statement in found["fix"].partition(", or, ")[0].partition("; has no effect")[0].split("; "):
        db.execute(statement)


@pytest.fixture
def durable(shop: Connection, doctor: Doctor) -> Iterator[None]:
    """Applies the fixes of the check durability."""
    found = doctor("durability")
    assert [row["text"].partition(":")[0] for row in found] == [
        "fsync is off", "full_page_writes is off", "synchronous_commit is off"]  # fmt: skip
    for row in found:
        fix(shop, row)
    eventually(lambda: doctor("durability") == [], 10)
    yield
    shop.execute("alter system reset all")
    shop.execute("select pg_reload_conf()")


# No findings -------------------------------------------------------------------------------------------


def test_a_healthy_system_has_no_findings(
    shop: Connection,
    database: str,
    start: Start,
    shoptalk: Shoptalk,
    doctor: Doctor,
    durable: None,
) -> None:
    worker, relay = start("worker", DATABASE_URL=database), start("relay", DATABASE_URL=database)
    worker.expect("listening")
    relay.expect("started")
    shop.execute("insert into channels (store_id, name, kind, cursor) values (null, 'amqp', 'amqp', 0)")
    shop.execute("update stores set timezone = 'Europe/Oslo' where store_id = 2")
    listeners = "select count(*) from pg_stat_activity where application_name ~ '^shoptalk (worker|relay) listener$'"
    eventually(lambda: shop.execute(listeners).fetchone() == (2,))
    eventually(lambda: shop.execute("select count(*) from queue_samples").fetchone() == (1,))
    began = time.monotonic()
    answer = shoptalk("doctor", "--json")
    assert time.monotonic() - began < 5
    assert [row for row in answer.json["findings"] if row["status"] != "ok"] == []
    assert (answer.status, answer.err) == (0, "")
    assert "listening now: worker,relay" in answer.out
    assert len({row["check"] for row in answer.json["findings"]}) == 19


def test_warnings_are_not_a_failure_and_the_table_shows_the_fixes(
    well: Connection,
    shoptalk: Shoptalk,
    durable: None,
) -> None:
    well.execute("select pause_store(2)")
    answer = shoptalk("doctor")
    assert answer.status == 0
    assert "warning  paused         store 2 is paused since" in answer.out
    assert "\n                        -> if that is a mistake: shoptalk resume store 2\n" in answer.out
    assert answer.out.endswith("ok, 1 warning\n")


# The way to the database ---------------------------------------------------------------------------------


def test_functions_of_another_release(shop: Connection, doctor: Doctor) -> None:
    shop.execute("update schema_version set functions = '{}'")
    (server,) = doctor("server")
    shop.execute("update schema_version set functions = %s", [Jsonb(file_digests())])
    assert (server["status"], server["fix"]) == ("warning", "shoptalk migrate")
    assert "other functions" in server["text"]


@pytest.mark.parametrize(
    ("version", "status", "fix"),
    [
        (VERSION - 1, "problem", "shoptalk migrate"),
        (VERSION + 1, "warning", "run the newer release"),
        (VERSION + 2, "problem", "run the newer release"),
    ],
)
def test_a_schema_of_another_version(well: Connection, doctor: Doctor, version: int, status: str, fix: str) -> None:
    well.execute("update schema_version set version = %s", [version])
    found = doctor("server")[0]
    well.execute("update schema_version set version = %s", [VERSION])
    assert found["status"] == status
    assert fix in found["fix"]


def test_a_database_without_our_schema(server: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", on(server, "postgres"))
    found = doctor()
    assert [(row["check"], row["fix"].endswith("python -m sql")) for row in found if row["status"] == "problem"] == [
        ("server", True)
    ]
    assert {row["status"] for row in found} == {"problem", "unknown"}


def test_a_setting_that_stops_processes_from_starting(
    well: Connection, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPTALK_HOURS", "9-5")
    assert [(row["check"], "SHOPTALK_HOURS=9-5" in row["text"]) for row in doctor()] == [("settings", True)]
    monkeypatch.delenv("SHOPTALK_HOURS")
    monkeypatch.setenv("SHOPTALK_LOG", "JSON")
    assert [(row["check"], "SHOPTALK_LOG=JSON" in row["text"]) for row in doctor()] == [("settings", True)]


def test_a_host_that_lets_other_machines_in_without_a_key(
    well: Connection, doctor: Doctor, as_role: AsRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("DATABASE_URL", as_role("inspector"))
    (found,) = doctor("settings")
    assert (found["status"], "shoptalk keys make" in found["fix"]) == ("problem", True)
    well.execute("select make_key('shop')")
    assert doctor("settings") == []
    well.execute("select revoke_key('shop')")
    assert [row["status"] for row in doctor("settings")] == ["problem"]
    monkeypatch.setenv("SHOPTALK_API_KEYS", "k" * 32)
    assert doctor("settings") == []


def test_a_pooler_in_transaction_mode_needs_a_direct_connection(
    well: Connection,
    pooler: str,
    database: str,
    server: str,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", pooler)
    pool, listener = doctor("pooler", "listeners")
    assert (pool["check"], listener["check"]) == ("pooler", "listeners")
    assert "SHOPTALK_DIRECT_URL is not a direct connection" in pool["text"]

    monkeypatch.setenv("SHOPTALK_DIRECT_URL", database)
    assert doctor() == []
    with psycopg.connect(pooler) as first, psycopg.connect(pooler) as second:
        for session in (first, second):  # each in a transaction, so each has one of the two
            session.execute("set statement_timeout = 0")
    (found,) = doctor("pooler")
    assert (found["check"], found["status"], "connect_query" in found["fix"]) == ("pooler", "warning", True)

    monkeypatch.setenv("SHOPTALK_DIRECT_URL", on(server, "template1"))
    assert "different servers or databases" in doctor("pooler")[0]["text"]
    monkeypatch.setenv("SHOPTALK_DIRECT_URL", pooler + " connect_timeout=5")
    assert "itself goes through a pooler in transaction mode" in doctor("pooler")[0]["text"]


def test_a_pooler_that_is_down(
    well: Connection, database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPTALK_DIRECT_URL", database)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:hunter2@127.0.0.1:{free_port()}/x")
    found = doctor("pooler")
    assert "DATABASE_URL cannot be used" in found[0]["text"]
    assert "hunter2" not in str(found)


def test_listeners_that_are_slow_or_missing(
    well: Connection, database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.checks_reach.SLOW_SECONDS", 0)
    monkeypatch.setenv("FANOUT", "amqp")
    monkeypatch.setenv("AMQP_URL", "amqp://127.0.0.1")
    with psycopg.connect(database, application_name="shoptalk worker"):
        slow, missing, fanout = doctor("listeners")
    assert ("a notification took" in slow["text"], slow["status"]) == (True, "warning")
    assert "a worker runs, but none listens" in missing["text"]
    assert (fanout["status"], "no relay publishes" in fanout["text"]) == ("problem", True)
    monkeypatch.setattr("cli.checks_reach.ROUND_TRIP_SECONDS", 0)
    assert "did not arrive" in doctor("listeners")[0]["text"]


def test_a_clock_that_was_stopped_or_is_wrong(
    well: Connection, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = well.info.dbname
    well.execute(f"alter database {name} set shoptalk.now = '2026-03-02 10:00+00'")
    (found,) = doctor("clock")
    assert "it is always 2026-03-02 10:00+00" in found["text"]
    fix(well, found)
    assert doctor("clock") == []
    now = time.time
    for seconds, status in ((-30, "warning"), (300, "problem")):
        monkeypatch.setattr("cli.checks_reach.time.time", lambda off=seconds: now() + off)
        assert [row["status"] for row in doctor("clock")] == [status]


def test_zones_that_the_server_and_this_machine_know_differently(
    well: Connection, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    well.execute("update stores set timezone = 'Europe/Oslo'")
    tokyo = zoneinfo.ZoneInfo("Asia/Tokyo").utcoffset(dt.datetime(2026, 1, 1))
    assert tokyo == dt.timedelta(hours=9)
    source = next(Path(folder) / "Asia/Tokyo" for folder in zoneinfo.TZPATH if (Path(folder) / "Asia/Tokyo").exists())
    (tmp_path / "Europe").mkdir()
    shutil.copy(source, tmp_path / "Europe" / "Oslo")
    before = zoneinfo.TZPATH
    try:
        zoneinfo.reset_tzpath([tmp_path])
        zoneinfo.ZoneInfo.clear_cache()
        (found,) = doctor("zones")
    finally:
        zoneinfo.reset_tzpath(before)
        zoneinfo.ZoneInfo.clear_cache()
    assert "UTC+9 h here" in found["text"]
    well.execute("update stores set timezone = 'FOO5' where store_id = 2")
    (found,) = doctor("zones")
    assert "no time zone named FOO5" in found["text"]


# The work ------------------------------------------------------------------------------------------------


def test_no_worker_and_a_worker_that_does_not_check_the_hours(shop: Connection, database: str, doctor: Doctor) -> None:
    assert "none has ever run" in doctor("worker")[0]["text"]
    shop.execute("insert into queue_samples values (now() - interval '5 minutes', 0, 0, 0, 0, 0, null, null, '{}')")
    assert "no worker runs, last seen 20" in doctor("worker")[0]["text"]
    with psycopg.connect(database, application_name="shoptalk worker listener"):
        assert "connected, but last checked the hours" in doctor("worker")[0]["text"]


def test_sessions_that_a_pooler_keeps_do_not_count_as_processes(
    shop: Connection, database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOPTALK_DIRECT_URL", database + " connect_timeout=5")
    shop.execute("insert into channels (store_id, name, kind, cursor) values (null, 'amqp', 'amqp', 0)")
    names = ("shoptalk worker", "shoptalk relay")
    with contextlib.ExitStack() as pooled:
        for name in names:
            pooled.enter_context(psycopg.connect(database, application_name=name))
        found = doctor("listeners", "worker", "channels")
    assert [(row["check"], row["text"][:14]) for row in found] == [
        ("worker", "no worker runs"), ("channels", "no relay runs,")]  # fmt: skip


def test_overdue_chats(well: Connection, connect: Callable[[], Connection], doctor: Doctor) -> None:
    for conversation in (7, 8):
        enqueue(well, conversation)
    assert doctor("release", "worker") == []
    well.execute("update chat_queue set due_at = now() - interval '1 minute', held_since = now() - interval '1 hour'")
    (found,) = doctor("release", "worker")
    assert (found["check"], found["status"], found["text"][:20]) == (
        "release",
        "problem",
        "2 chats are overdue,",
    )
    holder = connect()
    holder.execute("select pg_advisory_lock(sender_lock())")
    assert f"session {holder.info.backend_pid} holds the sender's lock" in doctor("release")[0]["text"]


def test_pauses(well: Connection, doctor: Doctor) -> None:
    enqueue(well, 7)
    well.execute("select pause_conversation(7), pause_store(2)")
    assert sorted((row["status"], row["fix"].partition(": ")[2]) for row in doctor("paused", "release", "worker")) == [
        ("warning", "shoptalk resume conversation 7"),
        ("warning", "shoptalk resume store 2"),
    ]


def test_channels_with_problems(well: Connection, database: str, doctor: Doctor) -> None:
    well.execute("insert into sent_log values (20000, 1, 1, 1, now())")
    well.execute(
        "insert into channels"
        " (store_id, name, kind, cursor, consecutive_failures, last_error, paused_at, disabled_at) values"
        " (1, 'a', 'webhook', 20000, 3, 'refused by http://u:hunter2@shop/', null, null),"
        " (1, 'b', 'webhook', 20000, 9, 'answered 410', null, now()),"
        " (1, 'c', 'webhook', 20000, 0, null, now(), null), (null, 'amqp', 'amqp', 1, 0, null, null, null)"
    )
    well.execute(
        "insert into channel_dead_letters select channel_id, 5, 5, 'x', 1, now() from channels where name = 'amqp'"
    )
    assert "no relay runs" in doctor("channels")[-1]["text"]
    with psycopg.connect(database, application_name="shoptalk relay listener"):
        found = doctor("channels")
    assert [(row["status"], row["text"].partition(",")[0]) for row in found] == [
        ("warning", "channel amqp is 19"),
        ("warning", "channel amqp has 1 dead letter"),
        ("warning", "channel a of store 1 is failing"),
        ("problem", "channel b of store 1 is disabled"),
        ("warning", "channel c of store 1 is paused"),
    ]
    assert "hunter2" not in str(found)
    for row in found:
        if "select" in row["fix"]:
            well.execute("select" + row["fix"].partition("select")[2])


def test_dead_letters(well: Connection, doctor: Doctor) -> None:
    chat = enqueue(well, 7).chat_id
    well.execute("insert into chat_failures values (%s, 5, 'the reason', now(), now())", [chat])
    (found,) = doctor("dead-letters", "release")
    assert (found["check"], found["status"]) == ("dead-letters", "warning")
    assert "the reason" in found["text"]


# The server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["select count(*) from chats", "insert into clients values (9, 'x', 'x')"])
def test_an_open_transaction_holds_vacuum_back(
    well: Connection,
    connect: Callable[[], Connection],
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
) -> None:
    monkeypatch.setattr("cli.checks_server.HELD_WARNING_SECONDS", 0)
    other = connect()
    other.execute("set application_name = 'report'")
    other.execute("begin isolation level repeatable read")
    other.execute(statement)
    (found,) = doctor("snapshots")
    assert f"session {other.info.backend_pid} report, idle in transaction, since 20" in found["text"]
    monkeypatch.setattr("cli.checks_server.HELD_PROBLEM_SECONDS", 0)
    (found,) = doctor("snapshots")
    assert found["status"] == "problem"
    fix(well, found)
    eventually(lambda: doctor("snapshots") == [])


def test_a_prepared_transaction_holds_vacuum_back(
    well: Connection, connect: Callable[[], Connection], doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.checks_server.HELD_WARNING_SECONDS", 0)
    connect().execute("begin; insert into clients values (9, 'x', 'x'); prepare transaction 'it''s'")
    (found,) = doctor("snapshots")
    assert "prepared transaction it's, prepared, since 20" in found["text"]
    fix(well, found)
    assert doctor("snapshots") == []


def test_replication_slots_without_a_reader(well: Connection, doctor: Doctor) -> None:
    well.execute("select pg_create_physical_replication_slot('standby2', true)")
    well.execute("select pg_create_logical_replication_slot('warehouse', 'pgoutput')")
    found = doctor("snapshots")
    assert [row["status"] for row in found] == ["problem", "problem"]
    assert "vacuum is held back by replication slot warehouse, inactive" in found[0]["text"]
    assert "WAL is kept for replication slot standby2" in found[1]["text"]
    for row in found:
        fix(well, row)
    assert doctor("snapshots") == []


def test_a_standbys_feedback(well: Connection, database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speaks the replication protocol, as a standby with hot_standby_feedback and a long query does."""
    monkeypatch.setattr("cli.checks_server.HELD_TRANSACTIONS", 0)
    with psycopg.connect(database) as own:
        row = own.execute("select pg_current_wal_lsn(), pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    url = psycopg.conninfo.make_conninfo(database, replication="true", application_name="standby1")
    line = psycopg.pq.PGconn.connect(url.encode())
    line.send_query(f"START_REPLICATION {row[0]}".encode())
    eventually(lambda: line.get_result().status == psycopg.pq.ExecStatus.COPY_BOTH, 5)  # type: ignore[union-attr]
    line.put_copy_data(b"h" + struct.pack("!qIIII", 0, row[1], 0, 0, 0))
    line.flush()
    well.execute("select pg_current_xact_id()")
    eventually(lambda: ["standby1" in row["text"] for row in doctor("snapshots")] == [True], 10)
    line.finish()


def test_a_session_that_holds_a_lock_for_long(
    well: Connection, database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.checks_server.LOCK_SECONDS", 0)
    monkeypatch.setattr("cli.examination.LOCK_SECONDS", 0.1)
    with closing(psycopg.connect(database, application_name="psql")) as other:
        other.execute("lock table chat_queue")
        found = doctor("locks", "release", "paused", "clock")
        (locks,) = [row for row in found if row["check"] == "locks"]
        assert f"session {other.info.backend_pid} psql, idle in transaction" in locks["text"]
        assert "locks on chat_queue" in locks["text"]
        assert [row["check"] for row in found if "not finished within" in row["text"]] == ["release", "paused"]
        fix(well, locks)
        eventually(lambda: doctor("locks", "release", "paused", "clock") == [])


def test_waits_in_another_database_are_ignored(
    well: Connection, server: str, database: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.checks_server.LOCK_SECONDS", 0)
    waiting = "select count(*) from pg_locks where not granted and waitstart is not null"
    for url, statement, statuses in (
        (on(server, "postgres"), "select pg_advisory_xact_lock(1)", []),
        (database, "update clients set location = 'Rome'", ["problem"]),  # its waiter waits for a transaction
    ):
        with closing(psycopg.connect(url)) as holder, closing(psycopg.connect(url)) as waiter:
            holder.execute(statement)
            waiter.pgconn.send_query(statement.encode())
            eventually(lambda: well.execute(waiting).fetchone() == (1,), 10)
            # The waiter has an open transaction too, whether or not a session waits for it.
            found = [row["status"] for row in doctor("locks") if row["status"] == "problem"]
        assert found == statuses
        eventually(lambda: well.execute(waiting).fetchone() == (0,), 10)


def test_dead_rows_and_autovacuum_that_is_off(well: Connection, doctor: Doctor) -> None:
    well.execute(
        "insert into chat_queue (due_at, chat_id, conversation_id, seq, store_id)"
        " select now(), n, n, 1, 1 from generate_series(1, 21000) n;"
        " delete from chat_queue; alter table clients set (autovacuum_enabled = off)"
    )
    well.execute("select pg_stat_force_next_flush()")
    off, dead = sorted(doctor("dead-rows"), key=lambda row: str(row["status"]))
    assert (off["status"], off["text"].startswith("autovacuum is off for clients")) == ("problem", True)
    assert (dead["status"], dead["text"][:19], dead["text"][-1]) == ("warning", "chat_queue has 21,0", "-")
    for row in (off, dead):
        fix(well, row)
    well.execute("select pg_stat_force_next_flush()")
    eventually(lambda: doctor("dead-rows") == [], 10)
    well.execute("alter system set autovacuum = off")
    well.execute("select pg_reload_conf()")
    eventually(lambda: "for the whole server" in str(doctor("dead-rows")), 10)
    fix(well, doctor("dead-rows")[0])
    eventually(lambda: doctor("dead-rows") == [], 10)


def test_an_index_whose_building_failed(well: Connection, doctor: Doctor) -> None:
    well.execute("update clients set location = 'Oslo'")
    with pytest.raises(psycopg.errors.UniqueViolation):
        well.execute("create unique index concurrently one_a_place on clients (location)")
    (found,) = doctor("indexes")
    assert (found["check"], found["status"]) == ("indexes", "problem")
    assert "one_a_place on clients is invalid" in found["text"]
    fix(well, found)
    assert doctor("indexes") == []


def test_an_index_being_built_has_not_failed_even_if_its_builder_is_hidden(
    well: Connection, connect: Callable[[], Connection], as_role: AsRole, doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", as_role("inspector"))
    holder, builder = connect(), connect()
    holder.execute("begin; update clients set location = 'Rome'")
    builder.pgconn.send_query(b"create index concurrently by_location on clients (location)")
    invalid = "select count(*) from pg_index where not indisvalid"
    eventually(lambda: well.execute(invalid).fetchone() == (1,), 10)
    assert doctor("indexes") == []
    holder.execute("rollback")
    eventually(lambda: well.execute(invalid).fetchone() == (0,), 10)
    well.execute("drop index by_location")


def test_notifications_that_pile_up(well: Connection, connect: Callable[[], Connection], doctor: Doctor) -> None:
    deaf, loud = connect(), connect()
    deaf.execute("listen x")
    deaf.execute("begin")
    deaf.execute("select 1")
    for status, count in (("warning", 15), ("problem", 30)):
        loud.execute("select pg_notify('x', n || repeat('x', 7900)) from generate_series(1, %s) n", [count])
        assert [row["status"] for row in doctor("notifications")] == [status]
    deaf.close()
    eventually(lambda: doctor("notifications") == [], 10)


def test_settings_of_one_database_and_sessions_that_are_ended(well: Connection, doctor: Doctor) -> None:
    name = well.info.dbname
    well.execute(f"alter database {name} set synchronous_commit = off")
    well.execute("alter system set idle_session_timeout = '1h'")
    well.execute("select pg_reload_conf()")
    eventually(lambda: len(doctor("durability")) == 4, 10)
    found = [row for row in doctor("durability") if "_" in row["text"].split()[0] and "full_page" not in row["text"]]
    assert [(row["status"], row["text"].partition(":")[0]) for row in found] == [
        ("warning", "idle_session_timeout is 3600000"),
        ("problem", f"synchronous_commit is off for database {name}"),
    ]
    for row in found:
        fix(well, row)
    eventually(lambda: "idle_session" not in str(doctor("durability")) and name not in str(doctor("durability")), 10)
    well.execute("alter system reset all")


@pytest.mark.parametrize(("value", "is_risky"), [("false", True), ("No", True), ("0", True), ("yes", False)])
def test_settings_are_shown_as_they_were_written(well: Connection, doctor: Doctor, value: str, is_risky: bool) -> None:
    name = well.info.dbname
    well.execute(f"alter database {name} set synchronous_commit = '{value}'")
    well.execute(f"alter database {name} set idle_session_timeout = '0s'")
    found = [row for row in doctor("durability") if " for database" in row["text"]]
    well.execute(f"alter database {name} reset all")
    risky = [f"synchronous_commit is {value} for database {name}"]
    assert [row["text"].partition(":")[0] for row in found] == (risky if is_risky else [])


def test_connections_and_transaction_ids_that_run_out(
    well: Connection, connect: Callable[[], Connection], doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(16):
        connect()
    assert [row["status"] for row in doctor("connections")] == ["warning"]
    monkeypatch.setattr("cli.checks_server.CONNECTIONS_PROBLEM", 0.8)
    assert [row["status"] for row in doctor("connections")] == ["problem"]
    for limit, status in (("AGE_WARNING", "warning"), ("AGE_PROBLEM", "problem")):
        monkeypatch.setattr(f"cli.checks_server.{limit}", 0)
        assert [(row["status"], "vacuum (freeze)" in row["fix"]) for row in doctor("wraparound")] == [(status, True)]


# The doctor itself -----------------------------------------------------------------------------------------


def test_a_check_that_raises_is_a_finding_and_the_others_run(well: Connection, doctor: Doctor) -> None:
    well.execute("alter view channel_status rename to gone")
    well.execute("select pause_store(2)")
    found = doctor("paused", "channels", "zones")
    assert [(row["check"], row["status"]) for row in found] == [("paused", "warning"), ("channels", "problem")]
    assert "the check itself failed: UndefinedTable" in found[1]["text"]
    well.execute("alter view gone rename to channel_status")


def test_a_server_that_stops_answering(well: Connection, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(context: CheckContext) -> Iterator[Finding]:
        context.connect(context.direct_url).execute("select pg_sleep(60)")
        yield from ()

    monkeypatch.setattr("cli.doctor.CHECKS", [Check("one", sleep), Check("two", sleep)])
    monkeypatch.setattr("cli.examination.SECONDS", 1.5)
    began = time.monotonic()
    found = doctor()
    assert time.monotonic() - began < 5
    assert [(row["check"], row["status"]) for row in found] == [("one", "problem"), ("two", "unknown")]


def test_it_changes_nothing(well: Connection, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def writes(context: CheckContext) -> Iterator[Finding]:
        context.rows(sa.text("delete from clients"))
        yield from ()

    monkeypatch.setattr("cli.doctor.CHECKS", [Check("writes", writes)])
    assert "ReadOnlySqlTransaction" in doctor()[0]["text"]


def test_the_inspector_can_run_it_and_learns_what_it_cannot_see(
    well: Connection, database: str, as_role: AsRole, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", as_role("inspector"))
    with psycopg.connect(database) as other:
        other.execute("insert into clients values (9, 'x', 'x')")
        found = doctor()
        assert [(row["check"], row["status"]) for row in found] == [("locks", "unknown"), ("snapshots", "unknown")]
        well.execute(found[0]["fix"])
        assert doctor() == []


def test_an_account_without_a_role_learns_which_one_it_lacks(
    well: Connection, as_role: AsRole, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = as_role("inspector")
    monkeypatch.setenv("DATABASE_URL", url)
    well.execute(f"revoke shoptalk_inspector from {psycopg.conninfo.conninfo_to_dict(url)['user']}")
    found = doctor()
    assert {row["status"] for row in found} == {"unknown"}
    assert "permission denied for table queue_samples" in str(found)


def test_an_unreachable_database_has_its_own_status_and_no_password_is_printed(
    shoptalk: Shoptalk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for url in ("postgresql://u:hunter2@127.0.0.1:1/x", "postgres//u:hunter2@127.0.0.1/x"):
        monkeypatch.setenv("DATABASE_URL", url)
        answer = shoptalk("doctor", "--json")
        assert (answer.status, answer.out) == (3, "")
        assert "hunter2" not in answer.err
    masked = mask_passwords(json.dumps({"url": "host=x password='a b\\' c' user=u", "also": "password = abc"}))
    assert (
        masked == json.dumps({"url": "host=x password=*** user=u", "also": "password = ***"})[:-2]
        or "abc" not in masked
    )
