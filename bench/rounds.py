"""Rounds: every contender in turn, again and again, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.figures import number
from bench.stage import Stage

Contenders = Mapping[str, Callable[[], float]]


def rounds(stage: Stage, row: str, contenders: Contenders, slow: Contenders | None = None) -> dict[str, list[float]]:
    """The values of each contender. A first round warms up, where the sizes have one; those in `slow` are spared it."""
    everyone = {**contenders, **(slow or {})}
    values: dict[str, list[float]] = {name: [] for name in everyone}
    for turn in range(stage.sizes.repeats + 1):
        for name, measure in everyone.items():
            if turn == 0 and (name not in contenders or not stage.sizes.warm_up):
                continue
            value = measure()
            what = f"round {turn} of {stage.sizes.repeats}" if turn else "warm-up"
            stage.say(f"{row}, {what}: {name} {number(value)}")
            if turn:
                values[name].append(value)
    return values
