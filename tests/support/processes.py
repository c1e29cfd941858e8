"""Processes that a test starts, and how it waits for them."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
POLL_SECONDS = 0.01  # without a pause, the tests that wait take the processor from those that work


class Process:
    """A process with its output, line by line. Tests wait for a line and never for a time."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.lines: list[str] = []
        # Gunicorn's quick shutdown: SIGTERM lets it wait up to graceful_timeout for connections that are still open.
        self._quick = signal.SIGQUIT if "gunicorn" in command else signal.SIGTERM
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
        """Sends the signal and returns the exit status."""
        self.popen.send_signal(how)
        return self.wait(seconds)

    def begin_to_end(self) -> None:
        """Asks the process to end soon; wait() returns when it has ended."""
        self.popen.send_signal(self._quick)

    def wait(self, seconds: float = 15) -> int:
        """Waits for the end and returns the exit status. Kills the process if it does not end in time."""
        try:
            return self.popen.wait(seconds)
        finally:
            self.popen.kill()
            self.popen.wait()
            self._reader.join(5)


Start = Callable[..., Process]


@contextlib.contextmanager
def starting(*prefix: str) -> Iterator[Start]:
    """Yields a function that starts processes. All of them end with the block, at the same time."""
    started: list[Process] = []

    def start(*command: str, **env: str) -> Process:
        started.append(Process([*prefix, *command], env))
        return started[-1]

    with contextlib.ExitStack() as stack:
        try:
            yield start
        finally:
            for process in started:
                process.begin_to_end()
                stack.callback(process.wait)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(holds: Callable[[], bool], seconds: float = 180) -> None:
    """Polls until the condition holds, for a condition that no event announces."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not true within {seconds} s"
        time.sleep(POLL_SECONDS)


def find_program(name: str) -> str:
    """The program's path. Without it the test is skipped, or fails where CI is set."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        assert "CI" not in os.environ, f"{name} is not installed"
        pytest.skip(f"{name} is not installed")
    return found
