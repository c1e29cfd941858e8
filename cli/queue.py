"""The commands that change waiting chats: pause, resume, release, requeue, cancel."""

from __future__ import annotations

from typing import Any

import click
import psycopg

from cli.output import as_json, examples, pluralize, print_json
from cli.session import CommandError, Session, open_session
from sql.database import call
from sql.errors import is_rejection
from sql.fields import LARGEST_CHAT_ID, LARGEST_ID

ID = click.IntRange(1, LARGEST_ID)
CHAT_ID = click.IntRange(1, LARGEST_CHAT_ID)


def _change_one(function: str, kind: str, id: int, done: str, as_json: bool) -> None:
    """A command that is one function call for one object, which returns a number of chats."""
    with open_session() as session:
        chats = session.value(*call(f"{function}_{kind}", **{f"{kind}_id": id}))
    if as_json:
        print_json({kind: id, "chats": chats})
    else:
        click.echo(f"{kind} {id} {done}: {pluralize(chats, 'chat')}")


@examples("shoptalk pause store 1", "shoptalk pause conversation 7")
@click.command()
@click.argument("kind", type=click.Choice(["store", "conversation"]))
@click.argument("id", type=ID)
@as_json
def pause(kind: str, id: int, as_json: bool) -> None:
    """Stop sending the chats of a store or a conversation.

    Chats accepted from now on are held, even urgent ones, and none is lost. Prints how many chats wait. In SQL:
    pause_store(1), pause_conversation(7).
    """
    _change_one("pause", kind, id, "is paused, waiting", as_json)


@examples("shoptalk resume store 1", "shoptalk resume conversation 7")
@click.command()
@click.argument("kind", type=click.Choice(["store", "conversation"]))
@click.argument("id", type=ID)
@as_json
def resume(kind: str, id: int, as_json: bool) -> None:
    """Send the chats of a paused store or conversation again, in order.

    At once if the store is open, otherwise from its next opening. Prints how many chats waited. In SQL:
    resume_store(1), resume_conversation(7).
    """
    _change_one("resume", kind, id, "is resumed, waiting", as_json)


@examples("shoptalk release store 2", "shoptalk release conversation 7", "shoptalk release chat 1000000000017")
@click.command()
@click.argument("kind", type=click.Choice(["store", "conversation", "chat"]))
@click.argument("id", type=CHAT_ID)
@as_json
def release(kind: str, id: int, as_json: bool) -> None:
    """Send held chats now, regardless of opening hours and quiet hours.

    A chat is released with all earlier chats of its conversation, which keeps the order. Chats accepted afterwards are
    held as before. In SQL: release_store(2), release_conversation(7), release_chat(1000000000017).
    """
    if kind != "chat" and id > LARGEST_ID:
        raise CommandError(f"there is no {kind} {id}")
    _change_one("release", kind, id, "is released", as_json)


@examples("shoptalk requeue 1000000000017", "shoptalk requeue --all", "shoptalk requeue --all --store 1")
@click.command()
@click.argument("chat_ids", metavar="CHAT_ID...", nargs=-1, type=CHAT_ID)
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--store", type=ID, help="With --all: only those of this store.")
@as_json
def requeue(chat_ids: tuple[int, ...], everything: bool, store: int | None, as_json: bool) -> None:
    """Give failed chats their attempts again.

    Each is sent as soon as its store is open, after the chats of its conversation that were sent meanwhile. In SQL:
    requeue_chat(id), requeue_failed(store_id). To see why they failed: select * from chat_failures.
    """
    if bool(chat_ids) == everything:
        raise click.UsageError("expected either CHAT_ID... or --all")
    if store is not None and not everything:
        raise click.UsageError("--store requires --all")
    with open_session() as session:
        if not everything:
            _change_each(session, chat_ids, "requeue_chat", "requeued", as_json)
            return
        chats = session.value(*call("requeue_failed", store_id=store))
    if as_json:
        print_json({"requeued": chats})
    else:
        click.echo(f"requeued: {pluralize(chats, 'chat')}")


@examples("shoptalk cancel 1000000000017 1000000000018")
@click.command()
@click.argument("chat_ids", metavar="CHAT_ID...", nargs=-1, required=True, type=CHAT_ID)
@as_json
def cancel(chat_ids: tuple[int, ...], as_json: bool) -> None:
    """Cancel chats that are not sent: held, queued or failed ones.

    Cancelling a chat twice is not an error; a sent chat cannot be cancelled. In SQL: cancel_chat(id).
    """
    with open_session() as session:
        _change_each(session, chat_ids, "cancel_chat", "cancelled", as_json)


def _change_each(session: Session, chat_ids: tuple[int, ...], function: str, done: str, as_json: bool) -> None:
    """Changes each chat in its own transaction, so that a refused one does not stop the others. Raises CommandError."""
    answers: list[dict[str, Any]] = []
    for chat_id in chat_ids:
        reason = _refusal(session, chat_id, function)
        if reason is None:
            answers.append({"chat_id": chat_id, done: True})
        else:
            answers.append({"chat_id": chat_id, done: False, "reason": reason})
        if not as_json:
            click.echo(f"{done}: chat {chat_id}" if reason is None else f"not {done}: {reason}")
    if as_json:
        print_json(answers)
    refused = sum(not answer[done] for answer in answers)
    if refused:
        raise CommandError(f"{refused} of {pluralize(len(answers), 'chat')} not {done}")


def _refusal(session: Session, chat_id: int, function: str) -> str | None:
    """Calls the function for one chat; returns the reason for a refusal, or None if it worked. Raises psycopg.Error."""
    try:
        session.rows(*call(function, chat_id=chat_id))
    except psycopg.errors.LockNotAvailable:
        return f"another session has locked chat {chat_id}; `shoptalk doctor locks` shows which one"
    except psycopg.Error as error:
        if not is_rejection(error.sqlstate):
            raise
        return error.diag.message_primary or str(error)
    return None


COMMANDS = [pause, resume, release, requeue, cancel]
