"""The absences that ARCHITECTURE.md promises: which package imports which, and what the README leaves out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

MAY_IMPORT = {
    "sql": {"sql"},
    "api": {"api", "sql"},
    "worker": {"worker", "sql"},
    "relay": {"relay", "sql"},
    "cli": {"cli", "embedded", "sql"},
    "embedded": {"embedded", "sql"},
    "bench": {"bench", "embedded", "sql"},
    "drill": {"drill", "embedded", "sql", "worker"},
}


def imported(package: str) -> Iterator[tuple[str, str]]:
    """(file, top-level package of ours that it imports)."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names = [node.module or ""]
            for name in names:
                if name.split(".")[0] in {*MAY_IMPORT, "tests"}:
                    yield str(path), name.split(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_the_import_arrows_go_one_way(package: str) -> None:
    assert list(imported(package)), "the walk finds imports at all"
    for path, name in imported(package):
        assert name in MAY_IMPORT[package], path


def test_every_statement_is_used_and_every_one_used_is_there() -> None:
    used = set()
    for package in MAY_IMPORT:
        for path in (ROOT / package).rglob("*.py"):
            used |= set(re.findall(r'query\("(\w+)"\)', path.read_text()))
    assert used == {path.stem for path in (ROOT / "sql" / "queries").glob("*.sql")}


def test_every_setting_is_in_the_readme() -> None:
    text = "".join(path.read_text() for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
    names = set(re.findall(r'environ\w*(?:\.get\(|\[)"([A-Z_]+)"', text)) - {
        "PATH",
        "PROMETHEUS_MULTIPROC_DIR",
    }  # the latter is set by api.gunicorn_conf itself
    assert {"HOST", "PORT", "DATABASE_URL", "SHOPTALK_DATA", "SHOPTALK_HOURS"} <= names
    readme = (ROOT / "README.md").read_text()
    assert not {name for name in names if f"`{name}`" not in readme}


def test_the_schema_makes_no_extension_and_no_sql_is_pasted_together() -> None:
    assert "create extension" not in (ROOT / "schema.sql").read_text()
    pasted = re.compile(r"""execute\(\s*f["']|text\(\s*f["']""")
    for package in ("api", "worker", "relay", "cli", "sql"):
        for path in (ROOT / package).rglob("*.py"):
            found = [line for line in path.read_text().splitlines() if pasted.search(line)]
            assert not [line for line in found if "lock_timeout" not in line], path
