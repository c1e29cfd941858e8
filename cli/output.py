"""How results are printed: in columns for people, as JSON for programs."""

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

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def examples(*lines: str) -> Callable[[Command], Command]:
    """Appends examples to a command's help, one line each, as they are typed."""

    def add(command: Command) -> Command:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return add


def print_json(value: object) -> None:
    """Prints JSON; instants look as in the API."""
    click.echo(json.dumps(value, default=_to_json, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, Any]], **headings: str) -> None:
    """Prints the named columns of the rows under the given headings."""
    lines = [list(headings.values()), *([format_value(row[name]) for name in headings] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    numbers = [any(isinstance(row[name], int) for row in rows) for name in headings]
    for line in lines:
        cells = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numbers, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def format_value(value: object) -> str:
    """A value for people: instants in UTC to the second, a dash for None and for an empty list."""
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, (list, tuple)):
        return ",".join(map(format_value, value)) or "-"
    return str(value)


def pluralize(count: int, noun: str) -> str:
    """`1 chat`, `2 chats`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def channel_name(name: str, store_id: int | None) -> str:
    """`channel crm of store 1`; a channel of all stores has no store_id."""
    return f"channel {name} of store {store_id}" if store_id else f"channel {name}"


def mask_passwords(text: str) -> str:
    """The text with *** for the passwords in URLs and in libpq's keyword strings."""
    return PASSWORDS.sub(lambda found: f"{found['url'] or found['word']}***", text)


def _to_json(value: object) -> Any:
    return instant(value) if isinstance(value, dt.datetime) else str(value)
