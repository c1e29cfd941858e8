"""`shoptalk doctor`: finds the problems that such systems have in practice, and prints the fix for each."""

from __future__ import annotations

import os
import shutil
import textwrap

import click

from cli import checks_reach, checks_server, checks_work
from cli.examination import Check, CheckContext, Finding, examine
from cli.output import as_json, examples, pluralize, print_json
from cli.session import CommandError, open_database

CHECKS = [
    Check("server", checks_server.server),
    Check("settings", checks_reach.settings),
    Check("pooler", checks_reach.pooler),
    Check("listeners", checks_reach.listeners),
    Check("worker", checks_work.worker, needs_schema=True),
    Check("release", checks_work.release, needs_schema=True),
    Check("paused", checks_work.paused, needs_schema=True),
    Check("channels", checks_work.channels, needs_schema=True),
    Check("dead-letters", checks_work.dead_letters, needs_schema=True),
    Check("locks", checks_server.locks),
    Check("snapshots", checks_server.snapshots),
    Check("dead-rows", checks_server.dead_rows, needs_schema=True),
    Check("indexes", checks_server.indexes, needs_schema=True),
    Check("notifications", checks_server.notifications),
    Check("clock", checks_reach.clock, needs_schema=True),
    Check("zones", checks_reach.zones, needs_schema=True),
    Check("durability", checks_server.durability),
    Check("connections", checks_server.connections),
    Check("wraparound", checks_server.wraparound),
]
COLORS = {"ok": "green", "warning": "yellow", "problem": "red", "unknown": "magenta"}


@examples(
    "shoptalk doctor",
    "shoptalk doctor snapshots locks",
    "shoptalk doctor --json | jq '.findings[] | select(.status == \"problem\")'",
)
@click.command()
@click.argument("names", metavar="[CHECK]...", nargs=-1, type=click.Choice([check.name for check in CHECKS]))
@as_json
def doctor(names: tuple[str, ...], as_json: bool) -> None:
    """Find problems, and print the fix for each.

    It checks the way to the database (pooler, notifications, clocks, time zones), the work (worker, overdue chats,
    pauses, channels), and the server (held-back vacuum, locks, dead rows, settings that lose data, resources that run
    out). With names of checks it runs only those, and always `server`.

    It changes nothing and takes at most about 5 s. The exit status is 1 if there is a problem, and 0 with warnings
    only. The role shoptalk_inspector is enough; with pg_read_all_stats it sees more. No SQL function does the same: the
    checks use the statements in sql/queries/doctor.
    """
    chosen = [check for check in CHECKS if not names or check.name in ("server", *names)]
    with open_database() as (url, direct_url):
        context = CheckContext(url, direct_url, os.environ)
        try:
            found = examine(context, chosen)
        finally:
            context.close()
    if as_json:
        print_json({"findings": [{"check": name} | vars(finding) for name, finding in found]})
    else:
        _print(found)
    problems = sum(finding.status == "problem" for _, finding in found)
    if problems:
        raise CommandError(pluralize(problems, "problem"))


def _print(found: list[tuple[str, Finding]]) -> None:
    """One row per finding, its text wrapped in its column; the fix has a line of its own, ready to copy."""
    width = max(len(name) for name, _ in found)
    indent = " " * (len("problem") + width + 4)
    room = max(40, shutil.get_terminal_size((120, 24)).columns - len(indent))
    for name, finding in found:
        first, *rest = textwrap.wrap(finding.text, room, break_long_words=False) or [""]
        status = click.style(finding.status.ljust(len("problem")), fg=COLORS[finding.status])
        click.echo(f"{status}  {name.ljust(width)}  {first}")
        for line in rest:
            click.echo(indent + line)
        if finding.fix:
            click.echo(f"{indent}-> {finding.fix}")
    counts = {status: sum(finding.status == status for _, finding in found) for status in COLORS}
    click.echo("\n" + ", ".join(f"{count} {status}" for status, count in counts.items() if count))


COMMANDS = [doctor]
