"""bin/run: the embedded server where it is needed, the schema, and the Procfile, in the foreground."""

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
from sql.keys import insist_on_keys
from sql.log import configure
from sql.schema import WrongSchema, prepare
from sql.settings import BadSetting, Settings

CHECKOUT = Path(__file__).parent.parent
STOP_SECONDS = 6  # honcho gives its processes 5


class Ended(Exception):
    """SIGINT, SIGTERM or SIGHUP came."""


def main() -> int:
    """Runs everything until it is told to end; the exit status is 0 then, honcho's otherwise."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end)
    programs.adopt_orphans()
    try:
        configure()
        settings = Settings.from_environment()
        _insist_on_free_port(settings)
        with contextlib.ExitStack() as stack:
            cluster = None
            if not settings.database_url:
                for name in [name for name in os.environ if name.startswith("PG")]:
                    del os.environ[name]  # meant for another server
                print("starting the embedded PostgreSQL", flush=True)
                cluster = stack.enter_context(Cluster(data_folder()))
                os.environ["DATABASE_URL"] = cluster.url
                os.environ.pop("SHOPTALK_LISTEN_URL", None)
            prepare(os.environ.get("SHOPTALK_LISTEN_URL") or os.environ["DATABASE_URL"])
            insist_on_keys(dataclasses.replace(settings, database_url=os.environ["DATABASE_URL"]))
            return _run_procfile(settings, cluster)
    except Ended:
        return 0
    except (BadSetting, WrongSchema, programs.Unusable, psycopg.Error) as error:
        print(f"shoptalk: {error}", file=sys.stderr)
        return 1


def _end(number: int, frame: FrameType | None) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # once is enough; a second Ctrl-C must not leave things behind
    raise Ended


def _insist_on_free_port(settings: Settings) -> None:
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
    honcho = subprocess.Popen(programs.ending_with_us([*command, str(CHECKOUT)]), env=env, start_new_session=True)
    try:
        threading.Thread(target=_announce, args=[settings, honcho], daemon=True).start()
        while honcho.poll() is None:
            if cluster is not None and not cluster.is_alive():
                raise programs.Unusable(f"PostgreSQL has ended by itself, see {cluster.folder}/server.log")
            with contextlib.suppress(subprocess.TimeoutExpired):
                honcho.wait(1)
        return honcho.returncode
    finally:
        honcho.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            honcho.wait(STOP_SECONDS)
        honcho.kill()
        _end_what_is_left(cluster)


def _end_what_is_left(cluster: Cluster | None) -> None:
    """Ends what honcho could not, having died itself: its terminal is closed, or somebody killed it."""
    spared = set() if cluster is None else cluster.processes()
    left = [p for p in psutil.Process().children(recursive=True) if p.pid not in spared]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        left = psutil.wait_procs(left, timeout=2)[1]


def _announce(settings: Settings, honcho: subprocess.Popen[bytes]) -> None:
    """Prints the URL as soon as it answers."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{settings.port}"
    past_proxies = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # http_proxy is for other hosts
    while honcho.poll() is None:
        with contextlib.suppress(OSError), past_proxies.open(f"{url}/readyz", timeout=5):
            print(f"Shoptalk is ready: {url}", flush=True)
            return
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
