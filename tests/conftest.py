"""The fixtures: a real PostgreSQL server, a database for each test, real processes, a browser, RabbitMQ."""

from __future__ import annotations

import datetime as dt
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient
from playwright.sync_api import Browser, sync_playwright

from api import context
from api.app import create_app
from cli import main as cli_main
from drill.rabbit import Rabbit, program
from embedded import programs
from sql.install import prepare
from sql.open_files import allow_most_open_files
from sql.settings import Settings
from tests.support.api import MakeClient
from tests.support.browser import FLAGS, Site
from tests.support.cli import Answer, Shoptalk
from tests.support.db import AsRole, Connection, Postgresql, on
from tests.support.deploy import render
from tests.support.processes import Start, find_program, free_port, starting
from tests.support.proxy import Proxy
from tests.support.relay import Receiver
from tests.support.reused import ReusedDatabase, SharedWeb
from tests.support.web import Web

allow_most_open_files()  # a test opens a thousand streams


# A job in the background has it ignored, and what the tests start would inherit that and not end by Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a database on the server that the tests use: DATABASE_URL's, or one of our own."""
    given = os.environ.pop("DATABASE_URL", "")
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder, Postgresql(base_dir=folder) as own:
        yield own.url(database="postgres")


def memory_folder() -> str | None:
    """Where files are in memory, if there is plenty of it: emptying a database there takes a fifth of the time."""
    shared = "/dev/shm"
    has_room = Path(shared).is_dir() and shutil.disk_usage(shared).free > 4 * 2**30
    return shared if has_room and os.access(shared, os.W_OK) else None


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a database with the schema in it, to be cloned."""
    name = f"shoptalk_template_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create database {name}")
        prepare(on(server, name))
        yield name
        admin.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def reused_database(server: str, template: str) -> Iterator[ReusedDatabase]:
    """The database of all tests, one after the other."""
    reused = ReusedDatabase(server, template)
    yield reused
    reused.drop()


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """A database with the schema and nothing else in it, as libpq's keyword string; with `web`, that one's."""
    reused = request.getfixturevalue("shared_web" if "web" in request.fixturenames else "reused_database")
    return str(reused.empty())


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


@pytest.fixture(scope="session")
def make_client() -> Iterator[MakeClient]:
    """Makes clients of an app: make_client(database_url, and other Settings). New stores are always open."""
    engines = []

    def make_client(database_url: str, **others: Any) -> FlaskClient:
        settings = {"database_url": database_url, "hours": (dt.time(0), dt.time(0))} | others
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


@pytest.fixture
def as_role(database: str, db: Connection) -> Iterator[AsRole]:
    """Makes an account with the role and returns how it connects."""
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


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python modules as processes that end with the test: start("worker", DATABASE_URL=…)."""
    with starting(sys.executable, "-m") as start:
        yield start


@pytest.fixture
def run() -> Iterator[Start]:
    """Starts programs that end with the test."""
    with starting() as run:
        yield run


@pytest.fixture(scope="session")
def shared_web(server: str, template: str) -> Iterator[SharedWeb]:
    """The web process of all tests that use `web`."""
    with starting(sys.executable, "-m") as start:
        shared = SharedWeb(start, server, template)
        yield shared
    shared.close()


@pytest.fixture
def web(shop: Connection, shared_web: SharedWeb) -> Web:
    """The shared web process, on the shop. Its waits are short, see tests/support/impatient.py."""
    return shared_web.web


@pytest.fixture
def own_web(shop: Connection, database: str, start: Start) -> Web:
    """A web process of the test's own, on the shop."""
    return Web(start, database)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def shoptalk(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shoptalk:
    """Runs the command line on the test's database: shoptalk("cancel", "7")."""
    monkeypatch.setenv("DATABASE_URL", database)

    def shoptalk(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["shoptalk", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli_main.main()
        out, err = capsys.readouterr()
        return Answer(int(end.value.code or 0), out, err)

    return shoptalk


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Not for the whole session: while it runs, asyncio.run() works in no other test."""
    program = find_program("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def site(browser: Browser, start: Start, shop: Connection, database: str) -> Iterator[Site]:
    """The shop's pages, with a web process and a worker of the test's own."""
    site = Site(browser, start, database)
    yield site
    site.close()


@pytest.fixture(scope="session")
def rabbit() -> Iterator[Rabbit]:
    """A RabbitMQ of the tests' own, with Debian's programs."""
    if program() is None:
        assert not os.environ.get("CI"), "rabbitmq-server is not installed"
        pytest.skip("needs rabbitmq-server")
    folder = Path(tempfile.mkdtemp())
    with Rabbit(folder) as rabbit:
        yield rabbit
    shutil.rmtree(folder)


@pytest.fixture
def proxy() -> Iterator[Callable[[str, int], Proxy]]:
    """Makes TCP proxies in front of servers: proxy(host, port)."""
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


@pytest.fixture
def pooler(database: str, run: Start, public_folder: Path) -> str:
    """A PgBouncer in transaction mode in front of the test's database, with two server connections; its URL."""
    pgbouncer = find_program("pgbouncer")
    real = psycopg.conninfo.conninfo_to_dict(database)
    port = free_port()
    users = public_folder / "userlist.txt"
    users.write_text(f'"{real["user"]}" "secret"\n')
    config = render(
        "pgbouncer.ini",
        public_folder,
        {
            "host=127.0.0.1 port=5432 dbname=shoptalk": "host={host} port={port} dbname={dbname}".format(**real),
            "admin_users = shoptalk": f"admin_users = {real['user']}",
            "listen_port = 6432": f"listen_port = {port}",
            "default_pool_size = 20": "default_pool_size = 2",
            "reserve_pool_size = 5": "reserve_pool_size = 0",
            "/etc/pgbouncer/userlist.txt": str(users),
            "/var/log/postgresql/pgbouncer.log": str(public_folder / "log"),
            "/var/run/postgresql/pgbouncer.pid": str(public_folder / "pid"),
        },
    )
    programs.give_ownership(public_folder)  # it will not run as root
    bouncer = run(*programs.run_as_server([pgbouncer, str(config)]))
    bouncer.expect("process up")
    return psycopg.conninfo.make_conninfo(
        host="127.0.0.1", port=port, dbname="shoptalk", user=str(real["user"]), password="secret"
    )
