"""Memory of web and worker under a mixed load: after the first of six parts, and after the last."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from bench import shop, web
from bench.figures import OURS, Aim, Row
from bench.stage import Stage


def run(stage: Stage) -> list[Row]:
    """Megabytes of the worker and of both web processes."""
    template = stage.template("talk", functools.partial(shop.talked, conversations=stage.sizes.conversations))
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    with stage.database(template) as url, stage.worker(url) as worker, stage.web(url) as (port, gunicorn):
        for turn in range(6):
            for requests, connections in ((web.posts(stage), 16), (web.gets(stage), 16), (web.lists(stage), 1)):
                web.load(port, requests, stage.sizes.memory_seconds / 15, connections)
            after = {"worker": megabytes(worker.pid), "web": sum(map(megabytes, children(gunicorn.pid)))}
            before = before or after
            stage.say(f"memory, part {turn + 1} of 6: worker {after['worker']:.0f} MB, web {after['web']:.0f} MB")
    return [
        Row(
            f"memory-{name}",
            f"resident memory of {what} after posts, lists and reads, part 6 of 6",
            "MB",
            {OURS: [after[name]], "after part 1": [before[name]]},
            {"after part 1": Aim("<=", 1.1)},
        )
        for name, what in (("worker", "the worker"), ("web", "both web processes"))
    ]


def megabytes(pid: int) -> float:
    """Resident memory of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    """The process ids of its children."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]
