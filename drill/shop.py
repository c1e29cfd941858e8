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
from sql.schema import prepare

PATIENCE_SECONDS = 30

Connection = psycopg.Connection[tuple[Any, ...]]

# A row in drill_switches turns a fault on: 'deaf' drops every NOTIFY, 'full' makes writing raise as a full
# disk does. A chat whose payload begins with "bad" cannot be sent unless drill_healed has it.
#
# pg_catalog is put behind public, so that our pg_notify() is the one that the schema's functions call.
SWITCHES = """
create table drill_switches (id integer generated always as identity primary key, name text not null);
create table drill_healed (chat_id bigint primary key);

create function pg_notify(channel text, payload text) returns void language plpgsql as $$
begin
    if not exists (select from drill_switches where name = 'deaf') then
        perform pg_catalog.pg_notify(channel, payload);
    end if;
end $$;

create function drill_disk() returns trigger language plpgsql as $$
begin
    if exists (select from drill_switches where name = 'full') then
        raise 'could not extend file: No space left on device' using errcode = '53100';
    end if;
    return null;
end $$;
create trigger drill_disk after insert on chats for each statement execute function drill_disk();
create trigger drill_disk after insert on sent_log for each statement execute function drill_disk();

create function drill_refuse_bad() returns trigger language plpgsql as $$
begin
    if exists (select from chats c where c.chat_id = new.chat_id and c.payload like 'bad%')
       and not exists (select from drill_healed h where h.chat_id = new.chat_id) then
        raise 'chat % is bad', new.chat_id;
    end if;
    return new;
end $$;
create trigger drill_refuse_bad before insert on sent_log for each row execute function drill_refuse_bad();

-- What prune() removes goes on counting in the account.
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
    """The server and its database; a context manager. Restart it only in the thread that entered it.

    (The server is told to end with the thread that started it.)
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

    def restart(self, at_once: bool) -> None:
        """Ends the server, at once as after a crash or in its fast way, and starts it where it was."""
        port = int(self._cluster.connection["PGPORT"])
        if at_once:
            pid = int((self.folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
        self._cluster.stop()
        self._cluster.start(port=port)

    def switch_on(self, name: str) -> int:
        """Turns one of the switches on; answers the id to turn it off with."""
        return int(self.one("insert into drill_switches (name) values (%s) returning id", name))

    def switch_off(self, switch: int) -> None:
        """Turns off what switch_on() turned on."""
        self.one("delete from drill_switches where id = %s returning id", switch)

    def one(self, statement: str, *values: object) -> Any:
        """The first value that a statement answers, asked again for a while if the server is away."""
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
    """A port that no client is given for its own end, even while its server is away."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", random.randrange(20_000, 30_000)))  # noqa: S311
                return int(probe.getsockname()[1])
            except OSError:
                continue
