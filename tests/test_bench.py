"""`bin/bench --smoke`: every row has values. How good they are is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT

pytestmark = pytest.mark.system

ROWS = [
    *("drain", "takeover", "uneven", "enqueue", "live", "live-p99", "latency-p50", "latency-p99"),
    *("stream-p50", "stream-p99", "streams"),
    *("post", "get", "bulk", "snapshot", "flood", "flood-p99"),
    *("history-get", "history-claim", "history-post", "memory-worker", "memory-web"),
]


@pytest.mark.timeout(400)
def test_the_smoke_measures_every_row(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke", "--json", str(results)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(results.read_text())
    assert result["conditions"]["fsync"] == "on"
    assert [row["name"] for row in result["rows"]] == ROWS
    for row in result["rows"]:
        assert "shoptalk" in row["values"]
        for contender, values in row["values"].items():
            assert len(values) == 1, (row["name"], contender)
            assert values[0] >= 0
        assert f"**{row['name']}**" in done.stdout
