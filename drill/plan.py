"""The plan of a drill (which fault, when, and for how long, decided by the seed alone) and its execution."""

from __future__ import annotations

import collections
import heapq
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psycopg

from drill import faults
from drill.faults import Scene, Undo

GAP_SECONDS = 0.7  # between two faults, on average


@dataclass(frozen=True)
class Kind:
    """A fault, how often it occurs in a round, and how long it lasts: (shortest, longest) in seconds."""

    fault: Callable[[Scene, random.Random], Undo | None]
    times: int = 1
    lasts: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        """Its name in the report."""
        return self.fault.__name__.replace("_", " ")


KINDS = [
    Kind(faults.kill_worker, times=3),
    Kind(faults.kill_all_workers),
    Kind(faults.kill_web),
    Kind(faults.kill_web_process),
    Kind(faults.stop_worker, times=2, lasts=(8, 20)),  # longer than the locks and the transactions last
    Kind(faults.stop_web, lasts=(0.5, 2)),
    Kind(faults.terminate_backends, times=3),
    Kind(faults.restart_fast),
    Kind(faults.restart_at_once),
    Kind(faults.lock_queue_rows, times=3, lasts=(1, 4)),
    Kind(faults.lock_conversations, lasts=(1, 3)),
    Kind(faults.hold_sender_lock, lasts=(1, 4)),
    Kind(faults.old_snapshot, lasts=(5, 20)),
    Kind(faults.drop_notifies, times=2, lasts=(2, 6)),
    Kind(faults.fill_disk, lasts=(1, 4)),
    Kind(faults.burst, times=3, lasts=(1, 3)),
    Kind(faults.lull, lasts=(2, 4)),
]


@dataclass(frozen=True)
class Step:
    """One step of the plan; `chance` chooses its targets."""

    gap: float
    kind: Kind
    lasts: float
    chance: random.Random


def steps(seed: int, kinds: Sequence[Kind] = KINDS, gap_seconds: float = GAP_SECONDS) -> Iterator[Step]:
    """The endless plan: rounds of all these faults, each round shuffled."""
    chance = random.Random(seed)  # noqa: S311  # seeded, nothing secret
    while True:
        round_ = [kind for kind in kinds for _ in range(kind.times)]
        chance.shuffle(round_)
        for kind in round_:
            gap = chance.expovariate(1 / gap_seconds)
            targets = random.Random(chance.random())  # noqa: S311
            yield Step(gap, kind, chance.uniform(*kind.lasts), targets)


class Execution:
    """Carries out the steps, and undoes lasting faults in time."""

    def __init__(self, scene: Scene) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._scene = scene
        self._undos: list[tuple[float, int, Undo]] = []
        self._serial = itertools.count()

    def run(self, plan: Iterator[Step], seconds: float, record: Callable[[str], None]) -> None:
        """Runs until the time is over, and then ends all faults."""
        until = time.monotonic() + seconds
        for step in plan:
            self._sleep(min(time.monotonic() + step.gap, until))
            if time.monotonic() >= until:
                break
            record(f"{step.kind.name}{f' for {step.lasts:.1f} s' if step.lasts else ''}")
            self._do(step)
        self.undo_all()

    def undo_all(self) -> None:
        """Undoes all faults that still last."""
        while self._undos:
            self._undo_first()

    def _do(self, step: Step) -> None:
        try:
            undo = step.kind.fault(self._scene, step.chance)
        except psycopg.OperationalError:  # the server still suffers from an earlier fault, or a lock was not available
            self.counts["could not be injected"] += 1
            return
        self.counts[step.kind.name] += 1
        if undo is not None:
            heapq.heappush(self._undos, (time.monotonic() + step.lasts, next(self._serial), undo))

    def _sleep(self, until: float) -> None:
        while self._undos and self._undos[0][0] < until:
            time.sleep(max(0.0, self._undos[0][0] - time.monotonic()))
            self._undo_first()
        time.sleep(max(0.0, until - time.monotonic()))

    def _undo_first(self) -> None:
        _, _, undo = heapq.heappop(self._undos)
        undo()
