"""One channel: lease it, read the log from its cursor on, deliver a batch, and only then move the cursor.

This is what all transports share. A transport delivers a batch and reports the outcome for each chat. If the relay dies
between a delivery and its commit, the chat is delivered again, with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence

import sqlalchemy as sa

from relay.database import Database, Row
from relay.metrics import DELIVERIES, DELIVERY_SECONDS, LEASES_LOST
from relay.progress import Progress
from relay.transport import DeliveryError, Outcome, Transport
from sql.database import call, query
from sql.log import Log

log = Log("relay")

LEASE_SECONDS = 6.0  # how long the channels of a killed relay wait for another one
RENEW_SECONDS = 2.0
DATABASE_PAUSE_SECONDS = 1.0

# The database is unavailable, read-only or overloaded.
OUTAGES = (
    sa.exc.OperationalError, sa.exc.InternalError, sa.exc.InterfaceError, sa.exc.TimeoutError,
    sa.exc.InvalidRequestError,  # the pool, after two dead connections in a row
)  # fmt: skip


class Tail:
    """How far the relay's one reader of the log has come."""

    position = 0


class Channel:
    """One channel in this relay; `run()` works on it until it is cancelled."""

    def __init__(self, row: Row, transport: Transport, database: Database, tail: Tail, owner: str) -> None:
        self.channel_id, self.store_id, self.name = row.channel_id, row.store_id, row.name
        self._transport, self._database, self._tail, self._owner = transport, database, tail, owner
        self._has_work = asyncio.Event()  # there may be something to do
        self._retry_now = asyncio.Event()  # ends the wait between two turns early
        self._stopping = self._waiting = False
        self._outcome = Outcome()  # of the batch on its way
        self._has_requeued = True  # dead letters may be due again
        self._version, self._is_outdated = row.version, False  # of the settings; the lease has older ones
        self.caught_up = False
        self.token: int = row.token  # of our last lease: tells whether `_progress` is still valid
        self._progress = Progress.starting_at(row.cursor)
        self._failures = 0  # in a row, as in the table
        self._has_work.set()

    def notify(self, since: int) -> None:
        """The log has something for the channel after the position `since`, and had nothing new before it."""
        if self.caught_up:
            self._progress = self._progress.mark_seen(since)
            self.caught_up = False
        self._has_work.set()

    def compare(self, row: Row) -> None:
        """Starts a turn at once, even during a backoff, if the channel was changed in the table."""
        if row.version != self._version:
            self._version, self._is_outdated = row.version, True
        is_due = self._waiting and not row.wait_seconds
        if not (self._is_outdated or row.requeued or row.token != self.token or is_due):
            return
        self._has_requeued = self._has_requeued or row.requeued
        self.caught_up = False
        self._has_work.set()
        self._retry_now.set()

    def stop(self) -> None:
        """Lets the chats on their way arrive, starts no more, and then ends run()."""
        self._stopping = self._outcome.stopped = True
        self._has_work.set()
        self._retry_now.set()

    async def run(self) -> None:
        """Works on the channel whenever there is work and the lease is free."""
        try:
            await self._run()
        finally:
            await self._transport.close()

    async def _run(self) -> None:
        while not self._stopping:
            await self._has_work.wait()
            self._retry_now.clear()
            wait: float | None = DATABASE_PAUSE_SECONDS
            try:
                wait = await self._take_turn()
            except OUTAGES:
                pass  # the relay's own loop logs it
            except Exception:
                # A bug of ours, for example a statement that is wrong. The other channels continue.
                log("channel_failed", traceback=True, store_id=self.store_id, channel=self.name)
            if wait is not None:
                await self._wait(wait)

    async def _wait(self, seconds: float) -> None:
        self.caught_up = False
        self._has_work.set()
        self._waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._retry_now.wait(), seconds)
        self._waiting = False

    async def _take_turn(self) -> float | None:
        """Leases the channel and works on it. Returns the seconds until the next turn; None: when there is work."""
        self._is_outdated = False
        lease = await self._database.one(
            *call("lease_channel", channel_id=self.channel_id, owner=self._owner, seconds=LEASE_SECONDS)
        )
        if lease is None:
            row = await self._database.one(query("relay/channel_wait"), channel_id=self.channel_id)
            return LEASE_SECONDS if row is None else row.seconds + 0.1
        self._progress = self._progress.resume(lease.cursor, is_unbroken=lease.token == self.token + 1)
        self.token, self._failures = lease.token, lease.consecutive_failures
        working = asyncio.ensure_future(self._work(lease))
        renewing = asyncio.ensure_future(self._renew(lease))
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            LEASES_LOST.inc()
            log("lease_lost", store_id=self.store_id, channel=self.name)
            return 0.0
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)

    async def _renew(self, lease: Row) -> None:
        """Renews the lease; returns once it is lost."""
        is_ours = True
        while is_ours:
            await asyncio.sleep(RENEW_SECONDS)
            is_ours = await self._database.renew_lease(self.channel_id, lease.token, LEASE_SECONDS)

    async def _work(self, lease: Row) -> float | None:
        """Delivers everything there is and, if the transport stays connected, what follows. Returns as _take_turn()."""
        try:
            await self._transport.open(lease.settings)
            while not self._stopping and not self._is_outdated:
                self._has_work.clear()
                if await self._deliver_batch(lease):
                    continue
                if not self._transport.stays_connected:
                    break
                await self._wait_for_work()
        except DeliveryError as error:
            return await self._back_off(lease, error)
        finally:
            if self._transport.stays_connected:
                await asyncio.shield(self._transport.close())
        await self._database.rows(*call("return_lease", channel_id=self.channel_id, token=lease.token))
        return 0.0 if self._is_outdated else None

    async def _wait_for_work(self) -> None:
        """Raises DeliveryError if the transport loses its connection meanwhile."""
        work, lost = asyncio.ensure_future(self._has_work.wait()), asyncio.ensure_future(self._transport.lost())
        try:
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                lost.result()
        finally:
            work.cancel()
            lost.cancel()

    async def _deliver_batch(self, lease: Row) -> bool:
        """Delivers one batch, requeued dead letters first; false: there was nothing to deliver."""
        return await self._deliver_requeued(lease) or await self._deliver_window(lease)

    async def _deliver_requeued(self, lease: Row) -> bool:
        if not self._has_requeued:
            return False
        chats = await self._database.rows(
            query("relay/read_requeued"), channel_id=self.channel_id, page=self._transport.batch_size
        )
        if chats:
            await self._settle(lease, await self._deliver(chats), chats, 0)
        else:
            self._has_requeued = False
        return bool(chats)

    async def _deliver_window(self, lease: Row) -> bool:
        """Delivers the next batch of the log, or finds that a window of it has nothing for the channel."""
        seen, limit = self._progress.seen, self._transport.batch_size
        until = self._progress.read_until(self._tail.position)
        if until <= seen:
            self.caught_up = True
            return False
        chats = await self._database.rows(
            self._transport.read_query, after=seen, until=until, page=limit, store_id=self.store_id
        )
        if len(chats) == limit:
            until = chats[-1].position
        if chats:
            unsettled = [chat for chat in chats if not self._progress.is_settled(chat.position)]
            await self._settle(lease, await self._deliver(unsettled), chats, until)
        self._progress = self._progress.mark_seen(until)
        return True

    async def _deliver(self, chats: Sequence[Row]) -> Outcome:
        self._outcome = Outcome(stopped=self._stopping)
        with DELIVERY_SECONDS.time():
            await self._transport.deliver(chats, self._failures, self._outcome)
        return self._outcome

    async def _settle(self, lease: Row, outcome: Outcome, chats: Sequence[Row], until: int) -> None:
        """Commits the outcome and the new cursor. Raises DeliveryError if there was one, or if the lease is lost."""
        positions = [chat.position for chat in chats]
        progress = self._progress.settle(positions, outcome.delivered | outcome.rejected.keys(), until)
        if outcome.error is None or progress.cursor > self._progress.cursor:
            self._failures = 0
        row = await self._database.one(
            *call(
                "settle_batch",
                channel_id=self.channel_id,
                token=lease.token,
                upto=progress.cursor,
                consecutive_failures=self._failures,
                done=sorted(outcome.delivered),
                refused=json.dumps(outcome.dead_letters(chats)),
                tried=json.dumps(outcome.attempts),
            )
        )
        if row is None or not row[0]:
            raise DeliveryError("the lease is lost", 0)
        self._progress = progress
        self._report(outcome, chats)
        if outcome.error is not None:
            self._progress = progress.mark_seen(progress.cursor)
            raise outcome.error

    def _report(self, outcome: Outcome, chats: Sequence[Row]) -> None:
        """Counts the chats of a batch, and logs the rejected ones."""
        DELIVERIES.labels("delivered").inc(len(outcome.delivered))
        DELIVERIES.labels("refused").inc(len(outcome.rejected))
        for chat in chats:
            if chat.position in outcome.rejected:
                log(
                    "chat_refused", store_id=self.store_id, channel=self.name, chat_id=chat.chat_id,
                    conversation_id=chat.conversation_id, seq=chat.seq, reason=outcome.rejected[chat.position],
                )  # fmt: skip

    async def _back_off(self, lease: Row, error: DeliveryError) -> float:
        """Records a failure, returns the lease, and returns the seconds until the next turn."""
        backoff = self._transport.backoff_seconds(self._failures)
        # A receiver that names a time for the next attempt is not given up.
        disable = error.disable or (backoff is None and error.retry_seconds is None)
        seconds = max(backoff or 0.0, 0.0) if error.retry_seconds is None else error.retry_seconds
        DELIVERIES.labels("failed").inc()
        log(
            "delivery_failed", store_id=self.store_id, channel=self.name, attempts=self._failures + 1,
            next_seconds=seconds, disabled=disable, reason=error,
        )  # fmt: skip
        await self._database.rows(
            *call(
                "put_off_channel",
                channel_id=self.channel_id,
                token=lease.token,
                reason=str(error)[:500],
                seconds=seconds,
                disable=disable,
            )
        )
        return seconds
