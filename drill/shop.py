"""The throwaway database of a drill: an embedded server, the schema, and the drill's own switches in it."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import psycopg

from embedded.cluster import Cluster
from sql.install import prepare

PATIENCE_SECONDS = 30

Connection = psycopg.Connection[tuple[Any, ...]]

# A row in drill_switches turns a fault on: 'no-notify' drops every NOTIFY, 'disk-full' makes writes raise as on a full
# disk. A chat whose payload begins with "bad" cannot be sent unless it is in drill_repaired.
#
# The search path has public before pg_catalog, so that the schema's functions call the pg_notify() defined here.
SWITCHES = """
create table drill_switches (id integer generated always as identity primary key, name text not null);
create table drill_repaired (chat_id bigint primary key);

create function pg_notify(channel text, payload text) returns void language plpgsql as $$
begin
    if not exists (select from drill_switches where name = 'no-notify') then
        perform pg_catalog.pg_notify(channel, payload);
    end if;
end $$;

create function drill_fill_disk() returns trigger language plpgsql as $$
begin
    if exists (select from drill_switches where name = 'disk-full') then
        raise 'could not extend file: No space left on device' using errcode = '53100';
    end if;
    return null;
end $$;
create trigger drill_fill_disk after insert on chats for each statement execute function drill_fill_disk();
create trigger drill_fill_disk after insert on sent_log for each statement execute function drill_fill_disk();

create function drill_refuse_bad() returns trigger language plpgsql as $$
begin
    if exists (select from chats c where c.chat_id = new.chat_id and c.payload like 'bad%')
       and not exists (select from drill_repaired h where h.chat_id = new.chat_id) then
        raise 'chat % is bad', new.chat_id;
    end if;
    return new;
end $$;
create trigger drill_refuse_bad before insert on sent_log for each row execute function drill_refuse_bad();

-- Pruned chats still count in the account.
create table drill_pruned_chats (like chats);
create table drill_pruned_log (like sent_log);
create table drill_pruned_failures (like chat_failures);
create table drill_pruned_cancelled (like cancelled_chats);

create function drill_keep() returns trigger language plpgsql as $$
begin
    execute format('insert into %I select * from gone', tg_argv[0]);
    return null;
end $$;
create trigger drill_keep after delete on chats referencing old table as gone
    for each statement execute function drill_keep('drill_pruned_chats');
create trigger drill_keep after delete on sent_log referencing old table as gone
    for each statement execute function drill_keep('drill_pruned_log');
create trigger drill_keep after delete on chat_failures referencing old table as gone
    for each statement execute function drill_keep('drill_pruned_failures');
create trigger drill_keep after delete on cancelled_chats referencing old table as gone
    for each statement execute function drill_keep('drill_pruned_cancelled');

create view drill_chats as select * from chats union all select * from drill_pruned_chats;
create view drill_log as select * from sent_log union all select * from drill_pruned_log;
create view drill_failures as select * from chat_failures union all select * from drill_pruned_failures;
create view drill_cancelled as select * from cancelled_chats union all select * from drill_pruned_cancelled;

do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$;

select add_store(1, 'UTC', '00:00', '00:00');
insert into clients values (1, 'Ann', 'Oslo');
insert into operators values (1, 'Olga', 'day', 1);
"""


class Shop:
    """The server and its database; a context manager. Only the thread that entered it may restart it.

    (The server ends with the thread that started it.)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cluster = Cluster(folder / "data")
        self.url = ""

    def __enter__(self) -> Shop:
        self._cluster.__enter__()
        self._cluster.stop()
        self._cluster.start(port=free_port())
        self.url = self._cluster.url
        prepare(self.url)
        with self.connect("drill") as connection:
            connection.execute(SWITCHES)
        return self

    def __exit__(self, *error: Any) -> None:
        self._cluster.__exit__(*error)

    def connect(self, name: str, **options: Any) -> Connection:
        """A session in autocommit. Raises psycopg.Error."""
        return psycopg.connect(
            self.url,
            autocommit=True,
            connect_timeout=10,
            application_name=name,
            options="-c statement_timeout=30s -c timezone=UTC",
            **options,
        )

    def restart(self, immediate: bool) -> None:
        """Shuts the server down, immediately (as in a crash) or fast, and starts it on the same port."""
        port = int(self._cluster.connection["PGPORT"])
        if immediate:
            pid = int((self.folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
        self._cluster.stop()
        self._cluster.start(port=port)

    def switch_on(self, name: str) -> int:
        """Turns a switch on; returns the id for switch_off()."""
        return int(self.one("insert into drill_switches (name) values (%s) returning id", name))

    def switch_off(self, switch: int) -> None:
        """Reverts a switch_on()."""
        self.one("delete from drill_switches where id = %s returning id", switch)

    def one(self, statement: str, *values: object) -> Any:
        """The first value that a statement returns; retried for a while if the server is down."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self.connect("drill") as connection:
                    row = connection.execute(statement.encode(), values).fetchone()
                return row[0] if row else None
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def free_port() -> int:
    """A port outside the range of client ports, so that no client gets it while its server is down."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(20_000, 30_000)))  # noqa: S311
                return int(probe.getsockname()[1])
            except OSError:
                continue
