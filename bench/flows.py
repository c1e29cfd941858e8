"""Chats are enqueued while a worker sends: the rate, whether the worker keeps up, and an old snapshot."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import time
from collections.abc import Iterator

from bench import shop
from bench.delays import commit_to_sent, percentile
from bench.figures import OURS, Aim, Row
from bench.rounds import rounds
from bench.stage import Connection, Stage

ENQUEUE = """\\set conversation random(1, {conversations})
select * from enqueue_chat(:conversation, 1, 1, '{payload}');
"""
INSERT = """\\set conversation random(1, {conversations})
insert into bench_plain (conversation_id, payload) values (:conversation, '{payload}');
"""


def enqueue(stage: Stage) -> list[Row]:
    """One chat per transaction, with and without the trigger that wakes an idle worker."""
    without, plain = "without the NOTIFY trigger", "one plain insert"
    values = rounds(
        stage,
        "enqueue",
        {
            OURS: lambda: _enqueued(stage, ENQUEUE),
            without: lambda: _enqueued(stage, ENQUEUE, "alter table chat_queue disable trigger chat_queue_wakeup"),
            plain: lambda: _enqueued(stage, INSERT, shop.PLAIN_TABLE),
        },
    )
    title = "one chat a transaction, 8 connections, a worker sends meanwhile"
    return [Row("enqueue", title, "transactions/s", values, {without: Aim(">=", 0.9)})]


def live(stage: Stage) -> list[Row]:
    """Producers at full speed with one worker, and then at half that rate."""
    backlogs: list[int] = []
    rates: list[float] = []

    def full_speed() -> float:
        accepted, sent, backlog = _keeps_up(stage)
        backlogs.append(backlog)
        rates.append(accepted)
        return sent

    sent = rounds(stage, "live", {OURS: full_speed})[OURS]
    half = statistics.median(rates) / 2
    latencies = rounds(stage, f"live, at {half:,.0f}/s", {OURS: lambda: percentile(commit_to_sent(stage, half, 8), 99)})
    accepted = rates[-len(sent) :]
    note = f"largest backlog {max(backlogs):,} chats, {max(backlogs) / max(rates) * 1000:.0f} ms of producing"
    return [
        Row(
            "live",
            "8 producers at full speed, one worker",
            "chats sent/s",
            {OURS: sent, "accepted": accepted},
            {"accepted": Aim(">=", 0.98)},
            [note],
        ),
        Row("live-p99", "commit to seen in the log at half that rate, p99", "ms", latencies, {OURS: Aim("<=", 100)}),
    ]


def snapshot(stage: Stage) -> list[Row]:
    """Full load before, during and after a session that holds a snapshot open."""
    sizes = stage.sizes
    span, total = sizes.stretch_seconds, sizes.snapshot_seconds
    stretches = {"its last stretch": 0.0, "before it": 0.0, "its first stretch": 0.0, "after it": 0.0}
    with _producing(stage, 1 + 3 * span + total + 5) as (url, _), stage.connect(url) as db:
        time.sleep(1)
        stretches["before it"] = _rate(db, span)
        with stage.connect(url) as holder:
            holder.execute("begin isolation level repeatable read")
            holder.execute("select pg_current_xact_id(), count(*) from chat_queue")
            stretches["its first stretch"] = _rate(db, span)
            for _ in range(int(total - 2 * span)):
                time.sleep(1)
                stage.say("snapshot, held open")
            stretches["its last stretch"] = _rate(db, span)
        stretches["after it"] = _rate(db, span)
    values = {OURS: [stretches.pop("its last stretch")], **{name: [rate] for name, rate in stretches.items()}}
    aims = {"before it": Aim(">=", 0.7), "its first stretch": Aim(">=", 0.7)}
    title = f"full load, a snapshot held open for {total:g} s: its last {span:g} s"
    return [Row("snapshot", title, "chats sent/s", values, aims)]


def _enqueued(stage: Stage, script: str, before: str = "") -> float:
    """Transactions/s of the script, with a worker running; the statement `before` is executed first."""
    with stage.database(shop.template(stage)) as url:
        if before:
            with stage.connect(url) as db:
                db.execute(before)
        command = stage.pgbench(url, shop.script(stage, script), "-T", str(max(1, round(stage.sizes.seconds))))
        with stage.worker(url):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found, done.stderr
    return float(found[1])


@contextlib.contextmanager
def _producing(stage: Stage, seconds: float) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A shop with one worker and 8 producers at full speed, for the duration of the block."""
    with stage.database(shop.template(stage)) as url, stage.worker(url):
        command = stage.pgbench(url, shop.script(stage, ENQUEUE), "-T", str(round(seconds) + 1))
        with stage.process(command) as pgbench:
            yield url, pgbench


def _keeps_up(stage: Stage) -> tuple[float, float, int]:
    """(accepted/s, sent/s, largest backlog) over the seconds after the first."""
    samples = []
    state = "select sum(last_seq), (select coalesce(max(position), 0) from sent_log) from conversations"
    with _producing(stage, stage.sizes.live_seconds + 5) as (url, _), stage.connect(url) as db:
        time.sleep(1)
        until = time.monotonic() + stage.sizes.live_seconds
        while time.monotonic() < until:
            row = db.execute(state).fetchone()
            assert row is not None
            samples.append((time.monotonic(), int(row[0]), int(row[1])))
            time.sleep(0.1)
    (began, accepted, sent), (ended, accepted_then, sent_then) = samples[0], samples[-1]
    backlog = max(accepted - sent for _, accepted, sent in samples)
    return (accepted_then - accepted) / (ended - began), (sent_then - sent) / (ended - began), backlog


def _rate(db: Connection, seconds: float) -> float:
    """Chats sent/s in the next seconds."""
    ends = []
    for _ in range(2):
        row = db.execute("select coalesce(max(position), 0), extract(epoch from clock_timestamp()) from sent_log")
        ends.append([float(value) for value in row.fetchone() or ()])
        if len(ends) < 2:
            time.sleep(seconds)
    return (ends[1][0] - ends[0][0]) / (ends[1][1] - ends[0][1])
