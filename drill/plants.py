"""Planted faults of the product: edits of its SQL functions, and launchers in place of the worker."""

from __future__ import annotations

import re
from dataclasses import dataclass

from drill.shop import Shop
from sql.install import schema


class PlantError(RuntimeError):
    """A function no longer has the text that a plant replaces; the plant must be adapted."""


@dataclass(frozen=True)
class Plant:
    """One fault: SQL to run first, edits as (function, old text, new text), and the worker's module."""

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
    # seq comes from a sequence, and the conversation's row is not locked.
    "no-conversation-lock": Plant(
        before="create sequence drill_seq",
        edits=(
            (
                "next_in_conversation",
                """        update conversations cv set last_seq = cv.last_seq + 1, last_chat_at = shoptalk_now()
         where cv.conversation_id = next_in_conversation.conversation_id
        returning * into conversation;
        exit when found;""",
                """        select * into conversation from conversations cv
         where cv.conversation_id = next_in_conversation.conversation_id;
        if found then
            conversation.last_seq := nextval('drill_seq') + 1;
            exit;
        end if;""",
            ),
        ),
    ),
    # Chats accepted during a pause are sent.
    "pause-ignored": Plant(edits=(("schedule_chat", "if conversation.paused_at is not null then", "if false then"),)),
    "ack-before-log": Plant(worker=("drill.launch", "ack-before-log")),
    "no-poll": Plant(worker=("drill.launch", "no-poll")),
    # position is drawn before the wait for the lock; the second sequence only keeps positions distinct.
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
                "coalesce((select max(l.position) from sent_log l), 0) + row_number()",
                "current_setting('drill.turn')::bigint * 1000000000 + nextval('drill_row') * 1000 + row_number()",
            ),
        ),
    ),
}


def plant(shop: Shop, fault: Plant) -> None:
    """Plants the fault in the throwaway database. Raises PlantError."""
    with shop.connect("drill") as connection:
        if fault.before:
            connection.execute(fault.before.encode())
        for function, old, new in fault.edits:
            connection.execute(edited(function, old, new).encode())


def edited(function: str, old: str, new: str) -> str:
    """The statement that replaces a function, with `new` in place of `old`."""
    found = re.search(rf"^create or replace function {function}\(.*?^(?:end )?\$\$;$", schema(), re.M | re.S)
    if found is None or found[0].count(old) != 1:
        raise PlantError(f"{function}() does not contain this exactly once: {old}")
    return found[0].replace(old, new)
