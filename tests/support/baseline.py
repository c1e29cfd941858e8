"""The baseline: the first version of the schema as a dump, and its programs, which later versions are upgraded from.

`python -m tests.support.baseline` writes tests/baseline/version_<n>.zip from this checkout. It was run once, when
version 1 was finished; its file never changes.
"""

from __future__ import annotations

import gzip
import re
import sys
import zipfile
from pathlib import Path

import psycopg

from sql.install import VERSION, prepare
from tests.support.db import Postgresql, dump, run_pg_program
from tests.support.processes import ROOT

FOLDER = ROOT / "tests" / "baseline"
PROGRAMS = ("api", "worker", "sql")
# What a fresh schema has in its tables. (The dump leaves it out: one row is a secret.)
ROWS = """
    insert into schema_version (version) values ({version});
    insert into pruned (upto) values (0);
    insert into token_secrets default values;
"""


def restore(version: int, database_url: str) -> None:
    """Makes the baseline's schema in an empty database."""
    with zipfile.ZipFile(FOLDER / f"version_{version}.zip") as baseline:
        text = gzip.decompress(baseline.read("dump.sql.gz"))
    run_pg_program("psql", "-q", "-1", "-v", "ON_ERROR_STOP=1", database_url, given=text)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(ROWS.format(version=version).encode())


def unpack_programs(version: int, folder: Path) -> Path:
    """Puts the baseline's programs into the folder, to be run with it as the current one."""
    with zipfile.ZipFile(FOLDER / f"version_{version}.zip") as baseline:
        baseline.extractall(folder, [name for name in baseline.namelist() if name != "dump.sql.gz"])
    return folder


def _source_files() -> list[Path]:
    found = [path for package in PROGRAMS for path in sorted((ROOT / package).rglob("*")) if path.is_file()]
    return [path for path in found if "__pycache__" not in path.parts and "static" not in path.parts]


def write(path: Path) -> None:
    """Writes the baseline of this checkout."""
    with Postgresql() as server:
        url = server.url(database="postgres")
        prepare(url)
        # The servers before 17 do not know this setting.
        text = re.sub(r"^SET transaction_timeout.*$", "", dump(url), flags=re.MULTILINE)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as baseline:
        baseline.writestr("dump.sql.gz", gzip.compress(text.encode(), mtime=0))
        for source in _source_files():
            baseline.write(source, source.relative_to(ROOT))


if __name__ == "__main__":
    target = FOLDER / f"version_{VERSION}.zip"
    if target.exists() and "--force" not in sys.argv:
        sys.exit(f"{target} exists, and never changes")
    write(target)
