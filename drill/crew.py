"""The processes that the drill kills, web and workers, restarted whenever they end, as by a supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil

from drill.shop import free_port

ROOT = Path(__file__).parent.parent
PAUSE_SECONDS = 0.3  # before a process that ended is restarted
READY_SECONDS = 60
STOP_SECONDS = 15


class Crew:
    """One web (gunicorn with its processes) and some workers; a context manager."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        worker: tuple[str, ...],
        workers: int,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self._folder = folder
        self._env = (
            os.environ
            | {
                "DATABASE_URL": database_url,
                "HOST": "127.0.0.1",
                "PORT": str(self.port),
                "SHOPTALK_HOURS": "00:00-00:00",
                "SHOPTALK_API_KEYS": "",
                "PYTHONUNBUFFERED": "1",
            }
            | (settings or {})
        )
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._commands = {name: list(worker) for name in self.workers}
        self._commands["web"] = ["gunicorn", "-c", "python:api.gunicorn_conf", "api.app:create_app()"]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> Crew:
        for name in self._commands:
            self._start(name)
        self._supervisor.start()
        self._await_web()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._supervisor.join()
        for name in list(self._running):
            self.stop(name)

    def pid(self, name: str) -> int:
        """The process id; of web, that of gunicorn's master."""
        return self._running[name].pid

    def memory(self, name: str) -> int:
        """Bytes of memory unique to the process and its descendants (USS)."""
        found = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.pid(name))
            for process in (parent, *parent.children(recursive=True)):
                found += process.memory_full_info().uss
        return found

    def connections(self) -> list[int]:
        """The remote ports of its processes' connections."""
        found = []
        for process in self._running.values():
            parent = psutil.Process(process.pid)
            for one in (parent, *parent.children(recursive=True)):
                found += [
                    c.raddr.port for c in one.net_connections() if c.status == psutil.CONN_ESTABLISHED and c.raddr
                ]
        return found

    def kill(self, name: str) -> None:
        """kill -9 of the process and its descendants."""
        self._signal(self._running[name], signal.SIGKILL)

    def suspend(self, name: str) -> subprocess.Popen[bytes]:
        """SIGSTOP; returns the process, for resume()."""
        process = self._running[name]
        self._signal(process, signal.SIGSTOP)
        return process

    def resume(self, process: subprocess.Popen[bytes]) -> None:
        """SIGCONT, if the process still exists."""
        self._signal(process, signal.SIGCONT)

    def stop(self, name: str) -> None:
        """SIGTERM without a restart, and kill -9 if that is not enough."""
        with self._lock:
            process = self._running.pop(name)
            self._commands.pop(name)
        self._signal(process, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{name} did not end on SIGTERM within {STOP_SECONDS} s", flush=True)
        self._signal(process, signal.SIGKILL)
        process.wait()

    def _start(self, name: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", *self._commands[name]],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches only us, and the whole group can be killed
            )

    def _supervise(self) -> None:
        while not self._stopping.wait(PAUSE_SECONDS):
            with self._lock:
                for name, process in list(self._running.items()):
                    if process.poll() is not None:
                        self._start(name)

    @staticmethod
    def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """To the whole group: a killed web master must not leave processes that hold the port."""
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass  # it has already ended; the supervisor restarts it

    def _await_web(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5):
                    return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
