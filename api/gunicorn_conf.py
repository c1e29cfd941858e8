"""Gunicorn's configuration. Must not import psycopg: gevent has to patch the process first.

Nor prometheus_client in the master, before the folder of the processes' counters is known.
"""

import json
import os
import shutil
import signal
import tempfile
from types import FrameType
from typing import Any

import gunicorn.util
from gunicorn.glogging import Logger

from sql.log import configure, formatter
from sql.open_files import allow_most_open_files
from sql.settings import BadSetting, Settings

try:
    _settings = Settings.from_environment()
    configure()
except BadSetting as error:
    raise SystemExit(f"shoptalk: {error}") from None

allow_most_open_files()

bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
worker_class = "gevent"
workers = _settings.web_processes
worker_connections = 10000
keepalive = 75  # seconds; above the usual proxy's 60, so that a proxy never reuses a connection that is being closed
graceful_timeout = 3  # seconds; below honcho's and the contract's 5
timeout = 30
control_socket_disable = True

# systemd's folder if there is one: many machines delete old files in /tmp.
_counts = tempfile.mkdtemp(prefix="shoptalk-metrics-", dir=os.getenv("RUNTIME_DIRECTORY"))
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _counts


class logger_class(Logger):  # type: ignore[misc]  # the setting's name; gunicorn has no types
    """Gunicorn's log lines in the format of all others."""

    def setup(self, cfg: Any) -> None:
        """As gunicorn does, except for the format."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(formatter())


def write_problem(client: Any, status: int, reason: str, detail: str) -> None:
    """Answers requests that gunicorn itself rejects, before the app sees them, in the app's format (RFC 9457)."""
    from api.wire.problems import Problem

    status = 400 if status == 501 else status  # an unknown Transfer-Encoding, so the request is at fault
    problem = Problem(status, detail or reason).as_dict()
    body = json.dumps(problem)
    head = f"HTTP/1.1 {status} {problem['title']}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    gunicorn.util.write_nonblock(client, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


gunicorn.util.write_error = write_problem


def child_exit(server: Any, worker: Any) -> None:
    """Removes the gauges of a process that has ended from the sums."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Removes the folder of the counters."""
    shutil.rmtree(_counts, ignore_errors=True)


def post_worker_init(worker: Any) -> None:
    """Ends the streams at SIGTERM, each after a complete event; their readers resume at another process.

    Otherwise gunicorn waits for them until graceful_timeout and then cuts them off.
    """
    stop = signal.getsignal(signal.SIGTERM)

    def end_streams_and_stop(number: int, frame: FrameType | None) -> None:
        worker.wsgi.extensions["shoptalk"].feed.close()
        if callable(stop):
            stop(number, frame)

    signal.signal(signal.SIGTERM, end_streams_and_stop)
