"""Faults of the product to plant: edits of schema.sql's functions, and launchers in place of the worker."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from drill.shop import Shop

SCHEMA = Path(__file__).parent.parent / "schema.sql"


class NotPlantable(RuntimeError):
    """schema.sql no longer has the text that a plant replaces; the plant has to follow it."""


@dataclass(frozen=True)
class Plant:
    """One fault: SQL to run before, edits as (function, old text, new text), the worker's module."""

    before: str = ""
    edits: tuple[tuple[str, str, str], ...] = ()
    worker: tuple[str, ...] = ("worker",)


SENDER_LOCK = """    if not pg_try_advisory_xact_lock(sender_lock()) then
        return null;
    end if;
"""
NO_SENDER_LOCK = ("send_chats", SENDER_LOCK, "")
NO_PREDECESSOR = ("send_claimed", "and (n.before = n.seq - 1", "and (true or n.before = n.seq - 1")

PLANTS = {
    "no-order-lock": Plant(edits=(NO_SENDER_LOCK, NO_PREDECESSOR)),
    "no-predecessor-check": Plant(edits=(NO_PREDECESSOR,)),
    # The number comes from a sequence, without the conversation's row locked.
    "no-conversation-lock": Plant(
        before="create sequence drill_seq",
        edits=(
            (
                "next_in_conversation",
                """        update conversations c set last_seq = last_seq + 1, last_chat_at = shoptalk_now()
         where c.conversation_id = next_in_conversation.conversation_id
        returning * into conversation;
        exit when found;""",
                """        select * into conversation from conversations c
         where c.conversation_id = next_in_conversation.conversation_id;
        if found then
            conversation.last_seq := nextval('drill_seq') + 1;
            exit;
        end if;""",
            ),
        ),
    ),
    # What is accepted meanwhile goes.
    "pause-ignored": Plant(edits=(("enqueue_chat", "if conversation.paused_at is not null then", "if false then"),)),
    "ack-before-log": Plant(worker=("drill.launch", "ack-before-log")),
    "no-poll": Plant(worker=("drill.launch", "no-poll")),
    # Drawn before the lock is waited for; the second sequence only keeps positions apart.
    "position-outside-lock": Plant(
        before="create sequence drill_turn; create sequence drill_row",
        edits=(
            (
                "send_chats",
                SENDER_LOCK,
                "perform set_config('drill.turn', nextval('drill_turn')::text, true);"
                " perform pg_advisory_xact_lock(sender_lock());",
            ),
            (
                "send_claimed",
                "coalesce((select max(position) from sent_log), 0) + row_number()",
                "current_setting('drill.turn')::bigint * 1000000000 + nextval('drill_row') * 1000 + row_number()",
            ),
        ),
    ),
}


def plant(shop: Shop, fault: Plant) -> None:
    """Makes the fault in the throwaway database. Raises NotPlantable."""
    with shop.connect("drill") as connection:
        if fault.before:
            connection.execute(fault.before.encode())
        for function, old, new in fault.edits:
            connection.execute(edited(function, old, new).encode())


def edited(function: str, old: str, new: str) -> str:
    """The statement that replaces one of schema.sql's functions by itself with `old` made `new`."""
    found = re.search(rf"^create function {function}\(.*?^(?:end )?\$\$;$", SCHEMA.read_text("utf-8"), re.M | re.S)
    if found is None or found[0].count(old) != 1:
        raise NotPlantable(f"{function}() in schema.sql has not exactly once: {old}")
    return found[0].replace(old, new).replace("create function", "create or replace function", 1)
