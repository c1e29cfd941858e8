"""`shoptalk prune`: forgetting what is old, by hand."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from cli.output import as_json, counted, examples, print_json
from cli.session import Refused, Session, open_session
from sql.database import query

CHATS = 500  # a transaction
SHARE = 1  # and then a pause of so many times as long
OTHERS_SECONDS = 60.0  # how long to wait in between for another one that prunes: each of its transactions is short
OTHERS_POLL_SECONDS = 0.2
DAYS = {"d": 1, "w": 7, "y": 365}


def _in_days(_: click.Context, __: click.Parameter, age: str) -> int:
    """How many days `90d`, `12w` or `2y` are."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})([dwy])", age, re.ASCII)
    if match is None:
        raise click.BadParameter(f"{age}: expected days, weeks or years, such as 90d, 12w or 2y")
    return int(match[1]) * DAYS[match[2]]


@examples("shoptalk prune --older-than 90d --dry-run", "shoptalk prune --older-than 2y")
@click.command()
@click.option("--older-than", "days", callback=_in_days, required=True, metavar="AGE", help="90d, 12w, 2y.")
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
@as_json
def prune(days: int, dry_run: bool, as_json: bool) -> None:
    """Remove chats that were sent or cancelled so long ago, for good.

    What waits or has failed stays, and so does what a channel has not delivered yet, with everything after it. In small
    transactions: it may be stopped at any time. The worker does the same by itself where SHOPTALK_KEEP_DAYS is set
    (docs/operations.md). In SQL: prune('90 days'), again and again until `more` is false.
    """
    with open_session() as session:
        found = session.one(query("prunable"), days=days)
        if not dry_run:
            found |= _prune(session, days)
    if as_json:
        print_json({"older_than_days": days, "dry_run": dry_run} | found)
        return
    would = "would remove" if dry_run else "removed"
    click.echo(f"{would}: {counted(found['sent'], 'chat')} sent, {counted(found['cancelled'], 'chat')} cancelled")
    if found["held_by"]:
        store = f" of store {found['store_id']}" if found["store_id"] else ""
        click.echo(f"no more than that, because channel {found['held_by']}{store} has to deliver what is older still")


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
    """One transaction, as soon as nobody else prunes. Raises Refused if somebody does for longer than that."""
    deadline = time.monotonic() + patience_seconds
    while (report := session.one(query("prune"), days=days, most=CHATS))["more"] is None:
        if time.monotonic() >= deadline:
            stays = "; what was removed until then stays so" if patience_seconds else ""
            raise Refused(f"somebody else prunes just now{stays}")
        time.sleep(OTHERS_POLL_SECONDS)
    return report


VERBS = [prune]
