"""Rounds: all contenders take turns, so that disturbances of the machine affect all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.figures import format_number
from bench.stage import Stage

Contenders = Mapping[str, Callable[[], float]]


def rounds(stage: Stage, row: str, contenders: Contenders, slow: Contenders | None = None) -> dict[str, list[float]]:
    """The values of each contender. With `warm_up`, a first round is not counted; `slow` contenders skip it."""
    measures = {**contenders, **(slow or {})}
    values: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(stage.sizes.repeats + 1):
        for name, measure in measures.items():
            if turn == 0 and (name not in contenders or not stage.sizes.warm_up):
                continue
            value = measure()
            label = f"round {turn} of {stage.sizes.repeats}" if turn else "warm-up"
            stage.say(f"{row}, {label}: {name} {format_number(value)}")
            if turn:
                values[name].append(value)
    return values
