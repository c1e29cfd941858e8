"""The time from a chat's commit until a reader has seen it in the log, compared with a bare NOTIFY."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from bench import shop
from bench.figures import OURS, Aim, Row
from bench.rounds import rounds
from bench.stage import Connection, Stage, await_

# The chat_id lets pgbench's log of transactions be matched with the sent log.
NUMBERED = """\\set number :number + 1
\\set chat :client_id * 10000000 + :number
\\set conversation random(1, {conversations})
select * from enqueue_chat(:conversation, 1, 1, '{payload}', 'client', :chat);
"""


def latency(stage: Stage) -> list[Row]:
    """Commit to seen at 50/s, compared with a NOTIFY round trip."""
    bare = "NOTIFY round trip"
    ours: list[list[float]] = []
    others: list[list[float]] = []

    def measure_ours() -> float:
        ours.append(commit_to_sent(stage, 50, 1))
        return percentile(ours[-1], 50)

    def measure_bare() -> float:
        others.append(round_trips(stage))
        return percentile(others[-1], 50)

    values = rounds(stage, "latency", {OURS: measure_ours, bare: measure_bare})
    repeats = stage.sizes.repeats
    p99 = {
        OURS: [percentile(v, 99) for v in ours[-repeats:]],
        bare: [percentile(v, 99) for v in others[-repeats:]],
    }
    title = "commit to seen in the log by a listening reader, 50 chats/s"
    return [
        Row("latency-p50", f"{title}, p50", "ms", values, {bare: Aim("<=", 3)}),
        Row("latency-p99", f"{title}, p99", "ms", p99),
    ]


def commit_to_sent(stage: Stage, rate: float, connections: int) -> list[float]:
    """Milliseconds from the producer's commit until a listening reader has read the chat from the log."""
    prefix = stage.folder / f"transactions_{time.monotonic_ns()}"
    options = ["-T", str(max(1, round(stage.sizes.live_seconds))), "-R", str(rate), "-c", str(connections)]
    options += ["-j", "1", "-D", "number=0", "-l", f"--log-prefix={prefix}"]
    with stage.database(shop.template(stage)) as url, stage.worker(url):
        command = stage.pgbench(url, shop.script(stage, NUMBERED), *options)
        with stage.connect(url) as listener, stage.connect(url) as db:
            listener.execute("listen chat_sent")
            with stage.process(command) as pgbench:
                seen = _read(listener, db, pgbench)
            await_(lambda: pgbench.poll() is not None)
    committed = dict(transactions(prefix))
    return [max(0.0, seen[chat] - at) * 1000 for chat, at in committed.items() if chat in seen]


def _read(listener: Connection, db: Connection, producer: subprocess.Popen[bytes]) -> dict[int, float]:
    """When each chat was seen, in wall-clock time. Reads until the producer has ended and a second more is quiet."""
    seen: dict[int, float] = {}
    position = 0
    new_entries = "select position, chat_id from sent_log where position > %s order by position"
    while True:
        is_quiet = not list(listener.notifies(timeout=1, stop_after=1))
        rows = db.execute(new_entries, [position], binary=True).fetchall()
        now = time.time()
        for _, chat in rows:
            seen[chat] = now
        position = rows[-1][0] if rows else position
        if is_quiet and producer.poll() is not None:
            return seen


def transactions(prefix: Path) -> Iterator[tuple[int, float]]:
    """(chat_id, instant of the commit) of each transaction in pgbench's log."""
    for path in prefix.parent.glob(prefix.name + "*"):
        for line in path.read_text().splitlines():
            client, serial, _, _, second, microsecond, *_ = line.split()
            yield int(client) * 10_000_000 + int(serial), int(second) + int(microsecond) / 1e6


def round_trips(stage: Stage) -> list[float]:
    """Milliseconds of NOTIFY round trips to another process, 50 per second."""
    spawn = multiprocessing.get_context("spawn")
    trips = []
    with stage.database(shop.template(stage)) as url, stage.connect(url) as db, stage.connect(url) as listener:
        ready = spawn.Event()
        echo = spawn.Process(target=_echo, args=[url, ready], daemon=True)
        echo.start()
        ready.wait(60)
        listener.execute("listen pong")
        for _ in range(max(10, int(50 * stage.sizes.live_seconds))):
            time.sleep(0.02)
            started = time.monotonic()
            db.execute("notify ping")
            next(listener.notifies(timeout=5, stop_after=1))
            trips.append((time.monotonic() - started) * 1000)
        echo.kill()
        echo.join()
    return trips


def _echo(url: str, ready: multiprocessing.synchronize.Event) -> None:
    with psycopg.connect(url, autocommit=True) as listener, psycopg.connect(url, autocommit=True) as db:
        listener.execute("listen ping")
        ready.set()
        while True:
            if list(listener.notifies(timeout=60, stop_after=1)):
                db.execute("notify pong")


def percentile(values: list[float], percent: float) -> float:
    """The value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
