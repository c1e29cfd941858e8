"""A client's data: export and erasure."""

from __future__ import annotations

import sys

import click

from cli.output import as_json, examples, pluralize, print_json
from cli.queue import ID
from cli.session import CommandError, open_session
from sql.database import call


@examples("shoptalk export 1 > client-1.json", "shoptalk export 1 | jq '.conversations[].chats[].payload'")
@click.command()
@click.argument("client_id", type=ID)
@as_json
def export(client_id: int, as_json: bool) -> None:
    """Export everything about a client, always as JSON.

    The client's fields, the conversations, and the chats with their states. In SQL: export_client(1).
    """
    with open_session() as session:
        print_json(session.value(*call("export_client", client_id=client_id)))


@examples("shoptalk export 1 > client-1.json", "shoptalk erase 1", "shoptalk erase 1 --yes --json")
@click.command()
@click.argument("client_id", type=ID)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@as_json
def erase(client_id: int, yes: bool, as_json: bool) -> None:
    """Replace every text and name of a client, for good.

    Chats that are not sent yet are cancelled. Every text in the client's conversations, from both parties, becomes
    "[erased]", and so do the client's name, location and XMPP address, stored failure reasons, stored answers of
    receivers, and message ids. Ids, seqs, positions and instants stay, so the order of everything is kept.

    You have to erase the rest yourself: chats that webhooks, RabbitMQ and XMPP have already delivered, rejected
    messages (RabbitMQ's queue shoptalk.dead), the logs of the processes, and backups (docs/operations.md). In SQL:
    erase_client(1).
    """
    with open_session() as session:
        if not yes:
            if not sys.stdin.isatty():
                raise CommandError("this cannot be undone: add --yes to confirm")
            click.confirm(f"Erase client {client_id}? This cannot be undone", abort=True, err=True)
        found = session.one(*call("erase_client", client_id=client_id))
    if as_json:
        print_json({"client_id": client_id} | found)
    else:
        click.echo(
            f"client {client_id} erased: {pluralize(found['chats'], 'text')} in "
            f"{pluralize(found['conversations'], 'conversation')}, {pluralize(found['cancelled'], 'chat')} cancelled"
        )


COMMANDS = [export, erase]
