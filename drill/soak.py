"""The soak: an hour at half the measured limit, with kills and pruning; its plot shows what grows."""

from __future__ import annotations

import csv
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import psycopg

from drill import faults
from drill.drill import Drill
from drill.plan import Kind, steps
from drill.plants import Plant
from drill.producers import LongSqlProducer, Producer
from drill.shop import Connection, Shop

mpl.use("svg")
import matplotlib.pyplot as plt  # after use()

# Few bad chats, which the drill tests; but enough that there are some at every kill.
BAD_SHARE = 0.001
GAP_SECONDS = 15.0  # between two kills, on average
LIMIT_SECONDS = 30.0
SETTLE_SECONDS = 30.0  # for setting the producers' pauses so that they reach half the limit
STEP_SECONDS = 2.0
SAMPLE_SECONDS = 5.0
KEEP_SHARE = 1 / 6  # of the duration: chats sent earlier are pruned
PRUNE_SECONDS = 5.0
PRUNE_CHATS = 500
PRUNE_SHARE = 4  # the pause after each transaction, in multiples of the time it took, as in the worker
MEGABYTE = 1_000_000

KILLS = [
    Kind(faults.kill_worker, times=2),
    Kind(faults.kill_all_workers),
    Kind(faults.kill_web),
    Kind(faults.kill_web_process, times=2),
    Kind(faults.terminate_backends),
    Kind(faults.restart_fast),
    Kind(faults.restart_at_once),
]
# prune() keeps at least a day, so its clock is set forward.
CLOCK = """
select set_config('shoptalk.now', (clock_timestamp() + interval '1 day' - make_interval(secs => %s))::text, false)
"""
PRUNE = "select (prune('1 day', %s)).more"
TABLES = ("chat_queue", "conversations", "chat_failures", "chats", "sent_log")
# As docs/deploy.md recommends. A crash loses the counts that tell autovacuum when to run, and here PostgreSQL crashes
# about once a minute, which is autovacuum's default interval.
AUTOVACUUM = "alter system set autovacuum_naptime = '15s'", "select pg_reload_conf()"
SIZES = """
select (select count(*) from chat_queue), (select coalesce(max(position), 0) from sent_log),
       (select count(*) from pg_stat_activity where datname = current_database()),
       array(select pg_total_relation_size(t::regclass) from unnest(%s::text[]) t)
"""


class Soak(Drill):
    """A drill with an even load and only kills, which samples everything."""

    def __init__(self, shop: Shop, seconds: float, seed: int, plot: Path) -> None:
        super().__init__(shop, seconds, seed, Plant())
        self._plot = plot
        self.load.bad_share = BAD_SHARE
        self._samples: list[dict[str, float]] = []
        self._limit = 0.0
        self._stopping = threading.Event()

    def make_producers(self) -> list[Producer]:
        """Without the producers of slow transactions: the waits for their locks are not our limit."""
        return [p for p in super().make_producers() if not isinstance(p, LongSqlProducer)]

    def wreck(self) -> None:
        """Measures the limit, reduces the load to half of it, and kills for the duration of the soak."""
        with self.shop.connect("drill soak") as session:
            for statement in AUTOVACUUM:
                session.execute(statement)
        self._limit = self._measure_limit()
        self._settle(self._limit / 2)
        sampler = threading.Thread(target=self._sample, daemon=True)
        pruner = threading.Thread(target=self._prune, daemon=True)
        sampler.start()
        pruner.start()
        self.load.bad_until += time.monotonic() - self._began
        self.execution.run(steps(self.seed, KILLS, GAP_SECONDS), self.seconds, self.record)
        self._stopping.set()
        sampler.join()
        pruner.join()
        self._write()

    def _rate(self, seconds: float) -> float:
        before, began = len(self.ledger.accepted), time.monotonic()
        time.sleep(seconds)
        return (len(self.ledger.accepted) - before) / (time.monotonic() - began)

    def _measure_limit(self) -> float:
        """Chats accepted per second with producers at full speed and everything on this one machine."""
        self.load.pace = "burst"
        limit = self._rate(LIMIT_SECONDS)
        print(f"limit {limit:,.0f} chats/s", flush=True)
        return limit

    def _settle(self, rate: float) -> None:
        """Adjusts the producers' pause to this rate."""
        self.load.pauses["half"] = self.load.pauses["steady"]
        self.load.pace = "half"
        for _ in range(int(SETTLE_SECONDS / STEP_SECONDS)):
            self.load.pauses["half"] *= min(2.0, max(0.5, self._rate(STEP_SECONDS) / rate))

    def _sample(self) -> None:
        began = time.monotonic()
        while not self._stopping.wait(SAMPLE_SECONDS):
            try:
                with self.shop.connect("drill soak") as session:
                    row: Any = session.execute(SIZES, [list(TABLES)]).fetchone()
            except psycopg.Error:
                continue  # the server is being restarted
            sample = {"seconds": time.monotonic() - began, "accepted": len(self.ledger.accepted)}
            sample |= {"waiting": row[0], "sent": row[1], "sessions": row[2]}
            sample |= {f"{table} MB": size / MEGABYTE for table, size in zip(TABLES, row[3], strict=True)}
            sample["web MB"] = self.crew.memory("web") / MEGABYTE
            sample["workers MB"] = sum(map(self.crew.memory, self.crew.workers)) / MEGABYTE
            self._samples.append(sample)

    def _prune(self) -> None:
        """Prunes by minutes instead of days."""
        while not self._stopping.wait(PRUNE_SECONDS):
            try:
                with self.shop.connect("drill pruner") as session:
                    self._prune_some(session)
            except psycopg.Error:
                continue

    def _prune_some(self, session: Connection) -> None:
        session.execute(CLOCK, [self.seconds * KEEP_SHARE])
        more = True
        while more and not self._stopping.is_set():
            began = time.monotonic()
            row = session.execute(PRUNE, [PRUNE_CHATS]).fetchone()
            more = bool(row and row[0])
            self._stopping.wait(PRUNE_SHARE * (time.monotonic() - began))

    def _write(self) -> None:
        """Writes the samples as .csv, and the plot."""
        with self._plot.with_suffix(".csv").open("w", newline="") as file:
            table = csv.DictWriter(file, self._samples[0].keys(), lineterminator="\n")
            table.writeheader()
            table.writerows({name: round(value, 1) for name, value in sample.items()} for sample in self._samples)
        draw(self._samples, self._limit, self._plot)


def draw(samples: list[dict[str, float]], limit: float, plot: Path) -> None:
    """Draws rate and backlog, memory, the small tables, and the tables that keep every chat."""
    mpl.rcParams["svg.hashsalt"] = "shoptalk"
    minutes = [sample["seconds"] / 60 for sample in samples]
    figure, axes = plt.subplots(4, 1, figsize=(9, 11), sharex=True, layout="constrained")
    rates = [(b["sent"] - a["sent"]) / (b["seconds"] - a["seconds"]) for a, b in itertools.pairwise(samples)]
    axes[0].plot(minutes[1:], rates, label="sent")
    axes[0].axhline(limit / 2, color="grey", linestyle=":", label="half the limit")
    axes[0].set_ylabel("chats/s")
    waiting = axes[0].twinx()
    waiting.plot(minutes, [sample["waiting"] for sample in samples], color="tab:red", linewidth=0.7)
    waiting.set_ylabel("waiting (red)")
    panels = (
        ("memory, MB", ("web MB", "workers MB")),
        ("with indexes, MB", ("chat_queue MB", "conversations MB", "chat_failures MB")),
        ("with indexes, MB", ("chats MB", "sent_log MB")),
    )
    for axis, (label, names) in zip(axes[1:], panels, strict=True):
        for name in names:
            axis.plot(minutes, [sample[name] for sample in samples], label=name.removesuffix(" MB"))
        axis.set_ylabel(label)
    axes[3].set_xlabel("minutes")
    for axis in axes:
        axis.set_ylim(0, axis.get_ylim()[1] * 1.2)  # leaves room for the legend
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left", ncols=3)
    waiting.set_ylim(bottom=0)
    figure.savefig(plot, metadata={"Date": None})
