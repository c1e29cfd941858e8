"""The embedded PostgreSQL server of one data folder: make it, start it, stop it."""

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
    """SHOPTALK_DATA, else `.data` in the checkout, else (root in a closed folder) one below /var/lib."""
    given = os.environ.get("SHOPTALK_DATA")
    if given:
        return Path(given).absolute()
    checkout = Path(__file__).parent.parent
    if programs.reachable(checkout):
        return checkout / ".data"
    return programs.STATE_FOLDER / ("data-" + hashlib.sha256(str(checkout).encode()).hexdigest()[:12])


class Cluster:
    """A server over a data folder, listening on 127.0.0.1 with a password; a context manager.

    One process at a time may have it started; others may read its `connection` meanwhile. Entering raises
    programs.Unusable with what to do about it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "postgres"
        self._password_file = folder / "password"
        self._port_file = folder / "port"
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def connection(self) -> dict[str, str]:
        """Libpq's variables for the server as it was started last."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": self._port_file.read_text(),
            "PGUSER": NAME,
            "PGDATABASE": NAME,
            "PGPASSWORD": self._password_file.read_text(),
        }

    @property
    def url(self) -> str:
        """The same as a DATABASE_URL."""
        c = self.connection
        return f"postgresql://{NAME}:{c['PGPASSWORD']}@{c['PGHOST']}:{c['PGPORT']}/{NAME}"

    def is_in_use(self) -> bool:
        """Whether another process has it started."""
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
            raise programs.Unusable(f"Shoptalk is running already on {self.folder}") from None
        except PermissionError as error:
            raise programs.Unusable(f"{error}: set SHOPTALK_DATA to a folder of your own") from None
        if not (self._data / "PG_VERSION").exists():
            self._initialize(programs.folder() / "initdb")
        owner = programs.account()
        if owner is not None and self._data.stat().st_uid != owner.pw_uid:
            programs.give(self._data)  # `postgres` has come to be since, and is preferred
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        os.close(self._lock_descriptor)

    def start(self, port: int = 0) -> None:
        """Starts the server on the port, 0 for a free one, and waits until it answers."""
        if not port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
        command = [str(programs.folder() / "postgres"), "-D", str(self._data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "server.log").open("ab") as log:
            # A session of its own: Ctrl-C is for us, who end it last.
            self._server = subprocess.Popen(
                programs.becoming(command),
                env=programs.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._port_file.write_text(str(port))
        self._await()

    def stop(self) -> None:
        """Ends the server: fast, and after a while at once (it then recovers at the next start)."""
        if self._server is not None:
            for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                self._server.send_signal(how)
                try:
                    self._server.wait(STOP_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    continue

    def is_alive(self) -> bool:
        """Whether the server that we started is still there."""
        return self._server is not None and self._server.poll() is None

    def processes(self) -> set[int]:
        """The process ids of the server."""
        if self._server is None or self._server.poll() is not None:
            return set()
        family = psutil.Process(self._server.pid).children(recursive=True)
        return {self._server.pid, *(process.pid for process in family)}

    def _lock(self) -> None:
        self._lock_descriptor = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock_descriptor)
            raise

    def _initialize(self, initdb: Path) -> None:
        """Makes the database cluster; a folder left half-made by a kill is made again."""
        password = self._password_file
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        making = self.folder / "postgres.making"
        if making.exists():
            subprocess.run(["rm", "-rf", str(making)], check=True)
        making.mkdir(mode=0o700)
        programs.give(making)
        if not programs.reachable(making, "-w"):
            raise programs.Unusable(
                f"PostgreSQL's account cannot reach {self.folder}: set SHOPTALK_DATA to a folder that it can"
            )
        programs.give(password)
        command = [str(initdb), "-D", str(making), "-U", NAME, "-A", "scram-sha-256", f"--pwfile={password}"]
        command += ["-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = subprocess.run(
            programs.becoming([*command, "--no-instructions"]),
            env=programs.environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise programs.Unusable(f"initdb failed: {done.stderr.strip()}")
        making.rename(self._data)

    def _await(self) -> None:
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
                    raise programs.Unusable(f"PostgreSQL did not start, see {self.folder}/server.log") from error
                time.sleep(0.05)
