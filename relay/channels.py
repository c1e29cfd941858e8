"""One channel: lease it, read the log on from its cursor, deliver a batch, and only then move the cursor.

What all far sides share. A far side is asked to deliver a batch and says of each chat what became of it; that it
was delivered once and the relay died before it could say so, makes a repeat with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from relay.database import Database, Row
from relay.metrics import DELIVERIES, DELIVERY_SECONDS, LEASES_LOST
from sql.database import query
from sql.log import Log

log = Log("relay")

LEASE_SECONDS = 6.0  # how long a killed relay's channels wait for the next relay
RENEW_SECONDS = 2.0
WINDOW = 20_000  # positions of the log that one read goes over
DATABASE_PAUSE_SECONDS = 1.0
BACKOFF_SECONDS = (0.5, 60.0)  # the first and the longest wait, doubling; a far side may have its own


class Trouble(Exception):
    """The far side cannot take chats now. None of what was not confirmed counts as delivered."""

    def __init__(self, reason: str, retry_seconds: float | None = None, disable: bool = False) -> None:
        super().__init__(reason)
        self.retry_seconds = retry_seconds  # as the far side asked for; None: the channel's own backoff
        self.disable = disable  # and it never will: nobody tries again until a person says so


class Refused(Exception):
    """The far side will never take this chat; the others may go on."""

    def __init__(self, reason: str, requeue_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.requeue_seconds = requeue_seconds  # it may later after all


@dataclass
class Outcome:
    """What became of a batch. A position in neither `done` nor `refused` is to be delivered again."""

    done: set[int] = field(default_factory=set)
    refused: dict[int, Refused] = field(default_factory=dict)
    trouble: Trouble | None = None
    stopped: bool = False  # by us: no more are to be begun
    tried: list[dict[str, Any]] = field(default_factory=list)  # a webhook's attempts, kept for a look


class FarSide(Protocol):
    """Where a channel leads."""

    stays: bool  # the connection, and so the lease, is kept while there is nothing to do
    batch: int  # chats at once
    reads: sa.TextClause  # how it reads the log

    async def open(self, settings: dict[str, Any]) -> None:
        """Connects. Raises Trouble. Called again, with the settings as they are now, for each lease."""

    async def deliver(self, chats: Sequence[Row], attempts: int, outcome: Outcome) -> None:
        """Delivers chats, each conversation's in order, and notes it. attempts: of the channel, failed in a row."""

    async def lost(self) -> None:
        """Returns never, or raises Trouble when the connection is lost."""

    async def close(self) -> None:
        """Disconnects. Must be harmless at any time."""

    def backoff_seconds(self, attempts: int) -> float | None:
        """How long to wait after so many failed attempts in a row; None: give up and disable the channel."""


async def in_conversation_order(
    chats: Sequence[Row], send: Callable[[Row], Awaitable[None]], width: int, outcome: Outcome
) -> None:
    """Sends up to `width` chats at once, but of a conversation never the next before the last is confirmed.

    So a chat that is refused or lost can never be overtaken by a later one of its conversation. `send` raises
    Refused and Trouble; after trouble, or once stopped, no more are begun.
    """
    places = asyncio.Semaphore(width)
    conversations = defaultdict(list)
    for chat in chats:
        conversations[chat.conversation_id].append(chat)

    async def send_one_after_the_other(own: list[Row]) -> None:
        for chat in own:
            async with places:
                if outcome.trouble is not None or outcome.stopped:
                    return
                try:
                    await send(chat)
                    outcome.done.add(chat.position)
                except Refused as refused:
                    outcome.refused[chat.position] = refused
                except Trouble as trouble:
                    outcome.trouble = outcome.trouble or trouble
                    return
                except Exception as error:
                    # Ours to mend; without this the others would go on behind a turn that has ended.
                    log("channel_failed", traceback=True)
                    outcome.trouble = outcome.trouble or Trouble(f"a fault of ours: {type(error).__name__}")
                    return

    await asyncio.gather(*map(send_one_after_the_other, conversations.values()))


class Tail:
    """How far the relay's one reader of the log has come."""

    position = 0


class Channel:
    """One channel as this relay sees it; `run()` works on it until it is cancelled."""

    def __init__(self, row: Row, far_side: FarSide, database: Database, tail: Tail, owner: str) -> None:
        self.channel_id, self.store_id, self.name = row.channel_id, row.store_id, row.name
        self._far_side, self._database, self._tail, self._owner = far_side, database, tail, owner
        self._work = asyncio.Event()  # there may be something to do
        self._again = asyncio.Event()  # and do not wait for the time that was set
        self._stopping = self._waiting = False
        self._outcome = Outcome()  # of the batch on its way
        self._requeued = True  # dead letters may be waiting for another try
        self._version, self._changed = row.version, False  # of its settings; and they are others than the lease's
        self.caught_up = False
        self._seen: int = row.cursor  # looked through up to here
        self.token: int = row.token  # of our last lease: it says whether `_seen` still holds
        self._beyond: set[int] = set()  # delivered, but an earlier one is not yet
        self._cursor, self._attempts = self._seen, 0  # as the table has them
        self._work.set()

    def tell(self, since: int) -> None:
        """The log has something for it, after `since`; before that it had nothing new."""
        if self.caught_up:
            self._seen = max(self._seen, since)
            self.caught_up = False
        self._work.set()

    def compare(self, row: Row) -> None:
        """Looks at once, whatever was agreed, where somebody has changed the channel in the table."""
        if row.version != self._version:
            self._version, self._changed = row.version, True
        if not (self._changed or row.requeued or row.token != self.token or (self._waiting and not row.wait_seconds)):
            return
        self._requeued = self._requeued or row.requeued
        self.caught_up = False
        self._work.set()
        self._again.set()

    def stop(self) -> None:
        """Lets the chats on their way arrive, begins no more, and then ends run()."""
        self._stopping = self._outcome.stopped = True
        self._work.set()
        self._again.set()

    async def run(self) -> None:
        """Works on the channel whenever there is something to do and the lease can be had."""
        try:
            await self._run()
        finally:
            await self._far_side.close()

    async def _run(self) -> None:
        while not self._stopping:
            await self._work.wait()
            self._again.clear()
            wait: float | None = DATABASE_PAUSE_SECONDS
            try:
                wait = await self._turn()
            except sa.exc.SQLAlchemyError:
                pass  # the relay's own loop logs that the database is away
            except Exception:
                # Ours to mend; the others go on meanwhile.
                log("channel_failed", traceback=True, store_id=self.store_id, channel=self.name)
            if wait is not None:
                self.caught_up = False
                self._work.set()
                self._waiting = True
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._again.wait(), wait)
                self._waiting = False

    async def _turn(self) -> float | None:
        """Leases the channel and works on it; answers how long to wait for the next turn, None: until there is work."""
        self._changed = False
        lease = await self._database.one(
            query("lease_channel"), channel_id=self.channel_id, owner=self._owner, seconds=LEASE_SECONDS
        )
        if lease is None:
            row = await self._database.one(query("channel_wait"), channel_id=self.channel_id)
            return LEASE_SECONDS if row is None else row.seconds + 0.1
        if lease.token != self.token + 1 or lease.cursor > self._seen:
            self._seen, self._beyond = lease.cursor, set()
        self.token, self._cursor, self._attempts = lease.token, lease.cursor, lease.attempts
        working = asyncio.ensure_future(self._work_on(lease))
        keeping = asyncio.ensure_future(self._keep(lease))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            LEASES_LOST.inc()
            log("lease_lost", store_id=self.store_id, channel=self.name)
            return 0.0
        finally:
            for task in (working, keeping):
                task.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)

    async def _keep(self, lease: Row) -> None:
        """Renews the lease; returns once it is lost."""
        known = True
        while known:
            await asyncio.sleep(RENEW_SECONDS)
            known = await self._database.renew_lease(self.channel_id, lease.token, LEASE_SECONDS)

    async def _work_on(self, lease: Row) -> float | None:
        """Delivers what there is, and (where the far side stays connected) what comes; answers as _turn() does."""
        try:
            await self._far_side.open(lease.settings)
            while not self._stopping and not self._changed:
                self._work.clear()
                if await self._deliver_batch(lease):
                    continue
                if not self._far_side.stays:
                    break
                await self._idle()
        except Trouble as trouble:
            return await self._put_off(lease, trouble)
        finally:
            if self._far_side.stays:
                await asyncio.shield(self._far_side.close())
        await self._database.rows(query("release_lease"), channel_id=self.channel_id, token=lease.token)
        return 0.0 if self._changed else None

    async def _idle(self) -> None:
        """Waits for work. Raises Trouble when the far side's connection is lost meanwhile."""
        work, lost = asyncio.ensure_future(self._work.wait()), asyncio.ensure_future(self._far_side.lost())
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
        finally:
            work.cancel()
            lost.cancel()

    async def _deliver_batch(self, lease: Row) -> bool:
        """Delivers one batch, dead letters that wait for another try first; false: there was nothing."""
        if self._requeued:
            chats = await self._database.rows(
                query("read_requeued"), channel_id=self.channel_id, page=self._far_side.batch
            )
            if chats:
                await self._settle(lease, await self._deliver(chats), chats, 0)
                return True
            self._requeued = False
        until = min(self._seen + WINDOW, self._tail.position)
        if until <= self._seen:
            self.caught_up = True
            return False
        chats = await self._database.rows(
            self._far_side.reads, after=self._seen, until=until, page=self._far_side.batch, store_id=self.store_id
        )
        if len(chats) == self._far_side.batch:
            until = chats[-1].position
        if chats:
            undelivered = [chat for chat in chats if chat.position not in self._beyond]
            await self._settle(lease, await self._deliver(undelivered), chats, until)
        self._seen = until
        return True

    async def _deliver(self, chats: Sequence[Row]) -> Outcome:
        self._outcome = Outcome(stopped=self._stopping)
        with DELIVERY_SECONDS.time():
            await self._far_side.deliver(chats, self._attempts, self._outcome)
        return self._outcome

    async def _settle(self, lease: Row, outcome: Outcome, chats: Sequence[Row], upto: int) -> None:
        """Moves the cursor over what is done. Raises Trouble where there was some, or the lease is lost."""
        self._beyond |= outcome.done | outcome.refused.keys()
        open_ = [chat.position for chat in chats if chat.position not in self._beyond]
        upto = min(upto, open_[0] - 1) if open_ else upto
        self._beyond = {position for position in self._beyond if position > upto}
        if outcome.trouble is None or upto > self._cursor:
            self._attempts = 0
        self._cursor = max(self._cursor, upto)
        row = await self._database.one(
            query("settle_batch"),
            channel_id=self.channel_id,
            token=lease.token,
            upto=upto,
            attempts=self._attempts,
            done=sorted(outcome.done),
            refused=json.dumps(
                [
                    {
                        "position": c.position,
                        "chat_id": c.chat_id,
                        "reason": str(outcome.refused[c.position]),
                        "requeue_seconds": outcome.refused[c.position].requeue_seconds,
                    }
                    for c in chats
                    if c.position in outcome.refused
                ]
            ),
            tried=json.dumps(outcome.tried),
        )
        if row is None or not row[0]:
            raise Trouble("the lease is lost", 0)
        DELIVERIES.labels("delivered").inc(len(outcome.done))
        DELIVERIES.labels("refused").inc(len(outcome.refused))
        for chat in chats:
            if chat.position in outcome.refused:
                log(
                    "chat_refused", store_id=self.store_id, channel=self.name, chat_id=chat.chat_id,
                    conversation_id=chat.conversation_id, seq=chat.seq, reason=outcome.refused[chat.position],
                )  # fmt: skip
        if outcome.trouble is not None:
            self._seen = max(self._seen, upto)
            raise outcome.trouble

    async def _put_off(self, lease: Row, trouble: Trouble) -> float:
        """Notes a failure, gives the lease back, and answers how long to wait."""
        seconds = self._far_side.backoff_seconds(self._attempts)
        # Who says when to come again is not given up.
        disable = trouble.disable or (seconds is None and trouble.retry_seconds is None)
        seconds = max(seconds or 0.0, 0.0) if trouble.retry_seconds is None else trouble.retry_seconds
        DELIVERIES.labels("failed").inc()
        log(
            "delivery_failed", store_id=self.store_id, channel=self.name, attempts=self._attempts + 1,
            next_seconds=seconds, disabled=disable, reason=trouble,
        )  # fmt: skip
        await self._database.rows(
            query("put_off_channel"),
            channel_id=self.channel_id, token=lease.token, reason=str(trouble)[:500], seconds=seconds, disable=disable,
        )  # fmt: skip
        return seconds
