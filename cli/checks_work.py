"""Checks of the work itself: the worker, chats that should have gone, what is paused, channels, dead letters."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from cli.checks_reach import RELAYS_EAR, WORKERS_EAR, sessions
from cli.examination import Finding, Look, ok, problem, warning
from cli.output import counted, said
from sql.database import query

LATE_SECONDS = 30  # a chat that may go and has not for so long was missed
UNSEEN_SECONDS = 90  # a worker is seen every 30 s
FAR_BEHIND = 10_000  # chats that a channel has still to deliver
NO_WORKER = "start a worker (systemctl start shoptalk-worker@1, or bin/run), or see its log"
NO_RELAY = "start a relay (systemctl start shoptalk-relay, or bin/run), or see its log"


def worker(look: Look) -> Iterator[Finding]:
    """A worker runs, and has kept the hours lately."""
    seen_at = look.value(query("worker_seen"))
    workers = sessions(look).get(WORKERS_EAR, 0)
    clock = look.one(query("look_at_clock"))["clock"]
    silent = seen_at is None or clock - seen_at > dt.timedelta(seconds=UNSEEN_SECONDS)
    if silent and not workers:
        yield problem(
            f"no worker runs, {f'last seen {said(seen_at)}' if seen_at else 'none ever has'}: nothing is sent",
            NO_WORKER,
        )
    elif silent:
        yield problem(f"a worker is connected, but has last kept the hours {said(seen_at)}",
                      "see its log for keeping_hours_failed and sampling_failed; restart it")  # fmt: skip
    else:
        yield ok(f"last kept the hours {said(seen_at)}, {counted(workers, 'listener')} now")


def release(look: Look) -> Iterator[Finding]:
    """What may go has gone."""
    found = look.one(query("missed_release"), seconds=LATE_SECONDS)
    last = f"; one was last sent {said(found['last_sent_at'])}" if found["last_sent_at"] else ""
    if not found["chats"]:
        yield ok(f"no chat has been due for more than {LATE_SECONDS} s{last}")
        return
    many = "at least " if found["chats"] == 10_000 else ""
    text = f"{many}{counted(found['chats'], 'chat')} may go and did not, since {said(found['since'])}{last}"
    if found["sender"]:
        mend = f"it sends, or holds up the rest; after a minute: select pg_terminate_backend({found['sender']})"
        yield problem(f"{text}; session {found['sender']} has the sender's lock", mend)
    else:
        yield problem(text, NO_WORKER)


def paused(look: Look) -> Iterator[Finding]:
    """Nothing stands still by mistake."""
    found = look.rows(query("list_paused"))
    for row in found:
        waiting = counted(row["waiting"], "chat")
        text = f"{row['kind']} {row['id']} is paused since {said(row['paused_at'])}, {waiting} waiting"
        yield warning(text, f"if that is a mistake: shoptalk resume {row['kind']} {row['id']}")
    if not found:
        yield ok("no store and no conversation")


def channels(look: Look) -> Iterator[Finding]:
    """The channels deliver, and a relay runs where there are any."""
    every = look.rows(query("every_channel"))
    found = [finding for channel in every for finding in _of_channel(channel)]
    live = [channel for channel in every if channel["state"] in ("active", "failing")]
    if live and RELAYS_EAR not in sessions(look):
        behind = counted(max(channel["behind"] for channel in live), "chat")
        found.append(problem(f"no relay runs, and there are channels to deliver, {behind} behind", NO_RELAY))
    yield from found or [ok(f"{counted(len(every), 'channel')}, each delivers")]


def _of_channel(channel: dict[str, Any]) -> Iterator[Finding]:
    store = channel["store_id"]
    name = f"channel {channel['name']}" + (f" of store {store}" if store else "")
    path = f"/v1/stores/{store}/channels" if store else "/v1/channels"
    path += f"/{channel['name']}"
    call = f"'{channel['name']}', {store}" if store else f"'{channel['name']}'"
    error = f"; last error: {channel['last_error']}" if channel["last_error"] else ""
    behind = f"{counted(channel['behind'], 'chat')} behind"
    if channel["state"] == "disabled":
        yield problem(f"{name} is disabled, {behind}{error}", f"mend its far side, then: select resume_channel({call})")
    elif channel["state"] == "failing":
        tries = counted(channel["attempts"], "attempt")
        yield warning(f"{name} fails, {tries} in a row, {behind}, next try {said(channel['retry_at'])}{error}",
                      f"mend its far side; what it answers: GET {path}/attempts")  # fmt: skip
    elif channel["state"] == "paused":
        yield warning(f"{name} is paused, {behind}", f"if that is a mistake: select resume_channel({call})")
    elif channel["behind"] > FAR_BEHIND:
        yield warning(f"{name} is {behind}", "its far side is slow, or the relay is: see the relay's log")
    if channel["failures"]:
        letters = counted(channel["failures"], "dead letter")
        mend = f"look: GET {path}/failures; again: select requeue_on_channel({call if store else call + ', null'})"
        yield warning(f"{name} has {letters}", mend)


def dead_letters(look: Look) -> Iterator[Finding]:
    """No chat was given up."""
    found = look.one(query("dead_letters"))
    if found["chats"]:
        text = f"{counted(found['chats'], 'chat')} failed, since {said(found['since'])}; the last, {found['chat_id']}:"
        yield warning(
            f"{text} {found['reason']}", "mend the cause (select * from chat_failures), then: shoptalk requeue --all"
        )
    else:
        yield ok("none")
