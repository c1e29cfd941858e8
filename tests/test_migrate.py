"""`shoptalk migrate`: an older schema becomes this program's, behind nobody's back and in nobody's way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from embedded import programs
from sql import migrate as migrating
from sql.log import Lines
from sql.migrate import Migration, migrate, migrations, pending
from sql.schema import VERSION, WrongSchema, check_version, prepare
from tests.conftest import ROOT, AsRole, Connection, Process, eventually
from tests.test_cli import Shoptalk, shoptalk  # noqa: F401
from tests.test_enqueue import enqueue

NEXT = Migration(VERSION + 1, "next", f"create table fresh (); update schema_version set version = {VERSION + 1}")
ALTER = "alter table clients add column nickname text;"
NEXT_ON_CLIENTS = Migration(VERSION + 1, "next", f"{ALTER} update schema_version set version = {VERSION + 1}")


def as_of(database_url: str, version: int) -> None:
    """Makes the schema of a version in the empty database, by the migrations alone."""
    with psycopg.connect(database_url) as connection:
        for migration in migrations()[:version]:
            connection.execute(migration.sql.encode())


def run(program: str, *arguments: str, given: bytes = b"") -> bytes:
    """What one of PostgreSQL's own programs answers."""
    command = programs.becoming([str(programs.folder() / program), *arguments])
    done = subprocess.run(command, env=programs.environment(), input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def dump(database_url: str) -> str:
    """The schema as pg_dump tells it, without what is new in each of its runs; each statement once, in their order."""
    text = run("pg_dump", "--schema-only", database_url).decode()
    return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)


def version(connection: Connection) -> int:
    row = connection.execute("select version from schema_version").fetchone()
    assert row is not None
    return int(row[0])


def test_a_database_made_by_the_schema_equals_one_made_by_the_migrations(database: str, empty: str) -> None:
    as_of(empty, VERSION)
    assert "CREATE FUNCTION public.send_chats" in dump(database)
    assert dump(empty) == dump(database)


def test_a_database_of_the_first_version_with_chats_in_it_is_migrated_and_goes_on(empty: str) -> None:
    as_of(empty, 1)
    with psycopg.connect(empty, autocommit=True) as db:
        db.execute("select add_store(1, 'UTC', '00:00', '00:00')")
        db.execute("insert into clients values (1, 'Ann', 'Oslo'); insert into operators values (1, 'Olga', 'day', 1)")
        for seq in (1, 2, 3):
            assert enqueue(db, 7).seq == seq
            db.execute("select send_chats()")
        enqueue(db, 7)
        assert [migration.version for migration in migrate(empty, migrations())] == list(range(2, VERSION + 1))
        assert enqueue(db, 7).seq == 5
        db.execute("select send_chats()")
        assert db.execute("select array_agg(seq order by position) from sent_log").fetchone() == ([1, 2, 3, 4, 5],)
        db.execute("set shoptalk.now = '2040-01-01'")
        assert db.execute("select sent from prune('90 days')").fetchone() == (4,)


def test_the_migrations_are_numbered_and_the_program_knows_the_last() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, VERSION + 1))
    assert f"insert into schema_version values ({VERSION});" in (ROOT / "schema.sql").read_text()
    for migration in migrations()[1:]:
        assert f"update schema_version set version = {migration.version}" in migration.sql


def squawk(*files: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "squawk"
    # Left out: what is about the style of types, not about locks.
    command = [program, "--pg-version=15.0", "--assume-in-transaction", "--exclude=prefer-bigint-over-int", *files]
    return subprocess.run(command, capture_output=True, text=True)


def test_squawk_finds_no_lock_that_would_be_held_for_long(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sql"
    bad.write_text("set local lock_timeout = '2s'; create index slow on sent_log (sent_at);")
    assert "concurrent" in squawk(bad).stdout
    files = sorted((ROOT / "sql" / "migrations").glob("*.sql"))[1:]  # the first meets no table that there is
    assert files
    found = squawk(*files)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("process", ["sql", "worker", "relay", "gunicorn"])
def test_a_process_refuses_an_older_schema_and_says_what_to_do(
    db: Connection, database: str, start: Callable[..., Process], process: str
) -> None:
    db.execute("update schema_version set version = %s", [VERSION - 1])
    command = (
        ["gunicorn", "-b", "127.0.0.1:0", "-w", "1", "api.app:create_app()"] if process == "gunicorn" else [process]
    )
    started = start(*command, DATABASE_URL=database)
    started.expect("run `shoptalk migrate`")
    assert started.popen.wait(30) != 0


def test_a_program_works_with_its_own_schema_and_the_next_one(db: Connection, database: str) -> None:
    for there, usable in ((VERSION - 1, False), (VERSION, True), (VERSION + 1, True), (VERSION + 2, False)):
        db.execute("update schema_version set version = %s", [there])
        for use in (check_version, prepare):
            if usable:
                use(database)
            else:
                with pytest.raises(
                    WrongSchema, match="run `shoptalk migrate`" if there < VERSION else "a newer release"
                ):
                    use(database)


def test_a_schema_that_was_made_since_and_is_first_in_the_path_gets_nothing(db: Connection, database: str) -> None:
    db.execute("create schema authorization current_user")
    assert db.execute("select current_schema() = current_user").fetchone() == (True,)
    migrate(database, [NEXT])
    assert db.execute("select relnamespace::regnamespace::text from pg_class where relname = 'fresh'").fetchall() == [
        ("public",)
    ]


@pytest.mark.parametrize(("role", "starts"), [("worker", True), ("relay", True), ("web", False)])
def test_only_those_who_may_read_the_keys_insist_on_one(
    as_role: AsRole, start: Callable[..., Process], role: str, starts: bool
) -> None:
    started = start("sql", DATABASE_URL=as_role(role), HOST="0.0.0.0")
    assert (started.popen.wait(60) == 0) == starts, started.lines


def test_a_second_run_does_nothing(db: Connection, database: str) -> None:
    assert migrate(database, [NEXT]) == [NEXT]
    assert version(db) == NEXT.version
    assert migrate(database, [NEXT]) == pending(database, [NEXT]) == []


def test_two_at_once_do_it_once(db: Connection, database: str) -> None:
    slow = Migration(NEXT.version, "next", "select pg_sleep(0.5);" + NEXT.sql)
    done: list[list[Migration]] = []
    threads = [threading.Thread(target=lambda: done.append(migrate(database, [slow]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done, key=len) == [[], [], [slow]]
    assert version(db) == NEXT.version


def test_one_that_fails_leaves_the_version_before_it(db: Connection, database: str) -> None:
    after = Migration(NEXT.version + 1, "after", "create table other (); create table other ();")
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(database, [NEXT, after])
    assert version(db) == NEXT.version
    assert db.execute("select to_regclass('other')").fetchone() == (None,)
    with pytest.raises(WrongSchema, match="does not say its version"):
        migrate(database, [NEXT, Migration(NEXT.version + 1, "after", "create table other ()")])
    assert db.execute("select to_regclass('other')").fetchone() == (None,)


def test_one_that_is_killed_leaves_the_version_before_it_and_the_next_run_goes_on(
    db: Connection, database: str
) -> None:
    code = (
        "import sys; from sql.migrate import Migration, migrate;"
        "migrate(sys.argv[1], [Migration(int(sys.argv[2]), 'slow', sys.argv[3])])"
    )
    sql = NEXT.sql + "; select pg_sleep(600)"
    killed = subprocess.Popen([sys.executable, "-c", code, database, str(NEXT.version), sql], cwd=ROOT)
    sleeping = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
    eventually(lambda: db.execute(sleeping).fetchone() == (1,))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    began = time.monotonic()
    assert migrate(database, [NEXT]) == [NEXT]  # waits until the server has noticed: a second
    assert time.monotonic() - began < 60
    assert db.execute(sleeping).fetchone() == (0,)
    assert version(db) == NEXT.version


def test_a_busy_table_is_waited_for_in_short_turns_between_which_others_get_at_it(
    shop: Connection, connect: Callable[[], Connection], database: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(migrating, "LOCK_TIMEOUT", "200ms")
    caplog.set_level("WARNING", "shoptalk.schema")
    holder, other = connect(), connect()
    other.execute("set lock_timeout = '10s'")
    holder.execute("begin")
    holder.execute("select from clients")
    done: list[Migration] = []
    thread = threading.Thread(target=lambda: done.extend(migrate(database, [NEXT_ON_CLIENTS])))
    thread.start()
    longest = 0.0
    while caplog.messages.count("migration_put_off") < 3:
        began = time.monotonic()
        other.execute("select from clients")
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)
    assert 0.05 < longest < 2, "readers wait behind it, but not for long"
    assert done == []
    holder.execute("commit")
    thread.join(60)
    assert done == [NEXT_ON_CLIENTS]
    assert "canceling statement due to lock timeout" in Lines(False).format(caplog.records[0])
    assert shop.execute("select nickname from clients").fetchall() == [(None,), (None,)]


def test_the_table_that_is_busy_for_ever_is_given_up_in_words(
    shop: Connection, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch, shoptalk: Shoptalk  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(migrating, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrating, "TRIES", 2)
    monkeypatch.setattr("cli.upgrade.migrations", lambda: [NEXT_ON_CLIENTS])
    holder = connect()
    with holder.transaction():
        holder.execute("select from clients")
        answer = shoptalk("migrate")
    assert answer.status == 3
    assert "somebody holds a lock" in answer.err
    assert version(shop) == VERSION


def test_the_verb(
    db: Connection, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    assert shoptalk("migrate").out == f"the schema has version {VERSION}, nothing to do\n"
    monkeypatch.setattr("cli.upgrade.migrations", lambda: [NEXT])
    assert NEXT.sql in shoptalk("migrate", "--dry-run").out
    found = shoptalk("migrate", "--dry-run", "--json").json
    assert found == {
        "version": VERSION, "dry_run": True,
        "migrations": [{"version": NEXT.version, "name": "next", "sql": NEXT.sql}],
    }  # fmt: skip
    assert version(db) == VERSION
    assert shoptalk("migrate", "--json").json["migrations"] == [{"version": NEXT.version, "name": "next"}]
    assert shoptalk("migrate", "--json").json == {"version": NEXT.version, "dry_run": False, "migrations": []}


def test_an_empty_database_gets_the_schema(empty: str, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("DATABASE_URL", empty)
    answer = shoptalk("migrate", "--dry-run")
    assert (answer.status, "has no schema yet" in answer.err) == (3, True)
    assert shoptalk("migrate").status == 0
    check_version(empty)
