"""`shoptalk keys`: API keys and the secret that signs tokens."""

from __future__ import annotations

import click

from cli.output import as_json, examples, print_json, print_table
from cli.queue import ID
from cli.session import open_session
from sql.database import call, query
from sql.fields import SCOPES


@examples(
    "shoptalk keys make shop",
    "shoptalk keys make till --scope send --scope read --store 1",
    "shoptalk keys revoke till",
)
@click.group()
def keys() -> None:
    """Make, list and revoke API keys.

    As soon as there is a key, every caller needs one (docs/security.md). Needs the owner of the schema.
    """


@examples("shoptalk keys list")
@keys.command("list")
@as_json
def list_keys(as_json: bool) -> None:
    """List the keys, revoked ones too; their secrets are not stored. In SQL: select * from keys."""
    with open_session() as session:
        found = session.rows(query("shared/list_keys"))
    if as_json:
        print_json(found)
    else:
        print_table(found, name="name", scopes="scopes", store_id="store", created_at="created", revoked_at="revoked")


@examples("shoptalk keys make shop", "shoptalk keys make till --scope send --scope read --store 1")
@keys.command()
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Default: all scopes.")
@click.option("--store", type=ID, help="Only this store; default: all stores.")
@as_json
def make(name: str, scopes: tuple[str, ...], store: int | None, as_json: bool) -> None:
    """Make a key, and print it; it is not shown again. In SQL: make_key('till', '{send,read}', 1)."""
    with open_session() as session:
        key = session.value(*call("make_key", name=name, scopes=list(scopes or SCOPES), store_id=store))
    if as_json:
        print_json({"name": name, "key": key})
    else:
        click.echo(key)


@examples("shoptalk keys revoke till")
@keys.command()
@click.argument("name")
@as_json
def revoke(name: str, as_json: bool) -> None:
    """Revoke a key and every token issued with it, within 5 s. In SQL: revoke_key('till')."""
    with open_session() as session:
        session.rows(*call("revoke_key", name=name))
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        click.echo(f"key {name} is revoked")


@examples("shoptalk keys rotate", "shoptalk keys rotate --forget")
@keys.command()
@click.option("--forget", is_flag=True, help="Also invalidate all tokens issued so far.")
@as_json
def rotate(forget: bool, as_json: bool) -> None:
    """Sign tokens with a new secret from now on. In SQL: rotate_token_secret()."""
    with open_session() as session:
        session.rows(*call("rotate_token_secret", forget=forget))
    if as_json:
        print_json({"rotated": True, "forgotten": forget})
    else:
        click.echo("tokens are signed with a new secret" + ("; older tokens are invalid" if forget else ""))


COMMANDS = [keys]
