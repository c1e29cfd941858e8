"""Checks of the work itself: the worker, overdue chats, pauses, channels, dead letters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from cli.checks_reach import RELAY_LISTENER, WORKER_LISTENER, count_sessions
from cli.examination import CheckContext, Finding, ok, problem, warning
from cli.output import channel_name, format_value, pluralize
from sql.database import query

OVERDUE_SECONDS = 30  # a chat that is still not sent so long after it was due is overdue
UNSEEN_SECONDS = 90  # a worker is seen every 30 s
FAR_BEHIND = 10_000  # chats that a channel has still to deliver
NO_WORKER = "start a worker (systemctl start shoptalk-worker@1, or bin/run), or see its log"
NO_RELAY = "start a relay (systemctl start shoptalk-relay, or bin/run), or see its log"


def worker(context: CheckContext) -> Iterator[Finding]:
    """A worker runs, and has checked the opening hours recently."""
    seen_at = context.value(query("shared/worker_seen"))
    workers = count_sessions(context).get(WORKER_LISTENER, 0)
    clock = context.one(query("doctor/clock_skew"))["clock"]
    is_silent = seen_at is None or clock - seen_at > dt.timedelta(seconds=UNSEEN_SECONDS)
    if is_silent and not workers:
        seen = f"last seen {format_value(seen_at)}" if seen_at else "and none has ever run"
        yield problem(f"no worker runs, {seen}: nothing is sent", NO_WORKER)
    elif is_silent:
        yield problem(f"a worker is connected, but last checked the hours {format_value(seen_at)}",
                      "see its log for keeping_hours_failed and sampling_failed; restart it")  # fmt: skip
    else:
        yield ok(f"last checked the hours {format_value(seen_at)}, {pluralize(workers, 'listener')} now")


def release(context: CheckContext) -> Iterator[Finding]:
    """No chat is overdue."""
    found = context.one(query("doctor/overdue"), seconds=OVERDUE_SECONDS)
    last = f"; the last chat was sent {format_value(found['last_sent_at'])}" if found["last_sent_at"] else ""
    if not found["chats"]:
        yield ok(f"no chat is overdue by more than {OVERDUE_SECONDS} s{last}")
        return
    at_least = "at least " if found["chats"] == 10_000 else ""
    verb = "is" if found["chats"] == 1 else "are"
    text = f"{at_least}{pluralize(found['chats'], 'chat')} {verb} overdue, since {format_value(found['since'])}{last}"
    if found["sender"]:
        fix = f"it sends, or blocks all others; if still so in a minute: select pg_terminate_backend({found['sender']})"
        yield problem(f"{text}; session {found['sender']} holds the sender's lock", fix)
    else:
        yield problem(text, NO_WORKER)


def paused(context: CheckContext) -> Iterator[Finding]:
    """Nothing is paused by mistake."""
    found = context.rows(query("shared/list_paused"))
    for row in found:
        waiting = pluralize(row["waiting"], "chat")
        text = f"{row['kind']} {row['id']} is paused since {format_value(row['paused_at'])}, {waiting} waiting"
        yield warning(text, f"if that is a mistake: shoptalk resume {row['kind']} {row['id']}")
    if not found:
        yield ok("no store and no conversation is paused")


def channels(context: CheckContext) -> Iterator[Finding]:
    """The channels deliver; if there are any, a relay runs."""
    every = context.rows(query("doctor/list_all_channels"))
    found = [finding for channel in every for finding in _check_channel(channel)]
    live = [channel for channel in every if channel["state"] in ("active", "failing")]
    if live and RELAY_LISTENER not in count_sessions(context):
        behind = pluralize(max(channel["behind"] for channel in live), "chat")
        found.append(problem(f"no relay runs, but there are channels to deliver to, {behind} behind", NO_RELAY))
    yield from found or [ok(f"{pluralize(len(every), 'channel')}, no problems")]


def _check_channel(channel: dict[str, Any]) -> Iterator[Finding]:
    store = channel["store_id"]
    name = channel_name(channel["name"], store)
    path = (f"/v1/stores/{store}/channels" if store else "/v1/channels") + f"/{channel['name']}"
    arguments = f"'{channel['name']}', {store}" if store else f"'{channel['name']}'"
    error = f"; last error: {channel['last_error']}" if channel["last_error"] else ""
    behind = f"{pluralize(channel['behind'], 'chat')} behind"
    if channel["state"] == "disabled":
        yield problem(f"{name} is disabled, {behind}{error}",
                      f"fix its receiver, then: select resume_channel({arguments})")  # fmt: skip
    elif channel["state"] == "failing":
        tries = pluralize(channel["consecutive_failures"], "failed attempt")
        next_attempt = format_value(channel["next_attempt_at"])
        yield warning(f"{name} is failing, {tries} in a row, {behind}, next attempt {next_attempt}{error}",
                      f"fix its receiver; its answers are at GET {path}/attempts")  # fmt: skip
    elif channel["state"] == "paused":
        yield warning(f"{name} is paused, {behind}", f"if that is a mistake: select resume_channel({arguments})")
    elif channel["behind"] > FAR_BEHIND:
        yield warning(f"{name} is {behind}", "its receiver or the relay is slow: see the relay's log")
    if channel["dead_letters"]:
        letters = pluralize(channel["dead_letters"], "dead letter")
        requeue = f"select requeue_on_channel({arguments if store else arguments + ', null'})"
        yield warning(f"{name} has {letters}", f"see GET {path}/dead-letters; to deliver them again: {requeue}")


def dead_letters(context: CheckContext) -> Iterator[Finding]:
    """No chat was given up."""
    found = context.one(query("doctor/dead_letters"))
    if found["chats"]:
        since, chat_id = format_value(found["since"]), found["chat_id"]
        yield warning(
            f"{pluralize(found['chats'], 'chat')} failed, since {since}; the last, chat {chat_id}: {found['reason']}",
            "fix the cause (select * from chat_failures), then: shoptalk requeue --all",
        )
    else:
        yield ok("no dead letters")
