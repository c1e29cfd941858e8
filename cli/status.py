"""`shoptalk status`: how many chats are where, what is paused, which channels do not get on."""

from __future__ import annotations

from typing import Any

import click

from cli.output import as_json, counted, examples, print_json, print_table, said
from cli.session import Session, open_session
from sql.database import query


@examples("shoptalk status", "shoptalk status --json | jq '.states[] | select(.state == \"failed\").chats'")
@click.command()
@as_json
def status(as_json: bool) -> None:
    """Show the queue as it is now.

    States (view queue_status), how long the oldest chat that may go has waited, when a worker last kept the queue's
    history (each does, every 30 s), when the past was last pruned, what is paused (view paused), and the channels that
    do not deliver.
    """
    with open_session() as session:
        found = _look(session)
    if as_json:
        print_json(found)
        return
    print_table(found["states"], state="state", chats="chats", oldest="since", next_release="next release")
    click.echo()
    click.echo(f"oldest chat that may go: waits {found['oldest_seconds']:.1f} s")
    click.echo(f"last seen of a worker:   {said(found['worker_seen_at'])}")
    pruned = found["pruned"]
    if pruned["at"]:
        click.echo(f"pruned to {pruned['days']} days:    {said(pruned['at'])}; the log begins at {pruned['earliest']}")
    if pruned["held_by"]:
        store = f" of store {pruned['store_id']}" if pruned["store_id"] else ""
        click.echo(f"what is older is not pruned, because channel {pruned['held_by']}{store} has not delivered it")
    for paused in found["paused"]:
        waiting = counted(paused["waiting"], "chat")
        click.echo(f"paused: {paused['kind']} {paused['id']} since {said(paused['paused_at'])}, {waiting} waiting")
    for channel in found["channels"]:
        store = f" of store {channel['store_id']}" if channel["store_id"] else ""
        behind = counted(channel["behind"], "chat")
        click.echo(
            f"channel {channel['name']}{store}: {channel['state']}, {behind} behind, "
            f"{counted(channel['failures'], 'dead letter')}; last error: {said(channel['last_error'])}"
        )


def _look(session: Session) -> dict[str, Any]:
    return {
        "states": session.rows(query("queue_status")),
        "oldest_seconds": session.value(query("oldest_queued")),
        "worker_seen_at": session.value(query("worker_seen")),
        "paused": session.rows(query("list_paused")),
        "pruned": session.one(query("last_prune")),
        "channels": session.rows(query("troubled_channels")),
    }


VERBS = [status]
