"""One drill from start to end: load, break, repair, drain, account, report."""

from __future__ import annotations

import time

from drill import report
from drill.account import Books, Figures, figures
from drill.crew import Crew
from drill.faults import Scene
from drill.ledger import Ledger
from drill.load import Load
from drill.meddlers import Meddler
from drill.plan import Execution, steps
from drill.plants import Plant
from drill.producers import Producer, make_producers
from drill.readers import Reader
from drill.shop import Shop

WORKERS = 3
READERS = 3
# A bad chat takes 15 s to fail. There is none in the last seconds, so that the drain need not wait for it.
LAST_BAD_SECONDS = 20
TRICKLE_SECONDS = 4
REPEAT_SECONDS = 40  # in which producers may repeat unanswered requests
DRAIN_SECONDS = 90
READERS_SECONDS = 30
PROGRESS_SECONDS = 10


class Drill:
    """One drill; `run()` returns its figures."""

    def __init__(self, shop: Shop, seconds: float, seed: int, fault: Plant) -> None:
        self.shop, self.seconds, self.seed = shop, seconds, seed
        self.ledger = Ledger()
        self.load = Load(seed, self.ledger)
        self.crew = Crew(shop.url, shop.folder, fault.worker, WORKERS)
        self.readers = [Reader(shop) for _ in range(READERS)]
        self.meddler = Meddler(self.load, shop)
        self.execution = Execution(Scene(shop, self.crew, self.load))

    def run(self) -> Figures:
        """Loads, breaks, repairs, drains, accounts, and prints the report."""
        with self.crew:
            producers = self.make_producers()
            self.load.bad_until = time.monotonic() + max(self.seconds / 2, self.seconds - LAST_BAD_SECONDS)
            for thread in (*self.readers, self.meddler, *producers):
                thread.start()
            with (self.shop.folder / "faults.log").open("w") as self._faults_log:
                self._began = self._reported = time.monotonic()
                self.wreck()
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

    def make_producers(self) -> list[Producer]:
        """The producers, not started yet."""
        return make_producers(self.load, self.shop, self.crew.port)

    def wreck(self) -> None:
        """Injects faults for the drill's duration."""
        self.execution.run(steps(self.seed), self.seconds, self.record)

    def record(self, fault: str) -> None:
        """Writes a fault to faults.log, and prints progress now and then."""
        now = time.monotonic()
        print(f"{now - self._began:8.1f} s  {fault}", file=self._faults_log, flush=True)
        if now - self._reported > PROGRESS_SECONDS:
            self._reported = now
            faults, accepted = sum(self.execution.counts.values()), len(self.ledger.accepted)
            print(f"{now - self._began:6.0f} s  {faults:,} faults, {accepted:,} chats accepted", flush=True)

    def _end_load(self, producers: list[Producer]) -> None:
        """The last chats come slowly, and NOTIFY stays off: only the poll can find them."""
        self.shop.switch_on("no-notify")
        self.load.pace = "lull"
        time.sleep(TRICKLE_SECONDS)
        self.load.ending.set()
        self.meddler.stop()
        deadline = time.monotonic() + REPEAT_SECONDS
        for producer in producers:
            producer.join(max(0.0, deadline - time.monotonic()))
        self.load.giving_up.set()
        for producer in producers:
            producer.join()
        self.crew.stop("web")

    def _drain(self) -> None:
        """Waits, up to a limit, until the queue is empty and the readers have read the whole log."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while (left := self.shop.one("select count(*) from chat_queue")) and time.monotonic() < deadline:
            time.sleep(0.2)
        print(f"drained, {left:,} left", flush=True)
        for worker in self.crew.workers:
            self.crew.stop(worker)
        end = self.shop.one("select coalesce(max(position), 0) from sent_log")
        deadline = time.monotonic() + READERS_SECONDS
        while any(reader.cursor < end for reader in self.readers) and time.monotonic() < deadline:
            time.sleep(0.1)
        for reader in self.readers:
            reader.stop()
