"""The modules of the pages under node, without a browser: tests/pages/*.test.mjs."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.support.processes import ROOT

NEEDED = 20  # the first version of node with Array.prototype.with(), which the pages use


def node_version() -> int:
    """The major version of node; 0 if it is not installed."""
    if shutil.which("node") is None:
        return 0
    answer = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    return int(answer.stdout.removeprefix("v").split(".")[0])


def test_the_page_modules_pass_their_own_tests() -> None:
    if node_version() < NEEDED:
        reason = f"node {NEEDED} or later is not installed"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    files = sorted(str(path) for path in (ROOT / "tests" / "pages").glob("*.test.mjs"))
    assert files
    result = subprocess.run(
        ["node", "--test", *files], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200
    )
    assert result.returncode == 0, result.stdout
