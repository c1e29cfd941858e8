"""The results of a measurement: values by contender, their medians and ratios, the table."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

OURS = "shoptalk"


@dataclass(frozen=True)
class Aim:
    """A bound for the ratio of OURS to a contender, or, for OURS itself, for its value."""

    sign: str  # ">=" or "<="
    bound: float

    def is_reached(self, value: float) -> bool:
        """Whether the value keeps the bound."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.sign == '>=' else '≤'} {self.bound:g}"


@dataclass
class Row:
    """One measurement: each round's values by contender, OURS first."""

    name: str
    title: str
    unit: str
    values: dict[str, list[float]]
    aims: dict[str, Aim] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def median(self, contender: str) -> float:
        """The contender's median."""
        return statistics.median(self.values[contender])

    def ratio(self, contender: str) -> float:
        """OURS divided by the contender: the median over the common rounds, or the ratio of the medians."""
        ours, others = self.values[OURS], self.values[contender]
        if len(ours) == len(others) and all(others):
            return statistics.median(a / b for a, b in zip(ours, others, strict=True))
        return self.median(OURS) / self.median(contender) if self.median(contender) else float("inf")

    def measured(self, contender: str) -> float:
        """The value that the contender's aim bounds."""
        return self.median(OURS) if contender == OURS else self.ratio(contender)

    def as_dict(self) -> dict[str, Any]:
        """The row for the JSON file."""
        result = dataclasses.asdict(self)
        result["medians"] = {name: self.median(name) for name in self.values}
        result["ratios"] = {name: self.ratio(name) for name in self.values if name != OURS}
        result["aims"] = {
            name: {"aim": str(aim), "measured": self.measured(name), "reached": aim.is_reached(self.measured(name))}
            for name, aim in self.aims.items()
        }
        return result


def format_number(value: float) -> str:
    """With at least three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table, one line per contender."""
    lines = [
        "| what | contender | median | min … max | shoptalk / it | aim | |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        for index, (name, values) in enumerate(row.values.items()):
            what = f"**{row.name}**: {row.title}, {row.unit}" if index == 0 else ""
            ratio = "" if name == OURS else format_number(row.ratio(name))
            aim = row.aims.get(name)
            verdict = "" if aim is None else "reached" if aim.is_reached(row.measured(name)) else "**missed**"
            spread = f"{format_number(min(values))} … {format_number(max(values))}"
            median = format_number(row.median(name))
            lines.append(f"| {what} | {name} | {median} | {spread} | {ratio} | {aim or ''} | {verdict} |")
        lines += [f"| | _{note}_ | | | | | |" for note in row.notes]
    return "\n".join(lines)
