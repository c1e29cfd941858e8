"""`shoptalk prune`: removes old chats on demand."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from cli.output import as_json, channel_name, examples, pluralize, print_json
from cli.session import CommandError, Session, open_session
from sql.database import query

CHATS = 500  # per transaction
SHARE = 1  # the pause after each transaction, in multiples of the time it took
OTHERS_SECONDS = 60.0  # how long to wait, between two transactions, for another prune: each of its own is short
OTHERS_POLL_SECONDS = 0.2
DAYS = {"d": 1, "w": 7, "y": 365}


def _in_days(_: click.Context, __: click.Parameter, age: str) -> int:
    """The days in `90d`, `12w` or `2y`."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([dwy])", age, re.ASCII)
    if match is None:
        raise click.BadParameter(f"{age}: expected days, weeks or years, such as 90d, 12w or 2y")
    return int(match[1]) * DAYS[match[2]]


@examples("shoptalk prune --older-than 90d --dry-run", "shoptalk prune --older-than 2y")
@click.command()
@click.option("--older-than", "days", callback=_in_days, required=True, metavar="AGE", help="90d, 12w, 2y.")
@click.option("--dry-run", is_flag=True, help="Only count the chats that would be removed.")
@as_json
def prune(days: int, dry_run: bool, as_json: bool) -> None:
    """Remove chats that were sent or cancelled longer ago, for good.

    Waiting and failed chats stay, and so do chats that a channel has not delivered yet and all chats after them. It
    works in small transactions and can be stopped at any time. With SHOPTALK_KEEP_DAYS the worker prunes automatically
    (docs/operations.md). In SQL: prune('90 days'), repeated until `more` is false.
    """
    with open_session() as session:
        found = session.one(query("cli/prunable"), days=days)
        if not dry_run:
            found |= _prune(session, days)
    if as_json:
        print_json({"older_than_days": days, "dry_run": dry_run} | found)
        return
    would = "would remove" if dry_run else "removed"
    click.echo(f"{would}: {pluralize(found['sent'], 'chat')} sent, {pluralize(found['cancelled'], 'chat')} cancelled")
    if found["held_by"]:
        channel = channel_name(found["held_by"], found["store_id"])
        click.echo(f"the rest stays, because {channel} has not delivered it yet")


def _prune(session: Session, days: int) -> dict[str, int]:
    removed = {"sent": 0, "cancelled": 0}
    more = True
    while more:
        began = time.monotonic()
        report = _prune_some(session, days, patience_seconds=OTHERS_SECONDS if any(removed.values()) else 0)
        removed = {name: removed[name] + report[name] for name in removed}
        more = report["more"]
        time.sleep(SHARE * (time.monotonic() - began) if more else 0)
    return removed


def _prune_some(session: Session, days: int, patience_seconds: float) -> dict[str, Any]:
    """One transaction, as soon as no other prune runs. Raises CommandError if that takes longer."""
    deadline = time.monotonic() + patience_seconds
    while (report := session.one(query("shared/prune"), days=days, most=CHATS))["more"] is None:
        if time.monotonic() >= deadline:
            partly = "; the chats removed so far stay removed" if patience_seconds else ""
            raise CommandError(f"another prune is running{partly}")
        time.sleep(OTHERS_POLL_SECONDS)
    return report


COMMANDS = [prune]
