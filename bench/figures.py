"""What comes out of a measurement: values a contender, their medians and ratios, the table."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OURS = "shoptalk"


@dataclass(frozen=True)
class Aim:
    """What the ratio to a contender should be; of OURS itself: what the figure should be."""

    sign: str  # ">=" or "<="
    bound: float

    def reached(self, value: float) -> bool:
        """Whether the value does."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.sign == '>=' else '≤'} {self.bound:g}"


@dataclass
class Row:
    """One measurement: the values of each repeat by contender, OURS first."""

    name: str
    title: str
    unit: str
    values: dict[str, list[float]]
    aims: dict[str, Aim] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def median(self, contender: str) -> float:
        """The contender's middle value."""
        return statistics.median(self.values[contender])

    def ratio(self, contender: str) -> float:
        """OURS by the contender: the median over the rounds that both took part in, else of the medians."""
        ours, others = self.values[OURS], self.values[contender]
        if len(ours) == len(others) and all(others):
            return statistics.median(a / b for a, b in zip(ours, others, strict=True))
        return self.median(OURS) / self.median(contender) if self.median(contender) else float("inf")

    def measured(self, contender: str) -> float:
        """What the contender's aim is about."""
        return self.median(OURS) if contender == OURS else self.ratio(contender)

    def as_dict(self) -> dict[str, Any]:
        """The row as the JSON file has it."""
        result = dataclasses.asdict(self)
        result["medians"] = {name: self.median(name) for name in self.values}
        result["ratios"] = {name: self.ratio(name) for name in self.values if name != OURS}
        result["aims"] = {
            name: {"aim": str(aim), "measured": self.measured(name), "reached": aim.reached(self.measured(name))}
            for name, aim in self.aims.items()
        }
        return result


def number(value: float) -> str:
    """With three or more digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table, one line a contender."""
    lines = [
        "| what | contender | median | min … max | shoptalk / it | aim | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        for place, (name, values) in enumerate(row.values.items()):
            what = f"**{row.name}**: {row.title}, {row.unit}" if place == 0 else ""
            ratio = "" if name == OURS else number(row.ratio(name))
            aim = row.aims.get(name)
            verdict = "" if aim is None else "reached" if aim.reached(row.measured(name)) else "**missed**"
            spread = f"{number(min(values))} … {number(max(values))}"
            median = number(row.median(name))
            lines.append(f"| {what} | {name} | {median} | {spread} | {ratio} | {aim or ''} | {verdict} |")
        lines += [f"| | _{note}_ | | | | | |" for note in row.notes]
    return "\n".join(lines)
