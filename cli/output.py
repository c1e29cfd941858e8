"""How answers are printed: for people in columns, with --json for programs."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from sql.shapes import instant

Command = TypeVar("Command", bound=click.Command)

PASSWORDS = re.compile(
    r"(?P<url>//[^:/@\s]*:)[^\s\"]*(?=@)|(?P<word>password\s*=\s*)('(?:\\\\.|[^'])*'|\S+)", re.IGNORECASE
)

as_json = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


def examples(*lines: str) -> Callable[[Command], Command]:
    """Ends a command's help with examples, each a line as one types it."""

    def add(command: Command) -> Command:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return add


def print_json(value: object) -> None:
    """JSON, instants as the API has them."""
    click.echo(json.dumps(value, default=_plain, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, Any]], **headings: str) -> None:
    """Rows in columns: those named, under the headings given."""
    lines = [list(headings.values()), *([said(row[name]) for name in headings] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(headings))]
    numbers = [any(isinstance(row[name], int) for row in rows) for name in headings]
    for line in lines:
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numbers, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def said(value: object) -> str:
    """A value for people: instants in UTC to the second, what is not there as a dash."""
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, (list, tuple)):
        return ",".join(map(said, value)) or "-"
    return str(value)


def counted(number: int, thing: str) -> str:
    """`1 chat`, `2 chats`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def without_passwords(text: str) -> str:
    """The text with the passwords of URLs and of libpq's keyword strings crossed out."""
    return PASSWORDS.sub(lambda found: f"{found['url'] or found['word']}***", text)


def _plain(value: object) -> Any:
    return instant(value) if isinstance(value, dt.datetime) else str(value)
