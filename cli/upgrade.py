"""`shoptalk migrate`: an older schema becomes this program's."""

from __future__ import annotations

import logging

import click

from cli.output import as_json, examples, print_json
from cli.session import Unreachable, reached
from sql.log import Lines
from sql.migrate import migrate as run_pending
from sql.migrate import migrations, pending
from sql.schema import WrongSchema, check_version, version_of


@examples("shoptalk migrate --dry-run", "shoptalk migrate", "shoptalk migrate --json")
@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be run.")
@as_json
def migrate(dry_run: bool, as_json: bool) -> None:
    """Bring the database's schema up to this program's version.

    Run it with the new release before its processes are started; those of the release before go on meanwhile, and
    beside the new schema. Each step is one transaction. Nobody waits behind it for longer than 2 s: where a table is
    busy, it tries again later, for four minutes. A second run does nothing. Needs the owner of the schema.

    In SQL: psql -1 -f sql/migrations/0002_….sql, in order.
    """
    told = logging.StreamHandler()  # on stderr: what it waits for
    told.setFormatter(Lines(as_json=False))
    logging.basicConfig(level=logging.INFO, handlers=[told])
    with reached() as (_, direct_url):
        try:
            if dry_run:
                check_version(direct_url, oldest=0)
                todo = pending(direct_url, migrations())
            else:
                todo = run_pending(direct_url, migrations())
            version = version_of(direct_url)
        except WrongSchema as error:
            raise Unreachable(str(error)) from None
    if as_json:
        steps = [{"version": step.version, "name": step.name} | ({"sql": step.sql} if dry_run else {}) for step in todo]
        print_json({"version": version, "dry_run": dry_run, "migrations": steps})
        return
    for step in todo:
        click.echo(f"-- {step.name}.sql\n\n{step.sql}" if dry_run else f"done: {step.name}")
    left = f", {len(todo)} to run" if dry_run and todo else "" if todo else ", nothing to do"
    click.echo(f"the schema has version {version}{left}")


VERBS = [migrate]
