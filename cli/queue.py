"""The verbs that move chats: pause, resume, release, requeue, cancel."""

from __future__ import annotations

from typing import Any

import click
import psycopg
import sqlalchemy as sa

from cli.output import as_json, counted, examples, print_json
from cli.session import Refused, Session, open_session
from sql.database import query
from sql.fields import LARGEST_CHAT_ID, LARGEST_ID

ID = click.IntRange(1, LARGEST_ID)
CHAT_ID = click.IntRange(1, LARGEST_CHAT_ID)


def _on_one(what: str, number: int, statement: sa.TextClause, said: str, as_json: bool) -> None:
    """A verb that is one call for one thing, and answers a number of chats."""
    with open_session() as session:
        chats = session.value(statement, number=number)
    if as_json:
        print_json({what: number, "chats": chats})
    else:
        click.echo(f"{what} {number} {said}: {counted(chats, 'chat')}")


@examples("shoptalk pause store 1", "shoptalk pause conversation 7")
@click.command()
@click.argument("what", type=click.Choice(["store", "conversation"]))
@click.argument("number", type=ID)
@as_json
def pause(what: str, number: int, as_json: bool) -> None:
    """Stop sending the chats of a store or a conversation.

    What is accepted meanwhile is held, urgent chats too, and nothing is lost. Says how many chats wait. In SQL:
    pause_store(1), pause_conversation(7).
    """
    statement = query("pause_store") if what == "store" else query("pause_conversation")
    _on_one(what, number, statement, "is paused, waiting", as_json)


@examples("shoptalk resume store 1", "shoptalk resume conversation 7")
@click.command()
@click.argument("what", type=click.Choice(["store", "conversation"]))
@click.argument("number", type=ID)
@as_json
def resume(what: str, number: int, as_json: bool) -> None:
    """Send what `pause` has stopped, in order.

    At once where the store is open, otherwise from its next opening. Says how many chats waited. In SQL:
    resume_store(1), resume_conversation(7).
    """
    statement = query("resume_store") if what == "store" else query("resume_conversation")
    _on_one(what, number, statement, "goes on, waiting", as_json)


@examples("shoptalk release store 2", "shoptalk release conversation 7", "shoptalk release chat 1000000000017")
@click.command()
@click.argument("what", type=click.Choice(["store", "conversation", "chat"]))
@click.argument("number", type=CHAT_ID)
@as_json
def release(what: str, number: int, as_json: bool) -> None:
    """Send held chats now, whatever the hours and the clients' nights say.

    A chat goes with those of its conversation before it, so that the order holds. What is accepted afterwards is held
    as before. In SQL: release_store(2), release_conversation(7), release_chat(1000000000017).
    """
    if what != "chat" and number > LARGEST_ID:
        raise Refused(f"there is no {what} {number}")
    statements = {
        "store": query("release_store"),
        "conversation": query("release_conversation"),
        "chat": query("release_chat"),
    }
    _on_one(what, number, statements[what], "is released", as_json)


@examples("shoptalk requeue 1000000000017", "shoptalk requeue --all", "shoptalk requeue --all --store 1")
@click.command()
@click.argument("chat_ids", metavar="CHAT_ID...", nargs=-1, type=CHAT_ID)
@click.option("--all", "everything", is_flag=True, help="Every dead letter there is.")
@click.option("--store", type=ID, help="With --all: of this store only.")
@as_json
def requeue(chat_ids: tuple[int, ...], everything: bool, store: int | None, as_json: bool) -> None:
    """Give failed chats their attempts again.

    Each goes as soon as its store is open, after what of its conversation went meanwhile. In SQL: requeue_chat(id),
    requeue_failed(store_id). Why they failed: select * from chat_failures.
    """
    if bool(chat_ids) == everything:
        raise click.UsageError("say which: CHAT_ID..., or --all")
    if store is not None and not everything:
        raise click.UsageError("--store goes with --all")
    with open_session() as session:
        if not everything:
            _on_each(session, chat_ids, query("requeue_chat"), "requeued", as_json)
            return
        failed = [row["chat_id"] for row in session.rows(query("list_dead_letters"), store_id=store)]
        chats = session.value(query("requeue_failed"), store_id=store)
        session.changed(failed)
    if as_json:
        print_json({"requeued": chats})
    else:
        click.echo(f"requeued: {counted(chats, 'chat')}")


@examples("shoptalk cancel 1000000000017 1000000000018")
@click.command()
@click.argument("chat_ids", metavar="CHAT_ID...", nargs=-1, required=True, type=CHAT_ID)
@as_json
def cancel(chat_ids: tuple[int, ...], as_json: bool) -> None:
    """Take chats back that are not sent: held, queued or failed ones.

    Cancelling twice is no error; what is sent stays sent. In SQL: cancel_chat(id).
    """
    with open_session() as session:
        _on_each(session, chat_ids, query("cancel_chat"), "cancelled", as_json)


def _on_each(session: Session, chat_ids: tuple[int, ...], statement: sa.TextClause, done: str, as_json: bool) -> None:
    """Each chat by itself, so that one that is refused holds up no other. Raises Refused if one was."""
    answers: list[dict[str, Any]] = []
    for chat_id in chat_ids:
        reason = _refusal(session, chat_id, statement)
        if reason is None:
            answers.append({"chat_id": chat_id, done: True})
            session.changed([chat_id])  # at once, and so is it said: the rest may be stopped
        else:
            answers.append({"chat_id": chat_id, done: False, "reason": reason})
        if not as_json:
            click.echo(f"{done}: chat {chat_id}" if reason is None else f"not {done}: {reason}")
    if as_json:
        print_json(answers)
    refused = sum(not answer[done] for answer in answers)
    if refused:
        raise Refused(f"{counted(refused, 'chat')} of {len(answers)} not {done}")


def _refusal(session: Session, chat_id: int, statement: sa.TextClause) -> str | None:
    """Runs the statement for one chat; why it was refused, or None where it was done. Raises psycopg.Error."""
    try:
        session.rows(statement, chat_id=chat_id)
    except psycopg.errors.LockNotAvailable:
        return f"somebody has locked chat {chat_id} for long, `shoptalk doctor locks` says who"
    except psycopg.Error as error:
        if not (error.sqlstate or "").startswith("ST"):
            raise
        return error.diag.message_primary or str(error)
    return None


VERBS = [pause, resume, release, requeue, cancel]
