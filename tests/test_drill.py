"""The destruction drill itself: it ends clean, and it catches planted faults."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from drill.plan import KINDS, steps
from drill.plants import PLANTS, PlantError, edited
from tests.support.processes import ROOT

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]


def drill(*options: str) -> tuple[int, dict[str, int], str]:
    """Returns the exit status, the figures of the last table, and the output."""
    done = subprocess.run([sys.executable, "-m", "drill", *options], cwd=ROOT, capture_output=True, text=True)
    _, _, wrong = done.stdout.partition("wrong (all must be 0)")
    figures = {
        name: int(count.replace(",", "")) for name, count in re.findall(r"^(\w[\w ]+?) {2,}([\d,]+)$", wrong, re.M)
    }
    return done.returncode, figures, done.stdout + done.stderr


def test_a_short_drill_ends_clean() -> None:
    status, figures, output = drill("--seconds", "15", "--seed", "1")
    assert (status, set(figures.values())) == (0, {0}), output
    assert "clean" in output.splitlines()


def test_a_planted_fault_is_caught() -> None:
    status, figures, output = drill("--seconds", "6", "--seed", "1", "--plant", "ack-before-log")
    assert status == 1, output
    assert figures["lost"] > 0, output


def test_the_seed_alone_decides_what_is_broken_when() -> None:
    def plan(seed: int) -> list[tuple[float, str, float, float]]:
        round_ = zip(range(sum(kind.times for kind in KINDS)), steps(seed), strict=False)
        return [(step.gap, step.kind.name, step.lasts, step.chance.random()) for _, step in round_]

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)
    assert {name for _, name, _, _ in plan(1)} == {kind.name for kind in KINDS}


@pytest.mark.parametrize("name", PLANTS)
def test_every_plant_finds_its_text_in_the_functions(name: str) -> None:
    for function, old, new in PLANTS[name].edits:
        assert new in edited(function, old, new)


def test_a_plant_whose_text_is_gone_raises_an_error() -> None:
    with pytest.raises(PlantError):
        edited("send_chats", "no such text", "")
