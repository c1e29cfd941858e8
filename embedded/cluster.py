"""The embedded PostgreSQL server of one data folder: create it, start it, stop it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import psutil
import psycopg

from embedded import programs

NAME = "shoptalk"  # of the superuser and of the database
START_SECONDS = 60
STOP_SECONDS = 3


def data_folder() -> Path:
    """SHOPTALK_DATA, or `.data` in the checkout, or, if the server's account cannot reach that, one in /var/lib."""
    given = os.environ.get("SHOPTALK_DATA")
    if given:
        return Path(given).absolute()
    checkout = Path(__file__).parent.parent
    if programs.is_reachable(checkout):
        return checkout / ".data"
    return programs.STATE_FOLDER / ("data-" + hashlib.sha256(str(checkout).encode()).hexdigest()[:12])


class Cluster:
    """A server on a data folder, listening on 127.0.0.1 with a password; a context manager.

    Only one process at a time can have it started; others can read its `connection` meanwhile. Entering raises
    programs.EmbeddedServerError, whose text says what to do.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "postgres"
        self._password_file = folder / "password"
        self._port_file = folder / "port"
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def connection(self) -> dict[str, str]:
        """libpq's environment variables for the server as it was last started."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": self._port_file.read_text(),
            "PGUSER": NAME,
            "PGDATABASE": NAME,
            "PGPASSWORD": self._password_file.read_text(),
        }

    @property
    def url(self) -> str:
        """The same as a URL."""
        server = self.connection
        return f"postgresql://{NAME}:{server['PGPASSWORD']}@{server['PGHOST']}:{server['PGPORT']}/{NAME}"

    def is_in_use(self) -> bool:
        """Whether another process has started it."""
        try:
            self._lock()
        except (BlockingIOError, FileNotFoundError):
            return self.folder.exists()
        os.close(self._lock_descriptor)
        return False

    def __enter__(self) -> Cluster:
        try:
            self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._lock()
        except BlockingIOError:
            raise programs.EmbeddedServerError(f"Shoptalk is already running on {self.folder}") from None
        except PermissionError as error:
            raise programs.EmbeddedServerError(f"{error}: set SHOPTALK_DATA to a folder of your own") from None
        if not (self._data / "PG_VERSION").exists():
            self._initialize(programs.folder() / "initdb")
        owner = programs.account()
        if owner is not None and self._data.stat().st_uid != owner.pw_uid:
            programs.give_ownership(self._data)  # the account `postgres`, which is preferred, was created since
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        os.close(self._lock_descriptor)

    def start(self, port: int = 0) -> None:
        """Starts the server on the port (0: a free one), and waits until it accepts connections."""
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
        command = [str(programs.folder() / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "server.log").open("ab") as log:
            # In a session of its own, so that Ctrl-C reaches only us; we stop the server last.
            self._server = subprocess.Popen(
                programs.run_as_server(command),
                env=programs.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._port_file.write_text(str(port))
        self._await_ready()

    def stop(self) -> None:
        """Stops the server: fast shutdown, then immediate (it recovers at the next start), then kill."""
        if self._server is not None:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                self._server.send_signal(number)
                try:
                    self._server.wait(STOP_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue

    def is_alive(self) -> bool:
        """Whether the server that we started still runs."""
        return self._server is not None and self._server.poll() is None

    def processes(self) -> set[int]:
        """The process ids of the server."""
        if self._server is None or self._server.poll() is not None:
            return set()
        children = psutil.Process(self._server.pid).children(recursive=True)
        return {self._server.pid, *(process.pid for process in children)}

    def _lock(self) -> None:
        self._lock_descriptor = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_descriptor)
            raise

    def _initialize(self, initdb: Path) -> None:
        """Creates the database cluster. One that was left incomplete by a kill is created again."""
        password = self._password_file
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        unfinished = self.folder / "postgres.unfinished"
        if unfinished.exists():
            subprocess.run(["rm", "-rf", str(unfinished)], check=True)
        unfinished.mkdir(mode=0o700)
        programs.give_ownership(unfinished)
        if not programs.is_reachable(unfinished, "-w"):
            raise programs.EmbeddedServerError(
                f"PostgreSQL's account cannot access {self.folder}: set SHOPTALK_DATA to a folder that it can access"
            )
        programs.give_ownership(password)
        command = [str(initdb), "-D", str(unfinished), "-U", NAME, "-A", "scram-sha-256", f"--pwfile={password}"]
        command += ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = subprocess.run(
            programs.run_as_server([*command, "--no-instructions"]),
            env=programs.environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise programs.EmbeddedServerError(f"initdb failed: {done.stderr.strip()}")
        unfinished.rename(self._data)

    def _await_ready(self) -> None:
        assert self._server is not None
        deadline = time.monotonic() + START_SECONDS
        conninfo = psycopg.conninfo.make_conninfo(self.url, dbname="postgres", connect_timeout=5)
        while True:
            try:
                with psycopg.connect(conninfo, autocommit=True) as connection:
                    if not connection.execute("select 1 from pg_database where datname = %s", [NAME]).fetchone():
                        connection.execute(f"create database {NAME}")
                return
            except psycopg.OperationalError as error:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise programs.EmbeddedServerError(
                        f"PostgreSQL did not start, see {self.folder}/server.log"
                    ) from error
                time.sleep(0.05)
