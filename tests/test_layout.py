"""What ARCHITECTURE.md promises: which package imports which; and what docs/settings.md must list."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from api.wire.channel_fields import CHANNEL_NAME
from sql.errors import INTERNAL, REJECTIONS, http_status, is_rejection
from sql.fields import LONGEST_PAYLOAD, SCOPES, WEEKDAYS
from sql.install import schema
from sql.settings import Settings
from tests.support.db import Connection
from tests.support.processes import ROOT

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


def sources(*packages: str) -> Iterator[Path]:
    for package in packages:
        yield from (ROOT / package).rglob("*.py")


def test_inside_the_api_the_import_arrows_go_one_way_too() -> None:
    """app -> views -> gate, push, wire; what serves a request never knows which view it serves."""
    may_import = {
        "views": {"views", "gate", "push", "wire"},
        "gate": {"gate", "wire"},
        "push": {"push", "gate", "wire"},
        "wire": {"wire"},
    }
    for folder, others in may_import.items():
        for path in sources(f"api/{folder}"):
            found = re.findall(r"^\s*(?:from|import) api\.(views|gate|push|wire)\b", path.read_text(), re.MULTILINE)
            assert set(found) <= others, path


def test_every_statement_is_used_and_every_one_used_is_there() -> None:
    folder = ROOT / "sql" / "queries"
    used = {
        name
        for path in sources(*MAY_IMPORT)
        for name in re.findall(r'\b(?:query|_rows)\(\s*"([\w/]+)"', path.read_text())
    }
    assert used == {str(path.relative_to(folder)).removesuffix(".sql") for path in folder.rglob("*.sql")}


def calls(path: Path) -> Iterator[tuple[str, set[str] | None]]:
    """The functions of the database that a module calls, each with its arguments; None: they come from elsewhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "call"
            and isinstance(node.args[0], ast.Constant)
        ):
            names = [keyword.arg for keyword in node.keywords]
            yield str(node.args[0].value), None if None in names else {str(name) for name in names}


def test_every_function_that_is_called_has_these_arguments(db: Connection) -> None:
    """call() names them, so a wrong one would be an error; here it is one before the call is made."""
    functions: dict[str, list[tuple[set[str], int]]] = {}
    for name, arguments, defaults in db.execute(
        "select proname, proargnames[:pronargs], pronargdefaults"
        " from pg_proc where pronamespace = 'public'::regnamespace"
    ):
        functions.setdefault(name, []).append((set(arguments or ()), defaults))
    found = [(path, *one) for path in sources("api", "worker", "relay", "cli") for one in calls(path)]
    assert len(found) > 30
    for path, name, given in found:
        assert name in functions, (path, name)
        if given is not None:
            fits = [given <= names and len(names) - len(given) <= defaults for names, defaults in functions[name]]
            assert any(fits), (path, name, given)


def documented_settings() -> dict[str, str]:
    """The names and defaults in the tables of docs/settings.md, without the explanation after a colon; unset: empty."""
    found = {}
    for line in (ROOT / "docs" / "settings.md").read_text().splitlines():
        if line.startswith("| `"):
            names, default = [cell.strip() for cell in line.split(" | ")][:2]
            defaults = [one.strip("`") for one in default.split(": ")[0].replace("unset", "").split(", ")]
            keys = re.findall(r"`(\w+)`", names)
            found |= dict(zip(keys, defaults * len(keys) if len(defaults) == 1 else defaults, strict=True))
    return found


def test_every_setting_is_documented_with_its_default() -> None:
    documented = documented_settings()
    declared = {field.metadata["name"]: field.metadata["default"] for field in dataclasses.fields(Settings)}
    assert declared.items() <= documented.items()
    text = "".join(path.read_text() for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
    others = set(re.findall(r'environ\w*(?:\.get\(|\[)"([A-Z_]+)"', text)) - declared.keys()
    own = {"PATH", "PROMETHEUS_MULTIPROC_DIR"}  # the latter is set by api.gunicorn_conf itself
    assert others - own == documented.keys() - declared.keys() == {"SHOPTALK_DATA", "SHOPTALK_LOG"}


def test_every_sqlstate_of_ours_has_a_meaning() -> None:
    raised = set(re.findall(r"errcode = '(ST\w{3})'", schema()))
    assert raised == {state for state in REJECTIONS if state.startswith("ST")} | INTERNAL
    assert [http_status(state) for state in ("ST403", "ST404", "ST409", "22023", "23514", "57P03", "P0001", None)] == [
        403, 404, 409, 400, 400, 503, 503, 503
    ]  # fmt: skip
    assert [is_rejection(state) for state in ("ST409", "40001", None)] == [True, False, False]


def test_what_python_and_the_schema_both_know_is_the_same() -> None:
    text = schema()
    composer = (ROOT / "api" / "static" / "composer.js").read_text()
    longest = re.findall(r"char_length\(away_notice\) between 1 and (\d+)", text)
    longest += re.findall(r"char_length\(coalesce\(template, payload\)\) <= (\d+)", text)
    longest += re.findall(r"MAX_CHARACTERS = (\d+);", composer)
    assert longest == [str(LONGEST_PAYLOAD)] * 3
    assert f"scopes <@ array[{', '.join(map(repr, SCOPES))}]" in text
    assert f"check (name ~ '{CHANNEL_NAME.pattern}')" in text
    assert f"array[{', '.join(map(repr, WEEKDAYS))}]" in text


def test_the_schema_makes_no_extension_and_no_sql_is_pasted_together() -> None:
    assert "create extension" not in schema()
    pasted = re.compile(r"""execute\(\s*f["']|text\(\s*f["']""")
    for package in ("api", "worker", "relay", "cli", "sql"):
        for path in (ROOT / package).rglob("*.py"):
            found = [line for line in path.read_text().splitlines() if pasted.search(line)]
            assert not [line for line in found if "lock_timeout" not in line], path


ALIASES = {
    "chats": "ch", "conversations": "cv", "clients": "cl", "channels": "cn", "chat_queue": "[qp]", "sent_log": "l",
    "stores": "s", "operators": "o", "chat_failures": "f", "channel_dead_letters": "d", "cancelled_chats": "x",
    "quiet_hours": "qh",
}  # fmt: skip
NO_ALIAS = (
    "where|set|on|using|join|left|cross|order|group|limit|for|values|as|from|full|inner|union|returning|to|and|or|"
    "select|do|is|lateral|having|into"
)


def test_sql_names_a_table_by_one_alias_and_a_parameter_by_its_function() -> None:
    sql = "\n".join(path.read_text() for path in (ROOT / "sql").rglob("*.sql"))
    sql = re.sub("--.*", "", sql)
    assert "#variable_conflict" not in sql
    for table, alias in ALIASES.items():
        named = re.findall(rf"\b(?:from|join|update|into|using)\s+{table}(?:\s+as)?\s+(?!(?:{NO_ALIAS})\b)(\w+)", sql)
        assert named or table == "quiet_hours"
        assert all(re.fullmatch(alias, name) for name in named), (table, set(named))


def test_tests_share_helpers_by_tests_support_alone() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            assert not re.match(r"tests\.(test_|conftest)", module), f"{path}:{node.lineno}"
