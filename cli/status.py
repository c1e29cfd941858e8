"""`shoptalk status`: chats by state, pauses, channels with problems."""

from __future__ import annotations

from typing import Any

import click

from cli.output import as_json, channel_name, examples, format_value, pluralize, print_json, print_table
from cli.session import Session, open_session
from sql.database import query


@examples("shoptalk status", "shoptalk status --json | jq '.states[] | select(.state == \"failed\").chats'")
@click.command()
@as_json
def status(as_json: bool) -> None:
    """Show the state of the queue.

    Chats by state (view queue_status), how long the oldest due chat has waited, when a worker last sampled the queue
    (each worker does every 30 s), when old chats were last pruned, pauses (view paused), and channels that do not
    deliver or have dead letters (view channel_status).
    """
    with open_session() as session:
        found = _read(session)
    if as_json:
        print_json(found)
        return
    print_table(found["states"], state="state", chats="chats", oldest="since", next_release="next release")
    click.echo()
    click.echo(f"oldest due chat:   has waited {found['oldest_seconds']:.1f} s")
    click.echo(f"worker last seen:  {format_value(found['worker_seen_at'])}")
    pruned = found["pruned"]
    if pruned["at"]:
        click.echo(
            f"pruned to {pruned['days']} days: {format_value(pruned['at'])}; the log starts at {pruned['earliest']}"
        )
    if pruned["held_by"]:
        holder = channel_name(pruned["held_by"], pruned["store_id"])
        click.echo(f"older chats are not pruned, because {holder} has not delivered them yet")
    for paused in found["paused"]:
        waiting = pluralize(paused["waiting"], "chat")
        click.echo(
            f"paused: {paused['kind']} {paused['id']} since {format_value(paused['paused_at'])}, {waiting} waiting"
        )
    for channel in found["channels"]:
        behind = pluralize(channel["behind"], "chat")
        click.echo(
            f"{channel_name(channel['name'], channel['store_id'])}: {channel['state']}, {behind} behind, "
            f"{pluralize(channel['dead_letters'], 'dead letter')}; last error: {format_value(channel['last_error'])}"
        )


def _read(session: Session) -> dict[str, Any]:
    return {
        "states": session.rows(query("shared/queue_status")),
        "oldest_seconds": session.value(query("cli/oldest_queued")),
        "worker_seen_at": session.value(query("shared/worker_seen")),
        "paused": session.rows(query("shared/list_paused")),
        "pruned": session.one(query("cli/last_prune")),
        "channels": session.rows(query("cli/troubled_channels")),
    }


COMMANDS = [status]
