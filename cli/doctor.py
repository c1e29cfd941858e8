"""`shoptalk doctor`: what breaks such systems in real life, looked for, with what mends it."""

from __future__ import annotations

import os
import shutil
import textwrap

import click

from cli import checks_reach, checks_server, checks_work
from cli.examination import Check, Finding, Look, examine
from cli.output import as_json, counted, examples, print_json
from cli.session import Refused, reached

CHECKS = [
    Check("server", checks_server.server),
    Check("settings", checks_reach.settings),
    Check("pooler", checks_reach.pooler),
    Check("listeners", checks_reach.listeners),
    Check("worker", checks_work.worker, of_ours=True),
    Check("release", checks_work.release, of_ours=True),
    Check("paused", checks_work.paused, of_ours=True),
    Check("channels", checks_work.channels, of_ours=True),
    Check("dead-letters", checks_work.dead_letters, of_ours=True),
    Check("locks", checks_server.locks),
    Check("snapshots", checks_server.snapshots),
    Check("dead-rows", checks_server.dead_rows, of_ours=True),
    Check("indexes", checks_server.indexes, of_ours=True),
    Check("notifications", checks_server.notifications),
    Check("clock", checks_reach.clock, of_ours=True),
    Check("zones", checks_reach.zones, of_ours=True),
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
    """Look for what breaks such systems, and say what mends it.

    The way to the database (pooler, notifications, clock, zones), the work (worker, chats that should have gone, what
    is paused, channels), and the server (what holds vacuum back, locks, dead rows, settings that lose data, what runs
    out). All of it, or the checks that you name; of those `server` is always one.

    Changes nothing and takes at most about 5 s. Exit status 1 if there is a problem; warnings are none. The role
    shoptalk_inspector will do; with pg_read_all_stats it sees more. No SQL function does the same: each check is one of
    the statements in sql/queries.
    """
    chosen = [check for check in CHECKS if not names or check.name in ("server", *names)]
    with reached() as (url, direct_url):
        look = Look(url, direct_url, os.environ)
        try:
            found = examine(look, chosen)
        finally:
            look.close()
    if as_json:
        print_json({"findings": [{"check": name} | vars(finding) for name, finding in found]})
    else:
        _print(found)
    problems = sum(finding.status == "problem" for _, finding in found)
    if problems:
        raise Refused(counted(problems, "problem"))


def _print(found: list[tuple[str, Finding]]) -> None:
    """A row a finding, wrapped in its column; what mends it stands alone, so that one can copy it."""
    width = max(len(name) for name, _ in found)
    indent = " " * (len("problem") + width + 4)
    room = max(40, shutil.get_terminal_size((120, 24)).columns - len(indent))
    for name, finding in found:
        first, *rest = textwrap.wrap(finding.text, room, break_long_words=False) or [""]
        status = click.style(finding.status.ljust(len("problem")), fg=COLORS[finding.status])
        click.echo(f"{status}  {name.ljust(width)}  {first}")
        for line in rest:
            click.echo(indent + line)
        if finding.mend:
            click.echo(f"{indent}-> {finding.mend}")
    counts = {status: sum(finding.status == status for _, finding in found) for status in COLORS}
    click.echo("\n" + ", ".join(f"{count} {status}" for status, count in counts.items() if count))


VERBS = [doctor]
