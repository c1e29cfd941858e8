"""Other queues in PostgreSQL, measured by `peer.py` in an environment of its own."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import time

from bench.rounds import Contenders
from bench.stage import ROOT, Stage

PGQUEUER = "PgQueuer (keeps no order)"
PROCRASTINATE = "Procrastinate (lock a conversation)"
VENV = ROOT / ".venv-bench"
PYTHON = VENV / "bin" / "python"


def install() -> None:
    """Creates .venv-bench if necessary, by bin/install.py with another folder."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "bin" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    installer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installer)
    vars(installer).update(VENV=VENV, PYTHON=PYTHON, MADE=VENV / "made-for")
    installer.main("requirements-bench.txt")


def contenders(stage: Stage) -> Contenders:
    """Chats/s of each peer, from its first chat to its last, or until its time is up."""
    install()
    return {
        PGQUEUER: functools.partial(_drain, stage, "pgqueuer"),
        PROCRASTINATE: functools.partial(_drain, stage, "procrastinate"),
    }


def _drain(stage: Stage, peer: str) -> float:
    sizes = stage.sizes

    def fill(url: str) -> None:
        _call(url, peer, "fill", str(sizes.chats), str(sizes.conversations))

    template = stage.template(peer, fill)
    with stage.database(template) as url:
        result = json.loads(_call(url, peer, "work", str(sizes.chats), str(sizes.peer_seconds)))
    return float(result["handled"]) / float(result["seconds"])


def _call(url: str, *arguments: str) -> str:
    command = [str(PYTHON), str(ROOT / "bench" / "peer.py"), *arguments]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"DATABASE_URL": url}
    started = time.monotonic()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments} failed after {time.monotonic() - started:.0f} s: {done.stderr[-2000:]}")
    return done.stdout
