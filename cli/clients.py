"""A client's data: handing it over, and erasing it."""

from __future__ import annotations

import sys

import click

from cli.output import as_json, counted, examples, print_json
from cli.queue import ID
from cli.session import Refused, open_session
from sql.database import query


@examples("shoptalk export 1 > client-1.json", "shoptalk export 1 | jq '.conversations[].chats[].payload'")
@click.command()
@click.argument("client_id", type=ID)
@as_json
def export(client_id: int, as_json: bool) -> None:
    """Hand over all that there is of a client, always as JSON.

    The client's fields, conversations, chats and what became of each. In SQL: export_client(1).
    """
    with open_session() as session:
        print_json(session.value(query("export_client"), client_id=client_id))


@examples("shoptalk export 1 > client-1.json", "shoptalk erase 1", "shoptalk erase 1 --yes --json")
@click.command()
@click.argument("client_id", type=ID)
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def erase(client_id: int, yes: bool, as_json: bool) -> None:
    """Replace all texts and names of a client, for good.

    What would still be sent is cancelled. Every text of the client's conversations, both ways, becomes "[erased]", and
    so do name, place and XMPP address, reasons and answers kept of deliveries, and ids of messages. Numbers stay: ids,
    seq, positions, instants; so nothing else loses its order or its place.

    Out of reach, and yours to do: what webhooks, RabbitMQ and XMPP have handed over already, messages that were refused
    (RabbitMQ's queue shoptalk.dead), the processes' logs, and backups (docs/operations.md). In SQL: erase_client(1).
    """
    with open_session() as session:
        if not yes:
            if not sys.stdin.isatty():
                raise Refused("this cannot be undone: say --yes")
            click.confirm(f"Erase client {client_id}? This cannot be undone", abort=True, err=True)
        found = session.one(query("erase_client"), client_id=client_id)
    if as_json:
        print_json({"client_id": client_id} | found)
    else:
        click.echo(
            f"client {client_id} is erased: {counted(found['chats'], 'text')} in "
            f"{counted(found['conversations'], 'conversation')}, {counted(found['cancelled'], 'chat')} cancelled"
        )


VERBS = [export, erase]
