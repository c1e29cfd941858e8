"""What many tests use one after the other, because making it takes longer than most tests do: a database, and web."""

from __future__ import annotations

import itertools
import urllib.request

import psycopg

from tests.support.db import Connection, on
from tests.support.processes import Start, eventually
from tests.support.web import IMPATIENT_APP, Web

KEPT = "schema_version"  # its row stays; the other rows of a fresh schema are inserted again:
FRESH_ROWS = {
    "pruned": "insert into pruned (upto) values (0)",
    "token_secrets": "insert into token_secrets default values",
}

# What a test may have changed and empty() does not undo: the schema and its version, the settings of the database, and
# the planner's statistics.
FINGERPRINT = """
with part (kind, text) as (
    select 'version', v::text from schema_version v
    union all
    select 'function', p::text from pg_proc p where p.pronamespace = 'public'::regnamespace
    union all
    select 'relation', concat_ws(' ', c.oid, c.relname, c.relkind, c.reloptions, c.relacl, c.relhastriggers)
    from pg_class c where c.relnamespace = 'public'::regnamespace
    union all
    select 'column', concat_ws(' ', a.attrelid, a.attname, a.atttypid, a.attnotnull, a.attstattarget, a.attacl)
    from pg_attribute a where a.attrelid in (select c.oid from pg_class c where c.relnamespace = 'public'::regnamespace)
    union all
    select 'trigger', concat_ws(' ', t.oid, t.tgname, t.tgenabled) from pg_trigger t
    union all
    select 'constraint', concat_ws(' ', r.oid, r.conname) from pg_constraint r
    union all
    select 'schema', n::text from pg_namespace n where n.nspname !~ '^pg_(toast_)?temp'
    union all
    select 'setting', s.setconfig::text from pg_db_role_setting s
    where s.setdatabase = (select d.oid from pg_database d where d.datname = current_database())
    union all
    select 'database', concat_ws(' ', d.datacl, d.datallowconn, d.datconnlimit)
    from pg_database d where d.datname = current_database()
    union all
    select distinct 'statistics', s.starelid::text from pg_statistic s
    join pg_class c on c.oid = s.starelid where c.relnamespace = 'public'::regnamespace
)
select md5(string_agg(kind || text, ',' order by kind, text)) from part
"""


class ReusedDatabase:
    """A database with the schema, emptied for each test, and made again after a test that changed its schema."""

    _serial = itertools.count(1)

    def __init__(self, server: str, template: str) -> None:
        self._server, self._template = server, template
        self._make()

    def _make(self) -> None:
        self._name = f"{self._template}_{next(self._serial)}"
        self.conninfo = on(self._server, self._name)
        with psycopg.connect(self._server, autocommit=True) as admin:
            admin.execute(f"create database {self._name} template {self._template} strategy file_copy")
        self._db = psycopg.connect(self.conninfo, autocommit=True)
        self._fingerprint = fingerprint(self._db)
        filled = {table for table in tables(self._db) if self._db.execute(f"select from {table} limit 1").rowcount}
        assert filled == {KEPT, *FRESH_ROWS}, "a fresh schema has rows that empty() does not know"

    def drop(self) -> None:
        self._db.close()
        with psycopg.connect(self._server, autocommit=True) as admin:
            admin.execute(f"drop database {self._name} with (force)")

    def empty(self, keep_sessions: bool = False) -> str:
        """Makes it as good as new and returns how to connect to it."""
        try:
            is_as_made = self._empty(keep_sessions)
        except psycopg.OperationalError:  # the test has cut our session too
            is_as_made = False
        if not is_as_made:
            self.drop()
            self._make()
        return self.conninfo

    def _empty(self, keep_sessions: bool) -> bool:
        """Whether the schema is as it was made; only then the database is emptied."""
        if not keep_sessions:
            self._db.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        if fingerprint(self._db) != self._fingerprint:
            return False
        with self._db.transaction():
            self._db.execute(f"truncate {', '.join(tables(self._db) - {KEPT})} cascade")
            self._db.execute("select setval(seqrelid, seqstart, false) from pg_sequence")
            for statement in FRESH_ROWS.values():
                self._db.execute(statement)
        self._db.execute("select pg_stat_reset()")
        return True


def tables(db: Connection) -> set[str]:
    """The tables that have, or have had, a row."""
    rows = db.execute(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        " and pg_relation_size(oid) > 0"
    )
    return {name for (name,) in rows}


def fingerprint(db: Connection) -> object:
    return db.execute(FINGERPRINT).fetchone()


class SharedWeb:
    """A web process for tests that neither stop it nor change the schema."""

    def __init__(self, start: Start, server: str, template: str) -> None:
        self._database = ReusedDatabase(server, template)
        self.web = Web(start, self._database.conninfo, app=IMPATIENT_APP)

    def empty(self) -> str:
        """Empties the database once the web process has noticed that the readers of the last test are gone."""
        with psycopg.connect(self._database.conninfo, autocommit=True) as db:
            eventually(lambda: self._streams() == 0 and db.execute("select from presence").rowcount == 0, 20)
        return self._database.empty(keep_sessions=True)

    def close(self) -> None:
        self._database.drop()

    def _streams(self) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("shoptalk_streams "))
