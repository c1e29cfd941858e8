"""`shoptalk migrate`: upgrades the schema of the database to this release."""

from __future__ import annotations

import logging
from typing import Any

import click

from cli.output import as_json, examples, print_json
from cli.session import UnreachableError, open_database
from sql.install import WrongSchema, check_version, version_of
from sql.log import Lines
from sql.upgrade import Pending, pending, upgrades
from sql.upgrade import migrate as run_pending


@examples("shoptalk migrate --dry-run", "shoptalk migrate", "shoptalk migrate --json")
@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@as_json
def migrate(dry_run: bool, as_json: bool) -> None:
    """Upgrade the schema of the database to this release.

    It runs the pending upgrades of the tables and then installs the functions, triggers, views and grants that differ,
    in one transaction. Run it with the new release before its processes start; the processes of the previous release
    keep running on the new schema. It waits at most 2 s for each lock: if a table is busy, it tries again later, for
    four minutes. A second run does nothing. Needs the owner of the schema.

    The files are in sql/upgrades and sql/functions.
    """
    progress = logging.StreamHandler()  # on stderr
    progress.setFormatter(Lines(as_json=False))
    logging.basicConfig(level=logging.INFO, handlers=[progress])
    with open_database() as (_, direct_url):
        try:
            if dry_run:
                check_version(direct_url, oldest=0)
                todo = pending(direct_url, upgrades())
            else:
                todo = run_pending(direct_url, upgrades())
            version = version_of(direct_url)
        except WrongSchema as error:
            raise UnreachableError(str(error)) from None
    if as_json:
        print_json({"version": version, "dry_run": dry_run, **_as_dict(todo, dry_run)})
    else:
        click.echo(_as_text(todo, dry_run) + f"the schema has version {version}{'' if todo else '; nothing to do'}")


def _as_dict(todo: Pending, with_sql: bool) -> dict[str, Any]:
    steps = [{"version": step.version, "name": step.name} | ({"sql": step.sql} if with_sql else {})
             for step in todo.upgrades]  # fmt: skip
    return {"upgrades": steps, "functions": list(todo.functions), "files": list(todo.files)}


def _as_text(todo: Pending, dry_run: bool) -> str:
    lines = [f"-- {step.name}.sql\n\n{step.sql}" if dry_run else f"done: {step.name}" for step in todo.upgrades]
    if todo.files:
        lines.append(
            f"{'would install' if dry_run else 'installed'}: {', '.join(f'sql/{name}' for name in todo.files)}"
        )
    if todo.functions:
        lines.append(f"changed functions: {', '.join(todo.functions)}")
    return "".join(f"{line}\n" for line in lines)


COMMANDS = [migrate]
