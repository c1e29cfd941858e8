"""PostgreSQL for the tests, and what most tests do on a database: enqueue, send, look."""

from __future__ import annotations

import random
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import testing.postgresql

from embedded import programs
from tests.support.processes import eventually

Connection = psycopg.Connection[tuple[Any, ...]]


AsRole = Callable[[str], str]


class Postgresql(testing.postgresql.Postgresql):
    """testing.postgresql with the embedded programs, also as root."""

    DEFAULT_SETTINGS = {  # noqa: RUF012
        **testing.postgresql.Postgresql.DEFAULT_SETTINGS,
        "initdb_args": "-U postgres -A trust -E UTF8 --locale=C --no-sync --no-instructions",
        # 200 connections: the tests run many processes at once.
        "postgres_args": "-h 127.0.0.1 -F -c synchronous_commit=off -c full_page_writes=off -c max_connections=200",
    }

    def initialize(self) -> None:
        folder = programs.folder()
        self.settings["initdb"], self.settings["postgres"] = str(folder / "initdb"), str(folder / "postgres")
        super().initialize()

    def initialize_database(self) -> None:
        programs.give_ownership(Path(self.base_dir))
        command = [self.initdb, "-D", self.get_data_directory(), *self.settings["initdb_args"].split()]
        subprocess.run(
            programs.run_as_server(command), check=True, stdout=subprocess.DEVNULL, env=programs.environment()
        )

    def get_server_commandline(self) -> list[str]:
        return programs.run_as_server([str(word) for word in super().get_server_commandline()])


def on(server: str, database: str) -> str:
    """How to connect to the database on the server, as libpq's keyword string."""
    return psycopg.conninfo.make_conninfo(server, dbname=database)


def clock(connection: Connection, instant: str) -> None:
    """Stops the clock of the session's hour rule at the instant, UTC."""
    connection.execute("select set_config('shoptalk.now', %s, false)", [instant + "+00"])


ENQUEUE = "select * from enqueue_chat(%s, %s, %s, %s, %s, %s)"


def enqueue(db: Connection, conversation: int | None = 7, payload: str = "hello", chat_id: int | None = None,
            client: int = 1, operator: int = 1, sender: str = "client") -> psycopg.rows.Row:  # fmt: skip
    cursor = db.cursor(row_factory=psycopg.rows.namedtuple_row)
    return cursor.execute(ENQUEUE, [conversation, client, operator, payload, sender, chat_id]).fetchone()


def count(db: Connection, table: str) -> int:
    return db.execute(f"select count(*) from {table}").fetchone()[0]


def wait_until_blocked(db: Connection, session: Connection) -> None:
    """Returns once the session waits for a lock of another session."""
    blocking = "select cardinality(pg_blocking_pids(%s)) > 0"
    eventually(lambda: db.execute(blocking, [session.info.backend_pid]).fetchone() == (True,))


def send_batch(db: Connection, batch_size: int = 500, live_from: str = "-infinity") -> Any:
    """Claims and sends one batch, and returns the report of send_chats()."""
    cursor = db.cursor(row_factory=psycopg.rows.namedtuple_row)
    return cursor.execute("select * from send_chats(%s, %s)", [batch_size, live_from]).fetchone()


def sent(db: Connection) -> list[tuple[int, int]]:
    """(conversation, seq) in the order of the log."""
    return db.execute("select conversation_id, seq from sent_log order by position").fetchall()


def states(db: Connection) -> list[str]:
    """The state of each chat, by conversation and seq."""
    return [s for (s,) in db.execute("select state from chat_states order by conversation_id, seq")]


def poison(db: Connection) -> None:
    """From now on, sending a chat whose payload starts with "bad" raises an error."""
    db.execute(
        """create function refuse_bad() returns trigger language plpgsql as $$ begin
             if exists (select from chats c where c.chat_id = new.chat_id and c.payload like 'bad%') then
               raise 'this chat cannot be sent'; end if; return new; end $$;
           create trigger refuse_bad before insert on sent_log for each row execute function refuse_bad()"""
    )


def looked_at(db: Connection, work: Callable[[], None]) -> dict[str, tuple[int, int]]:
    """For each table: how many sequential scans the work made, and how many rows it fetched by index."""
    counters = "select relname, seq_scan, coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables"
    with db.transaction():
        before = {name: counts for name, *counts in db.execute(counters)}
        work()
        after = {name: counts for name, *counts in db.execute(counters)}
    return {name: (scans - before[name][0], rows - before[name][1]) for name, (scans, rows) in after.items()}


def post_and_send(db: Connection, conversation: int = 7, payload: str = "hi", **parties: int) -> dict[str, Any]:
    """Enqueues one chat and sends it at once."""
    chat = enqueue(db, conversation, payload, **parties)
    db.execute("select send_chats()")
    return {"chat_id": chat.chat_id, "seq": chat.seq}


def enqueue_until(database: str, conversations: range, chats: int, enough: threading.Event) -> list[int]:
    """Enqueues chats one by one: at least so many, and until `enough` is set. Returns their ids."""
    ids = list[int]()
    with psycopg.connect(database, autocommit=True) as db:
        while len(ids) < chats or not enough.is_set():
            ids.append(enqueue(db, random.choice(conversations)).chat_id)
    return ids


def make_key(db: Connection, name: str, scopes: str = "{send,read,admin}", store_id: int | None = None) -> str:
    row = db.execute("select make_key(%s, %s, %s)", [name, scopes, store_id]).fetchone()
    assert row is not None
    return str(row[0])


def set_clock(db: Connection, instant: str) -> None:
    """Stops the clock of every session that starts from now on, and closes the sessions of our processes."""
    (name,) = db.execute("select current_database()").fetchone()
    db.execute(f"alter database {name} set shoptalk.now = '{instant}+00'")
    db.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where datname = current_database() and application_name like 'shoptalk%%'"
    )


def run_pg_program(program: str, *arguments: str, given: bytes = b"") -> bytes:
    """The output of one of PostgreSQL's own programs."""
    command = programs.run_as_server([str(programs.folder() / program), *arguments])
    done = subprocess.run(command, env=programs.environment(), input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def dump(database_url: str) -> str:
    """The schema as pg_dump prints it, without the lines that differ from run to run."""
    text = run_pg_program("pg_dump", "--schema-only", database_url).decode()
    return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)
