"""bin/run: the embedded server if there is no DATABASE_URL, the schema, and the Procfile, in the foreground."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import FrameType

import psutil
import psycopg

from embedded import programs
from embedded.cluster import Cluster, data_folder
from sql.install import WrongSchema, prepare
from sql.keys import require_keys
from sql.log import configure
from sql.settings import BadSetting, Settings
from sql.upgrade import migrate, upgrades

CHECKOUT = Path(__file__).parent.parent
STOP_SECONDS = 6  # honcho gives its processes 5


class StopRequested(Exception):
    """SIGINT, SIGTERM or SIGHUP was received."""


def main() -> int:
    """Runs everything until a signal stops it; returns 0 then, otherwise honcho's exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _request_stop)
    programs.adopt_orphans()
    try:
        configure()
        settings = Settings.from_environment()
        _require_free_port(settings)
        with contextlib.ExitStack() as stack:
            cluster = None
            if not settings.database_url:
                for name in [name for name in os.environ if name.startswith("PG")]:
                    del os.environ[name]  # meant for another server
                print("starting the embedded PostgreSQL", flush=True)
                cluster = stack.enter_context(Cluster(data_folder()))
                os.environ["DATABASE_URL"] = cluster.url
                os.environ.pop("SHOPTALK_DIRECT_URL", None)
            if cluster:
                migrate(cluster.url, upgrades())  # our own server's schema is ours to keep up to date
            else:
                prepare(settings.direct_url)
            require_keys(dataclasses.replace(settings, database_url=os.environ["DATABASE_URL"]))
            return _run_procfile(settings, cluster)
    except StopRequested:
        return 0
    except (BadSetting, WrongSchema, programs.EmbeddedServerError, psycopg.Error) as error:
        print(f"shoptalk: {error}", file=sys.stderr)
        return 1


def _request_stop(number: int, frame: FrameType | None) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleanup
    raise StopRequested


def _require_free_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reason = error.strerror
            raise BadSetting(f"cannot serve on {settings.host}:{settings.port}: {reason}; set HOST and PORT") from None


def _run_procfile(settings: Settings, cluster: Cluster | None) -> int:
    command = [sys.executable, "-m", "honcho", "start", "-e", os.devnull, "-f", str(CHECKOUT / "Procfile"), "-d"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    env = os.environ | {"PORT": str(settings.port), "PATH": path, "PYTHONUNBUFFERED": "1"}
    honcho = subprocess.Popen(programs.end_with_us([*command, str(CHECKOUT)]), env=env, start_new_session=True)
    try:
        threading.Thread(target=_print_url, args=[settings, honcho], daemon=True).start()
        while honcho.poll() is None:
            if cluster is not None and not cluster.is_alive():
                log = cluster.folder / "server.log"
                raise programs.EmbeddedServerError(f"PostgreSQL has stopped unexpectedly, see {log}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                honcho.wait(1)
        return honcho.returncode
    finally:
        honcho.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            honcho.wait(STOP_SECONDS)
        honcho.kill()
        _end_orphans(cluster)


def _end_orphans(cluster: Cluster | None) -> None:
    """Ends the processes that honcho could not end because it died first: its terminal was closed, or it was killed."""
    spared = set() if cluster is None else cluster.processes()
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in spared]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        left = psutil.wait_procs(left, timeout=2)[1]


def _print_url(settings: Settings, honcho: subprocess.Popen[bytes]) -> None:
    """Prints the URL as soon as web answers."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy is for other hosts
    while honcho.poll() is None:
        with contextlib.suppress(OSError), opener.open(f"{url}/readyz", timeout=5):
            print(f"Shoptalk is ready: {url}", flush=True)
            return
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
