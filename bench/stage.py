"""The setup of every measurement: the throwaway server, databases copied from templates, our processes."""

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
# The same for all contenders. All others are PostgreSQL's defaults: fsync, synchronous_commit, full_page_writes on.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "max_connections": "200", "jit": "off"}
SHOWN = (*SETTINGS, "fsync", "synchronous_commit", "full_page_writes", "wal_level", "work_mem", "autovacuum")
PATIENCE_SECONDS = 120
Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True)
class Sizes:
    """The amounts of a full run, a quick run, or a smoke test."""

    repeats: int
    chats: int  # queued for a drain
    conversations: int
    seconds: float  # of one steady load
    peer_seconds: float  # the most that a peer's drain may take
    live_seconds: float
    snapshot_seconds: float
    stretch_seconds: float  # the measured first and last part of snapshot_seconds
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
    """A running server of its own; created by `Stage.open()`."""

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
        """Starts the server with SETTINGS in a temporary folder; stops it and removes the folder at the end."""
        with tempfile.TemporaryDirectory(prefix="shoptalk-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # the server's account must be able to enter
            with Cluster(folder / "server") as cluster:
                with psycopg.connect(cluster.url, autocommit=True) as admin:
                    for setting, value in SETTINGS.items():
                        admin.execute(f"alter system set {setting} = '{value}'")
                cluster.stop()
                cluster.start()
                yield cls(sizes, cluster, folder)

    def say(self, text: str) -> None:
        """Prints progress on stderr."""
        print(f"{time.monotonic() - self._began:6.0f} s  {text}", file=sys.stderr, flush=True)

    def url(self, database: str) -> str:
        """The URL of one of the server's databases."""
        return f"{self._url.rpartition('/')[0]}/{database}"

    def connect(self, url: str) -> Connection:
        """A plain session in autocommit."""
        return psycopg.connect(url, autocommit=True, prepare_threshold=0)

    def conditions(self) -> dict[str, Any]:
        """The versions and settings that the figures depend on."""
        with self.connect(self._url) as db:
            settings = {name: db.execute(f"show {name}").fetchone()[0] for name in SHOWN}  # type: ignore[index]
            version = db.info.parameter_status("server_version")
        return {"postgresql": version, "python": sys.version.split()[0], "cores": os.cpu_count(), **settings}

    def template(self, name: str, build: Callable[[str], None]) -> str:
        """The name of a template database, which the first call creates and fills by build(url)."""
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
        """The URL of a copy of the template, which is dropped at the end of the block."""
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
        self, command: list[str], stop_signal: signal.Signals = signal.SIGTERM, **env: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Runs a process for the duration of the block; its output goes to a log in the folder."""
        with (self.folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | env, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(stop_signal)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def worker(self, url: str) -> Iterator[subprocess.Popen[bytes]]:
        """A `python -m worker` that is connected to its database."""
        with self.connect(url) as db, self.process([sys.executable, "-m", "worker"], DATABASE_URL=url) as process:
            await_(
                lambda: count_sessions(db, "shoptalk worker listener") or count_sessions(db, "shoptalk worker"), process
            )
            yield process

    @contextlib.contextmanager
    def web(
        self, url: str, app: str = "api.app:create_app()", processes: int = 2
    ) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        """Gunicorn with the app, as in the Procfile; yields its port and its master."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--log-level", "warning", app]
        env = {"DATABASE_URL": url, "HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": str(processes)}
        env["SHOPTALK_API_KEYS"] = ""
        with self.process(command, signal.SIGQUIT, **env) as process:
            await_(lambda: _accepts(port), process)
            time.sleep(0.3)  # for the second process
            yield port, process

    def pgbench(self, url: str, script: str, *options: str) -> list[str]:
        """The command line that runs the script by pgbench with 8 connections."""
        path = self.folder / f"script_{next(self._serial)}.sql"
        path.write_text(script)
        program = str(programs.folder() / "pgbench")
        return [program, "-n", "-M", "prepared", "-c", "8", "-j", "2", "-f", str(path), *options, url]


def await_(condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Waits until the condition holds. Raises RuntimeError if it never does, or if the process ends first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError("a process of the benchmark did not start, or did not finish")
        time.sleep(0.02)


def count_sessions(db: Connection, name: str) -> int:
    """The number of sessions with that name in the database."""
    named = "select count(*) from pg_stat_activity where application_name = %s and datname = current_database()"
    row = db.execute(named, [name]).fetchone()
    return int(row[0]) if row else 0


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
