"""The absences that ARCHITECTURE.md promises: which package imports which, and what the README leaves out."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def pinned(path: Path) -> dict[str, Requirement]:
    """What a requirements file pins, with those that it includes."""
    found = {}
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            found |= pinned(path.parent / line.removeprefix("-r "))
        elif line.partition("#")[0].strip():
            requirement = Requirement(line.partition("#")[0])
            found[canonicalize_name(requirement.name)] = requirement
    return found


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-amqp.txt", "requirements-xmpp.txt"])
def test_what_a_pinned_package_needs_is_pinned_too(name: str) -> None:
    """The container's image is made with --no-deps, which leaves out what an extra brings as well."""
    there = pinned(ROOT / name)
    for package, requirement in there.items():
        with contextlib.suppress(PackageNotFoundError):  # of another extra's file
            for text in requires(package) or []:
                needed = Requirement(text)
                wanted = [needed.marker is None or needed.marker.evaluate({"extra": extra}) for extra in
                          ("", *requirement.extras)]  # fmt: skip
                assert not any(wanted) or canonicalize_name(needed.name) in there, f"{package} needs {text}"


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
