"""What the tests stand on: a real server, a database of its own for each test, real processes."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import testing.postgresql
from flask.testing import FlaskClient

from api import context
from api.app import create_app
from drill.rabbit import Rabbit, program
from embedded import programs
from sql.open_files import allow_most_open_files
from sql.schema import prepare
from sql.settings import Settings
from tests.proxy import Proxy

ROOT = Path(__file__).parent.parent
Connection = psycopg.Connection[tuple[Any, ...]]

serial = itertools.count(1)

allow_most_open_files()  # a test opens a thousand streams


# A job in the background has it ignored, and what the tests start would inherit that and not end by Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Postgresql(testing.postgresql.Postgresql):
    """testing.postgresql on the embedded programs, also as root, ended with us."""

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
        programs.give(Path(self.base_dir))
        command = [self.initdb, "-D", self.get_data_directory(), *self.settings["initdb_args"].split()]
        subprocess.run(programs.becoming(command), check=True, stdout=subprocess.DEVNULL, env=programs.environment())

    def get_server_commandline(self) -> list[str]:
        return programs.becoming([str(word) for word in super().get_server_commandline()])


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a database on the server that the tests use: DATABASE_URL's, or one of our own."""
    given = os.environ.pop("DATABASE_URL", "")
    if given:
        yield given
        return
    with Postgresql() as own:
        yield own.url(database="postgres")


def on(server: str, database: str) -> str:
    return psycopg.conninfo.make_conninfo(server, dbname=database)


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a database with the schema in it, to be cloned."""
    name = f"shoptalk_template_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name}")
        prepare(on(server, name))
        yield name
        admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def database(server: str, template: str) -> Iterator[str]:
    """A database of the test's own, as libpq's keyword string."""
    name = f"{template}_{next(serial)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name} template {template} strategy file_copy")
        yield on(server, name)
        admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def empty(server: str) -> Iterator[str]:
    """A database with nothing in it."""
    name = f"shoptalk_empty_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name}")
        yield on(server, name)
        admin.execute(f"drop database {name} with (force)")


@pytest.fixture
def connect(database: str) -> Iterator[Callable[[], Connection]]:
    """Opens sessions that end with the test."""
    opened: list[Connection] = []

    def connect() -> Connection:
        opened.append(psycopg.connect(database, autocommit=True))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def db(connect: Callable[[], Connection]) -> Connection:
    return connect()


@pytest.fixture
def shop(db: Connection) -> Connection:
    """The database with store 1, always open, and store 2, open 09:00-14:00 UTC; a client and operators."""
    db.execute("select add_store(1, 'UTC', '00:00', '00:00'), add_store(2, 'UTC', '09:00', '14:00')")
    db.execute("insert into clients values (1, 'Ann', 'Oslo'), (2, 'Ben', 'Rome')")
    db.execute("insert into operators values (1, 'Olga', 'day', 1), (2, 'Otto', 'night', 2)")
    return db


MakeClient = Callable[..., FlaskClient]


@pytest.fixture(scope="session")
def make_client() -> Iterator[MakeClient]:
    """Makes clients of an app: make_client(database_url, and other Settings). New stores are always open."""
    engines = []

    def make_client(database_url: str, **others: Any) -> FlaskClient:
        settings = {"database_url": database_url, "opens": dt.time(0), "closes": dt.time(0)} | others
        app = create_app(Settings(**settings))
        with app.app_context():
            engines.append(context.engine())
        return app.test_client()

    yield make_client
    for engine in engines:
        engine.dispose()


@pytest.fixture
def client(database: str, make_client: MakeClient) -> FlaskClient:
    """A client of the app on the test's database."""
    return make_client(database)


AsRole = Callable[[str], str]


@pytest.fixture
def as_role(database: str, db: Connection) -> Iterator[AsRole]:
    """Makes an account that has the role, and answers how it connects."""
    made = set()

    def as_role(role: str) -> str:
        name = f"{psycopg.conninfo.conninfo_to_dict(database)['dbname']}_{role}"
        if name not in made:
            made.add(name)
            db.execute(f"create role {name} login password 'x' in role shoptalk_{role}")
        return psycopg.conninfo.make_conninfo(database, user=name, password="x")

    yield as_role
    for name in made:
        db.execute(f"drop owned by {name}")  # its temporary tables, which the server takes its time to drop
        db.execute(f"drop role {name}")


def clock(connection: Connection, instant: str) -> None:
    """Stops the clock of the session's hour rule at the instant, UTC."""
    connection.execute("select set_config('shoptalk.now', %s, false)", [instant + "+00"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(holds: Callable[[], bool], seconds: float = 180) -> None:
    """Returns once it holds; for what announces itself in no other way than by being so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"


class Process:
    """A process of ours with its output as it comes; waits on lines, never on time."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self.popen = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout as output:
            for line in output:
                self.lines.append(line)
                self._new.put(line)
        self._new.put(None)

    def expect(self, text: str, seconds: float = 60) -> str:
        """The next line with the text."""
        while True:
            line = self._new.get(timeout=seconds)
            assert line is not None, f"ended without {text!r}: {self.lines}"
            if text in line:
                return line

    def end(self, how: signal.Signals = signal.SIGTERM, seconds: float = 15) -> int:
        """Sends the signal and answers the exit status."""
        self.popen.send_signal(how)
        try:
            return self.popen.wait(seconds)
        finally:
            self.popen.kill()
            self.popen.wait()
            self._reader.join(5)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts processes that end with the test: start("worker", DATABASE_URL=…)."""
    started: list[Process] = []

    def start(*command: str, **env: str) -> Process:
        started.append(Process([sys.executable, "-m", *command], env))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """A RabbitMQ of the tests' own, with Debian's programs."""
    if program() is None:
        assert not os.environ.get("CI"), "rabbitmq-server is missing, and CI goes without nothing"
        pytest.skip("needs rabbitmq-server")
    folder = Path(tempfile.mkdtemp())
    with Rabbit(folder) as rabbit:
        yield rabbit
    shutil.rmtree(folder)


@pytest.fixture
def proxy() -> Iterator[Callable[[str, int], Proxy]]:
    """Makes proxies in front of servers: proxy(host, port)."""
    made: list[Proxy] = []

    def proxy(host: str, port: int) -> Proxy:
        made.append(Proxy(host, port))
        return made[-1]

    yield proxy
    for one in made:
        one.close()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A temporary folder that the servers' account can enter, unlike pytest's own when we are root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
