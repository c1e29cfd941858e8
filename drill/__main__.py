"""`python -m drill`: one drill from start to end; the exit status is 0 only when every chat is accounted for."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from drill import report
from drill.account import Books, Figures, figures
from drill.crew import Crew
from drill.faults import Scene
from drill.ledger import Ledger
from drill.load import Load
from drill.meddlers import Meddler
from drill.plan import Execution, steps
from drill.plants import PLANTS, NotPlantable, Plant, plant
from drill.producers import Producer, make_producers
from drill.readers import Reader
from drill.shop import Shop
from embedded.programs import Unusable

WORKERS = 3
READERS = 3
# A bad chat takes 15 s to fail: none in the last so many seconds, so that the drain need not wait for it.
LAST_BAD_SECONDS = 20
TRICKLE_SECONDS = 4
REPEAT_SECONDS = 40  # producers may still repeat what was not answered
DRAIN_SECONDS = 90
READERS_SECONDS = 30
PROGRESS_SECONDS = 10


class Drill:
    """One drill; `run()` answers what is wrong."""

    def __init__(self, shop: Shop, seconds: float, seed: int, fault: Plant) -> None:
        self.shop, self.seconds, self.seed = shop, seconds, seed
        self.ledger = Ledger()
        self.load = Load(seed, self.ledger)
        self.crew = Crew(shop.url, shop.folder, fault.worker, WORKERS)
        self.readers = [Reader(shop) for _ in range(READERS)]
        self.meddler = Meddler(self.load, shop)
        self.execution = Execution(Scene(shop, self.crew, self.load))

    def run(self) -> Figures:
        """Loads, breaks, mends, drains, accounts, and prints the report."""
        with self.crew:
            producers = make_producers(self.load, self.shop, self.crew.port)
            self.load.bad_until = time.monotonic() + max(self.seconds / 2, self.seconds - LAST_BAD_SECONDS)
            for thread in (*self.readers, self.meddler, *producers):
                thread.start()
            with (self.shop.folder / "faults.log").open("w") as self._faults_log:
                self._began = self._told = time.monotonic()
                self.execution.run(steps(self.seed), self.seconds, self._tell)
            self._end_load(producers)
            self._drain()
        books = Books.read(self.shop)
        wrong = figures(books, self.ledger, [reader.seen for reader in self.readers])
        wrong["sent though paused"] = self.meddler.sent_though_paused
        meddled = {
            "cancelled by the drill": self.meddler.cancelled,
            "requeued by the drill": self.meddler.requeued,
            "pauses by the drill": self.meddler.paused,
        }
        print(report.report(self.execution.counts, report.chats(books, self.ledger, meddled), wrong), flush=True)
        return wrong

    def _tell(self, what: str) -> None:
        now = time.monotonic()
        print(f"{now - self._began:8.1f} s  {what}", file=self._faults_log, flush=True)
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            faults, accepted = sum(self.execution.counts.values()), len(self.ledger.accepted)
            print(f"{now - self._began:6.0f} s  {faults:,} faults, {accepted:,} chats accepted", flush=True)

    def _end_load(self, producers: list[Producer]) -> None:
        """The last chats come slowly and without a NOTIFY, which stays so: only the poll can find them."""
        self.shop.switch_on("deaf")
        self.load.pace = "lull"
        time.sleep(TRICKLE_SECONDS)
        self.load.ending.set()
        self.meddler.end()
        deadline = time.monotonic() + REPEAT_SECONDS
        for producer in producers:
            producer.join(max(0.0, deadline - time.monotonic()))
        self.load.given_up.set()
        for producer in producers:
            producer.join()
        self.crew.end("web")

    def _drain(self) -> None:
        """Waits, but not for ever, until the queue is empty and the readers have read what was sent."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while (left := self.shop.one("select count(*) from chat_queue")) and time.monotonic() < deadline:
            time.sleep(0.2)
        print(f"drained, {left:,} left", flush=True)
        for worker in self.crew.workers:
            self.crew.end(worker)
        end = self.shop.one("select coalesce(max(position), 0) from sent_log")
        deadline = time.monotonic() + READERS_SECONDS
        while any(reader.cursor < end for reader in self.readers) and time.monotonic() < deadline:
            time.sleep(0.1)
        for reader in self.readers:
            reader.end()


def drill(folder: Path, options: argparse.Namespace) -> Figures:
    """One machine: everything is killed."""
    fault = PLANTS.get(options.plant, Plant())
    with Shop(folder) as shop:
        plant(shop, fault)
        return Drill(shop, options.seconds, options.seed, fault).run()


def drill_cluster(folder: Path, options: argparse.Namespace) -> Figures:
    """Many web nodes on RabbitMQ; what this needs is loaded only here."""
    from drill import cluster, rabbit

    if rabbit.program() is None:
        raise Unusable("--cluster needs rabbitmq-server")
    return cluster.run(folder, options.seconds, options.seed)


def main() -> int:
    """Reads the options, makes the throwaway folder, runs the drill."""
    parser = argparse.ArgumentParser(prog="bin/drill", description=sys.modules["drill"].__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long the faults last (default: a minute)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of faults and loads")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="a fault of the product, which has to be caught")
    parser.add_argument("--cluster", action="store_true", help="many web nodes on a RabbitMQ cluster instead")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {options.seed}, {options.seconds:g} s, planted: {options.plant or 'nothing'}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="shoptalk-drill-"))
    folder.chmod(0o755)  # the servers' account has to get in
    clean = False
    try:
        wrong = drill_cluster(folder, options) if options.cluster else drill(folder, options)
        clean = not any(wrong.values())
    except (Unusable, NotPlantable) as error:
        print(f"drill: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if clean:
            shutil.rmtree(folder)
        else:
            print(f"kept for a look: {folder}", flush=True)
    print("clean" if clean else "NOT CLEAN", flush=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
