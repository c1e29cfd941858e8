"""What every measurement stands on: the throwaway server, databases copied from templates, our processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from embedded import programs
from embedded.cluster import Cluster

ROOT = Path(__file__).parent.parent
# The same for all contenders. The rest is PostgreSQL's default: fsync, synchronous_commit and full_page_writes on.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200", "jit": "off"}
SHOWN = (*SETTINGS, "fsync", "synchronous_commit", "full_page_writes", "wal_level", "work_mem", "autovacuum")
PATIENCE_SECONDS = 120
Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Sizes:
    """How much is done: a full run, a quick one, or a smoke."""

    repeats: int
    chats: int  # queued for a drain
    conversations: int
    seconds: float  # of one steady load
    peer_seconds: float  # the most that a peer's drain may take
    live_seconds: float
    snapshot_seconds: float
    stretch_seconds: float  # of the snapshot's time, first and last
    memory_seconds: float
    history: int
    held: int
    streams: int  # open at once
    peers: bool = True
    warm_up: bool = True


FULL = Sizes(3, 100_000, 1000, 4, 8, 12, 60, 10, 60, 10_000_000, 1_000_000, 5000)
QUICK = Sizes(2, 30_000, 1000, 0.7, 1, 1, 12, 2, 2, 500_000, 50_000, 1000, warm_up=False)
SMOKE = Sizes(1, 2_000, 20, 0.3, 1, 0.5, 0.5, 0.2, 0.3, 2_000, 1_000, 20, peers=False, warm_up=False)


class Stage:
    """A running server of the bench's own; `Stage.open()` is the way to make one."""

    def __init__(self, sizes: Sizes, cluster: Cluster, folder: Path) -> None:
        self.sizes = sizes
        self.folder = folder
        self._url = cluster.url
        self._templates: set[str] = set()
        self._serial = itertools.count(1)
        self._began = time.monotonic()

    @classmethod
    @contextlib.contextmanager
    def open(cls, sizes: Sizes) -> Iterator[Stage]:
        """Starts the server with SETTINGS in a temporary folder, and ends it and the folder."""
        with tempfile.TemporaryDirectory(prefix="shoptalk-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # the server's account has to get at its own part
            with Cluster(folder / "server") as cluster:
                with psycopg.connect(cluster.url, autocommit=True) as admin:
                    for setting, value in SETTINGS.items():
                        admin.execute(f"alter system set {setting} = '{value}'")
                cluster.stop()
                cluster.start()
                yield cls(sizes, cluster, folder)

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(f"{time.monotonic() - self._began:6.0f} s  {text}", file=sys.stderr, flush=True)

    def url(self, database: str) -> str:
        """The DATABASE_URL of one of the server's databases."""
        return f"{self._url.rpartition('/')[0]}/{database}"

    def connect(self, url: str) -> Connection:
        """A plain session in autocommit."""
        return psycopg.connect(url, autocommit=True, prepare_threshold=0)

    def conditions(self) -> dict[str, Any]:
        """What the figures depend on."""
        with self.connect(self._url) as db:
            settings = {name: db.execute(f"show {name}").fetchone()[0] for name in SHOWN}  # type: ignore[index]
            version = db.info.parameter_status("server_version")
        return {"postgresql": version, "python": sys.version.split()[0], "cores": os.cpu_count(), **settings}

    def template(self, name: str, build: Callable[[str], None]) -> str:
        """The name of a database to be copied, built at the first call: build(url)."""
        if name not in self._templates:
            self.say(f"filling {name}")
            with self.connect(self._url) as admin:
                admin.execute(f"create database {name}")
            build(self.url(name))
            with self.connect(self.url(name)) as db:
                db.execute("vacuum (freeze, analyze)")
            self._templates.add(name)
        return name

    @contextlib.contextmanager
    def database(self, template: str) -> Iterator[str]:
        """The URL of a copy of the template, that ends with the block."""
        name = f"run_{next(self._serial)}"
        with self.connect(self._url) as admin:
            admin.execute(f"create database {name} template {template} strategy file_copy")
            admin.execute("checkpoint")
            try:
                yield self.url(name)
            finally:
                admin.execute(f"drop database {name} with (force)")

    @contextlib.contextmanager
    def process(
        self, command: list[str], ending: signal.Signals = signal.SIGTERM, **env: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A process of ours; its output goes to a log in the folder."""
        with (self.folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | env, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(ending)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def worker(self, url: str) -> Iterator[subprocess.Popen[bytes]]:
        """A `python -m worker` that has arrived at its queue."""
        with self.connect(url) as db, self.process([sys.executable, "-m", "worker"], DATABASE_URL=url) as process:
            await_(lambda: sessions(db, "shoptalk worker bell") or sessions(db, "shoptalk worker"), process)
            yield process

    @contextlib.contextmanager
    def web(
        self, url: str, app: str = "api.app:create_app()", processes: int = 2
    ) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        """Gunicorn processes with the app, as the Procfile starts them; its port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--log-level", "warning", app]
        env = {"DATABASE_URL": url, "HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": str(processes)}
        env["SHOPTALK_API_KEYS"] = ""
        with self.process(command, signal.SIGQUIT, **env) as process:
            await_(lambda: _accepts(port), process)
            time.sleep(0.3)  # the second process
            yield port, process

    def pgbench(self, url: str, script: str, *options: str) -> list[str]:
        """The command line of a pgbench that runs the script with 8 connections."""
        path = self.folder / f"script_{next(self._serial)}.sql"
        path.write_text(script)
        program = str(programs.folder() / "pgbench")
        return [program, "-n", "-M", "prepared", "-c", "8", "-j", "2", "-f", str(path), *options, url]


def await_(holds: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Returns once it holds. Raises RuntimeError if it never does, or the process ends before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError("a process of the bench did not come up, or did not get done")
        time.sleep(0.02)


def sessions(db: Connection, name: str) -> int:
    """How many sessions of that name the database has."""
    named = "select count(*) from pg_stat_activity where application_name = %s and datname = current_database()"
    row = db.execute(named, [name]).fetchone()
    return int(row[0]) if row else 0


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
