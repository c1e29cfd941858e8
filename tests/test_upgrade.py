"""`shoptalk migrate`: an older schema becomes this program's, changed functions are installed, programs run on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from embedded import programs
from sql import install
from sql import upgrade as upgrading
from sql.install import VERSION, WrongSchema, check_version, prepare, schema
from sql.log import Lines
from sql.upgrade import Upgrade, migrate, pending, upgrades
from tests.support.baseline import FOLDER, restore, unpack_programs
from tests.support.cli import Shoptalk
from tests.support.db import AsRole, Connection, dump, enqueue, run_pg_program
from tests.support.processes import ROOT, Process, Start, eventually, free_port
from tests.support.web import Api, gunicorn

NEXT = Upgrade(VERSION + 1, "next", "create table fresh ();")
NEXT_ON_CLIENTS = Upgrade(VERSION + 1, "next", "alter table clients add column nickname text;")
ONLY_FUNCTIONS: list[Upgrade] = []
ChangeFunction = Callable[[str, str, str], None]
BASELINES = sorted(int(path.stem.removeprefix("version_")) for path in FOLDER.glob("version_*.zip"))


def version(connection: Connection) -> int:
    row = connection.execute("select version from schema_version").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def changed_function(monkeypatch: pytest.MonkeyPatch) -> ChangeFunction:
    """Edits a function's file as a later release would: changed_function(file, old text, new text)."""

    def change(name: str, old: str, new: str) -> None:
        files = dict(install.function_files())
        assert old in files[f"functions/{name}.sql"]
        files[f"functions/{name}.sql"] = files[f"functions/{name}.sql"].replace(old, new)
        digests = install.file_digests() | {f"functions/{name}.sql": f"with {new}"}
        for module in (install, upgrading):
            monkeypatch.setattr(module, "function_files", lambda: files)
            monkeypatch.setattr(module, "file_digests", lambda: digests)

    return change


def test_psql_and_python_install_the_same_schema(database: str, empty: str) -> None:
    command = [programs.folder() / "psql", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", ROOT / "schema.sql", empty]
    subprocess.run(command, env=programs.environment(), check=True)
    assert "CREATE FUNCTION public.send_chats" in dump(database)
    assert dump(empty) == dump(database)
    assert migrate(empty, upgrades()).files == list(install.function_files()), "whose they are is not known"
    assert dump(empty) == dump(database)
    assert not migrate(empty, upgrades())


def test_an_older_program_replaces_no_functions_of_a_newer_release(db: Connection, database: str) -> None:
    db.execute("update schema_version set version = %s, functions = '{}'", [VERSION + 1])
    db.execute("create or replace function idle_lock() returns bigint language sql immutable as 'select 7::bigint'")
    assert not migrate(database, upgrades())
    assert db.execute("select idle_lock()").fetchone() == (7,)


def test_a_changed_function_waits_for_no_table(
    shop: Connection, connect: Callable[[], Connection], database: str, changed_function: ChangeFunction
) -> None:
    head = "create or replace function empty_report()"
    changed_function("send", head, f"-- newer\n{head}")
    reader, writer = connect(), connect()
    with reader.transaction(), writer.transaction():
        reader.execute("select count(*) from chat_states")
        writer.execute("select enqueue_chat(7, 1, 1, 'x'), pause_store(2)")
        assert migrate(database, ONLY_FUNCTIONS).files == ["functions/send.sql", "functions/roles.sql"]


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_becomes_the_same_schema_by_the_upgrades(database: str, empty: str, baseline: int) -> None:
    restore(baseline, empty)
    migrate(empty, upgrades())
    assert dump(empty) == dump(database)
    assert not migrate(empty, upgrades())


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_with_chats_in_it_is_upgraded_while_its_own_programs_run(
    empty: str, tmp_path: Path, run: Start, start: Start, baseline: int
) -> None:
    restore(baseline, empty)
    with psycopg.connect(empty, autocommit=True) as db:
        db.execute("select add_store(1, 'UTC', '00:00', '00:00'), add_store(2)")
        db.execute("delete from store_hours where store_id = 2")  # never open: its chats are held
        db.execute("insert into clients values (1, 'Ann', 'Oslo'); insert into operators values (1, 'Olga', 'day', 1)")
        db.execute("insert into operators values (2, 'Otto', 'day', 2)")
        for seq in (1, 2, 3):
            assert enqueue(db, 7).seq == seq
        db.execute("select send_chats()")
        enqueue(db, 8, operator=2)
        db.execute("select cancel_chat(%s)", [enqueue(db, 9).chat_id])
        before = [(7, "sent")] * 3 + [(8, "held"), (9, "cancelled")]
        assert all_states(db) == before

        programs = unpack_programs(baseline, tmp_path)
        port, posted, done = free_port(), Counter[int](), threading.Event()
        old = {"DATABASE_URL": empty, "PYTHONPATH": str(programs), "PORT": str(port), "WEB_CONCURRENCY": "1"}
        old_web = run(sys.executable, "-P", "-m", *gunicorn(), "--chdir", str(programs), **old)
        old_worker = run(sys.executable, "-P", "-m", "worker", **old)
        old_web.expect("Booting worker")
        old_worker.expect("started")
        eventually(Api(port).answers)

        def post() -> None:
            while not done.is_set():
                posted[
                    Api(port).post("/v1/chats", conversation_id=7, client_id=1, operator_id=1, payload="x")["seq"]
                ] += 1

        poster = threading.Thread(target=post)
        poster.start()
        eventually(lambda: len(posted) >= 5)
        migrate(empty, [upgrade for upgrade in upgrades() if upgrade.version <= baseline + 1])
        at_upgrade = len(posted)
        eventually(lambda: len(posted) >= at_upgrade + 5)
        done.set()
        poster.join()
        eventually(lambda: db.execute("select max(seq) from sent_log").fetchone() == (len(posted) + 3,))
        assert old_worker.popen.poll() is None
        assert old_web.popen.poll() is None
        for process in (old_web, old_worker):
            process.begin_to_end()
            process.wait()

        migrate(empty, upgrades())
        new = {"DATABASE_URL": empty, "PORT": str(port), "WEB_CONCURRENCY": "1"}
        start(*gunicorn(), **new).expect("Booting worker")
        start("worker", **new).expect("started")
        eventually(Api(port).answers)
        last = post_one(port)
        assert last == len(posted) + 4
        assert set(posted.values()) == {1}
        eventually(lambda: all_states(db) == [(7, "sent")] * last + before[3:])
        in_order = "select array_agg(seq order by position) = array_agg(seq order by seq) from sent_log"
        assert db.execute(in_order).fetchone() == (True,)


def post_one(port: int) -> int:
    """Posts a chat and returns its seq."""
    return int(Api(port).post("/v1/chats", conversation_id=7, client_id=1, operator_id=1, payload="x")["seq"])


def all_states(db: Connection) -> list[tuple[int, str]]:
    """(conversation, state) of each chat, by conversation and seq."""
    return db.execute("select conversation_id, state from chat_states order by conversation_id, seq").fetchall()


def test_the_schema_in_one_piece_is_the_same_too(database: str, empty: str) -> None:
    printed = subprocess.run([sys.executable, "-m", "sql", "--print"], cwd=ROOT, capture_output=True, check=True).stdout
    run_pg_program("psql", "-q", "-1", "-v", "ON_ERROR_STOP=1", empty, given=printed)
    assert dump(empty) == dump(database)


def test_every_function_is_defined_in_one_file_and_no_file_is_too_long() -> None:
    found = re.findall(
        r"^create (?:or replace )?function (\w+\([^;$]*?\))\s*(?:returns|language|$)", schema(), re.M | re.S
    )
    assert len(found) > 80
    assert len(found) == len({" ".join(head.split()) for head in found})
    assert (ROOT / "schema.sql").read_text().count("create or replace") == 0
    assert len((ROOT / "schema.sql").read_text().splitlines()) < 650
    for path in (ROOT / "sql").rglob("*.sql"):
        assert path.is_symlink() or len(path.read_text().splitlines()) <= 500, path
    assert set(install.function_files()) == {
        f"functions/{path.name}" for path in (ROOT / "sql/functions").glob("*.sql")
    }


def test_the_upgrades_are_numbered_and_the_program_knows_the_last() -> None:
    assert [upgrade.version for upgrade in upgrades()] == list(range(2, VERSION + 1))
    assert f"insert into schema_version values ({VERSION});" in schema()


def holds_a_function(sql: str) -> bool:
    return (
        bool(re.search(r"\$\w*\$|create\s+(or\s+replace\s+)?(function|procedure|view|trigger)", sql, re.I))
        and "pg_temp" not in sql
    )


def test_no_upgrade_contains_a_function() -> None:
    """A function is changed in its one file; a copy in an upgrade would go stale, and win over it for a moment."""
    assert holds_a_function("create or replace function f() returns void language sql as $$ select 1 $$")
    assert holds_a_function("CREATE VIEW v AS select 1")
    assert not holds_a_function("drop function f(integer); alter table clients add column nickname text")
    for upgrade in upgrades():
        assert not holds_a_function(upgrade.sql), upgrade.name


def squawk(*files: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "squawk"
    # Left out: what is about the style of types, not about locks.
    command = [program, "--pg-version=15.0", "--assume-in-transaction", "--exclude=prefer-bigint-over-int", *files]
    return subprocess.run(command, capture_output=True, text=True)


def test_squawk_finds_no_lock_that_would_be_held_for_long(tmp_path: Path) -> None:
    bad = tmp_path / "bad.sql"
    bad.write_text("set local lock_timeout = '2s'; create index slow on sent_log (sent_at);")
    assert "concurrent" in squawk(bad).stdout
    files = sorted((ROOT / "sql" / "upgrades").glob("*.sql"))
    if files:
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


def test_a_schema_from_before_the_baseline_is_refused(db: Connection, database: str) -> None:
    db.execute("alter table schema_version drop column functions; update schema_version set version = 4")
    for use in (check_version, prepare):
        with pytest.raises(WrongSchema, match="use an empty database"):
            use(database)


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


def test_a_changed_function_alone_is_installed_with_its_privileges_while_a_worker_runs(
    shop: Connection, database: str, start: Callable[..., Process],
    changed_function: ChangeFunction, as_role: AsRole,
) -> None:  # fmt: skip
    worker = start("worker", DATABASE_URL=database)
    worker.expect("started")

    def privileges() -> object:
        return shop.execute(
            "select prosecdef, proconfig, proacl::text from pg_proc where oid = 'enqueue_chat'::regproc"
        ).fetchone()

    before = privileges()
    enqueue(shop)
    changed_function(
        "enqueue",
        "returns enqueued_chat\nlanguage plpgsql volatile set enable_seqscan = off as $$\ndeclare",
        "returns enqueued_chat\nlanguage plpgsql volatile set enable_seqscan = off as $$\n-- newer\ndeclare",
    )
    assert pending(database, ONLY_FUNCTIONS).functions == ["enqueue_chat"]
    prepare(database)
    done = migrate(database, ONLY_FUNCTIONS)
    assert (list(done.upgrades), done.functions) == ([], ["enqueue_chat"])
    assert done.files == ["functions/enqueue.sql", "functions/roles.sql"]
    assert "-- newer" in shop.execute("select prosrc from pg_proc where proname = 'enqueue_chat'").fetchone()[0]  # type: ignore[index]
    assert privileges() == before
    assert before is not None
    assert "shoptalk_web=X" in str(before)
    with psycopg.connect(as_role("web"), autocommit=True) as web:
        web.execute("select enqueue_chat(7, 1, 1, 'still allowed')")
    eventually(lambda: shop.execute("select count(*) from sent_log").fetchone() == (2,))
    assert not migrate(database, ONLY_FUNCTIONS), "a second run does nothing"
    assert worker.popen.poll() is None


def test_python_m_sql_reports_other_functions_and_changes_nothing(
    database: str, changed_function: ChangeFunction, caplog: pytest.LogCaptureFixture
) -> None:
    before = dump(database)
    caplog.set_level("WARNING", "shoptalk.schema")
    prepare(database)
    assert caplog.messages == []
    changed_function("views", "create or replace view paused as", "-- newer\ncreate or replace view paused as")
    prepare(database)
    assert caplog.messages == ["functions_differ"]
    assert dump(database) == before
    found = pending(database, ONLY_FUNCTIONS)
    assert (found.functions, found.files) == ([], ["functions/views.sql", "functions/roles.sql"])


def test_installing_takes_over_no_function_that_somebody_has_put_there(empty: str) -> None:
    with psycopg.connect(empty, autocommit=True) as db:
        db.execute("create function shoptalk_now() returns timestamptz language sql as 'select now()'")
    with pytest.raises(psycopg.errors.DuplicateFunction):
        prepare(empty)


def test_a_schema_that_was_made_since_and_is_first_in_the_path_gets_nothing(db: Connection, database: str) -> None:
    db.execute("create schema authorization current_user")
    assert db.execute("select current_schema() = current_user").fetchone() == (True,)
    migrate(database, [NEXT])
    assert db.execute("select relnamespace::regnamespace::text from pg_class where relname = 'fresh'").fetchall() == [
        ("public",)
    ]
    assert db.execute("select count(*) from pg_proc where pronamespace::regnamespace::text <> 'public'"
                      " and proname = 'send_chats'").fetchone() == (0,)  # fmt: skip


@pytest.mark.parametrize(("role", "starts"), [("worker", True), ("relay", True), ("web", False)])
def test_only_those_who_may_read_the_keys_require_one(
    as_role: AsRole, start: Callable[..., Process], role: str, starts: bool
) -> None:
    started = start("sql", DATABASE_URL=as_role(role), HOST="0.0.0.0")
    assert (started.popen.wait(60) == 0) == starts, started.lines


def test_a_second_run_does_nothing(db: Connection, database: str) -> None:
    assert migrate(database, [NEXT]).upgrades == [NEXT]
    assert version(db) == NEXT.version
    assert not migrate(database, [NEXT])
    assert not pending(database, [NEXT])


def test_two_at_once_do_it_once(db: Connection, database: str) -> None:
    slow = Upgrade(NEXT.version, "next", "select pg_sleep(0.5);" + NEXT.sql)
    done: list[int] = []
    threads = [threading.Thread(target=lambda: done.append(len(migrate(database, [slow]).upgrades))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 0, 1]
    assert version(db) == NEXT.version


def test_one_that_fails_leaves_everything_as_it_was(db: Connection, database: str) -> None:
    after = Upgrade(NEXT.version + 1, "after", "create table other (); create table other ();")
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(database, [NEXT, after])
    assert version(db) == VERSION
    assert db.execute("select to_regclass('fresh'), to_regclass('other')").fetchone() == (None, None)


def test_one_that_is_killed_leaves_everything_as_it_was_and_the_next_run_goes_on(db: Connection, database: str) -> None:
    code = (
        "import sys; from sql.upgrade import Upgrade, migrate;"
        "migrate(sys.argv[1], [Upgrade(int(sys.argv[2]), 'slow', sys.argv[3])])"
    )
    sql = NEXT.sql + "; select pg_sleep(600)"
    killed = subprocess.Popen([sys.executable, "-c", code, database, str(NEXT.version), sql], cwd=ROOT)
    sleeping = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
    eventually(lambda: db.execute(sleeping).fetchone() == (1,))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    began = time.monotonic()
    assert migrate(database, [NEXT]).upgrades == [NEXT]  # waits until the server has noticed: a second
    assert time.monotonic() - began < 60
    assert db.execute(sleeping).fetchone() == (0,)
    assert version(db) == NEXT.version


def test_a_busy_table_is_waited_for_in_short_turns_between_which_others_get_at_it(
    shop: Connection, connect: Callable[[], Connection], database: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(upgrading, "LOCK_TIMEOUT", "200ms")
    caplog.set_level("WARNING", "shoptalk.schema")
    holder, other = connect(), connect()
    other.execute("set lock_timeout = '10s'")
    holder.execute("begin")
    holder.execute("select from clients")
    done: list[Upgrade] = []
    thread = threading.Thread(target=lambda: done.extend(migrate(database, [NEXT_ON_CLIENTS]).upgrades))
    thread.start()
    longest = 0.0
    while caplog.messages.count("migration_put_off") < 2:
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
    shop: Connection, connect: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch, shoptalk: Shoptalk
) -> None:  # fmt: skip
    monkeypatch.setattr(upgrading, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(upgrading, "TRIES", 2)
    monkeypatch.setattr("cli.upgrade.upgrades", lambda: [NEXT_ON_CLIENTS])
    holder = connect()
    with holder.transaction():
        holder.execute("select from clients")
        answer = shoptalk("migrate")
    assert answer.status == 3
    assert "lock" in answer.err
    assert version(shop) == VERSION


def test_the_verb(
    db: Connection, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    assert shoptalk("migrate").out == f"the schema has version {VERSION}; nothing to do\n"
    monkeypatch.setattr("cli.upgrade.upgrades", lambda: [NEXT])
    assert NEXT.sql in shoptalk("migrate", "--dry-run").out
    found = shoptalk("migrate", "--dry-run", "--json").json
    assert found == {
        "version": VERSION, "dry_run": True, "functions": [], "files": list(install.function_files()),
        "upgrades": [{"version": NEXT.version, "name": "next", "sql": NEXT.sql}],
    }  # fmt: skip
    assert version(db) == VERSION
    assert shoptalk("migrate", "--json").json["upgrades"] == [{"version": NEXT.version, "name": "next"}]
    assert shoptalk("migrate", "--json").json == {
        "version": NEXT.version, "dry_run": False, "upgrades": [], "functions": [], "files": [],
    }  # fmt: skip


def test_an_empty_database_gets_the_schema(empty: str, shoptalk: Shoptalk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty)
    answer = shoptalk("migrate", "--dry-run")
    assert (answer.status, "has no schema yet" in answer.err) == (3, True)
    assert shoptalk("migrate").status == 0
    check_version(empty)
