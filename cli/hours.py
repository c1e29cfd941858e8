"""`shoptalk hours`: a store's opening hours, and why it is open or closed."""

from __future__ import annotations

import datetime as dt
from typing import Any

import click

from cli.output import as_json, examples, format_value, print_json
from cli.queue import ID
from cli.session import CommandError, open_session
from sql.database import call
from sql.fields import WEEKDAYS


@examples("shoptalk hours show 1", "shoptalk hours explain 1 --at 2026-12-25T10:00:00Z")
@click.group()
def hours() -> None:
    """Show a store's opening hours, and why it is open or closed.

    To change them, use PUT /v1/stores/<id>/hours, change_hours() in SQL, or the page /desk/hours.
    """


@examples("shoptalk hours show 1", "shoptalk hours show 1 --json > hours.json")
@hours.command()
@click.argument("store_id", type=ID)
@as_json
def show(store_id: int, as_json: bool) -> None:
    """Show the opening hours of a store.

    With --json in the format of PUT /v1/stores/<id>/hours. In SQL: hours_of(1).
    """
    with open_session() as session:
        found = session.value(*call("hours_of", store_id=store_id))
    if found is None:
        raise CommandError(f"there is no store {store_id}")
    if as_json:
        print_json(found)
        return
    click.echo(f"store {store_id}, {found['timezone']}")
    for day in WEEKDAYS:
        click.echo(f"  {day}  {_spans(found['weekly'][day])}")
    for exception in found["exceptions"]:
        day = exception.get("date") or f"every {exception['yearly']}"
        click.echo(f"  {day}  {_spans(exception['spans'])}  {exception.get('name', '')}".rstrip())
    if "pace_per_minute" in found:
        click.echo(f"  releases {found['pace_per_minute']} a minute")
    if "urgent" in found:
        click.echo(f"  urgent chats allowed: {' and '.join(found['urgent'])}")
    if "away_notice" in found:
        click.echo(f"  away notice: {found['away_notice']}")


@examples("shoptalk hours explain 1", "shoptalk hours explain 1 --at 2026-12-25T10:00:00+01:00")
@hours.command()
@click.argument("store_id", type=ID)
@click.option("--at", metavar="INSTANT", help="ISO 8601, in UTC unless it has an offset; default: now.")
@as_json
def explain(store_id: int, at: str | None, as_json: bool) -> None:
    """Explain why a store is open or closed at an instant, and when that changes.

    In SQL: explain_hours(1, now()).
    """
    with open_session() as session:
        found = session.value(*call("explain_hours", store_id=store_id, at=_instant(at)))
    if as_json:
        print_json(found)
        return
    by = found["by"]
    state = "open" if found["open"] else "closed"
    click.echo(f"store {store_id} is {state} at {found['local_time']} {found['timezone']}")
    if found["paused_at"]:
        click.echo(f"  paused since {_short(found['paused_at'])}: shoptalk resume store {store_id}")
    exception = by["exception"] or {}
    reason = exception.get("name") or exception.get("date") or exception.get("yearly")
    span = "-".join(by["span"]) if by["span"] else "closed all day"
    click.echo(
        f"  according to {f'exception {reason}' if reason else 'weekly hours'}: {by['weekday']} {by['day']}, {span}"
    )
    click.echo(f"  next opening {_short(found['next_opening'])}, next closing {_short(found['next_closing'])}")


def _spans(spans: list[list[str]]) -> str:
    return ", ".join("-".join(span) for span in spans) or "closed"


def _short(instant: str | None) -> str:
    return format_value(dt.datetime.fromisoformat(instant)) if instant else "-"


def _instant(text: str | None) -> Any:
    if text is None:
        return None
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--at {text}: expected an instant such as 2026-12-25T10:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)


COMMANDS = [hours]
