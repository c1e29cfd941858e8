"""The relay: one reader of the log for all channels, which wakes those that have something to deliver."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import psycopg
import sqlalchemy as sa

from relay.channels import Channel, FarSide, Tail
from relay.database import Database, Ear, Row
from sql.database import query
from sql.log import Log
from sql.metrics import DATABASE_TROUBLES
from sql.settings import Settings

log = Log("relay")

POLL_SECONDS = 5.0  # the floor under NOTIFY
REFRESH_SECONDS = 30.0  # and under its word that channels have changed
TIDY_SECONDS = 60.0
RECONNECT_SECONDS = 1.0
PAGE = 5000  # positions of the log at a look
STOP_SECONDS = 3.0  # for chats on their way; honcho gives 5


class Relay:
    """Works on every channel of the database that it is configured for, together with any number of others."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        configured = {"amqp": settings.amqp_urls, "xmpp": settings.xmpp_component}
        self._kinds = {"webhook"} | {kind for kind, setting in configured.items() if setting}
        self._database = Database(settings.database_url, settings.pooled)
        self._ear = Ear(settings.direct_url)
        self._tail = Tail()
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._channels: dict[int, tuple[Channel, asyncio.Task[None]]] = {}
        self._stopping = asyncio.Event()
        self._refresh_at = self._tidy_at = 0.0

    def stop(self) -> None:
        """Lets chats on their way arrive, and then ends run()."""
        self._stopping.set()

    async def run(self) -> None:
        """Until stop(); outlives every trouble of the database."""
        tasks = [asyncio.ensure_future(self._watch())]
        if self._settings.fanout == "amqp":
            from relay.fanout import Fanout

            fanout = Fanout(self._settings.amqp_urls, self._settings.direct_url, self._database)
            tasks.append(asyncio.ensure_future(fanout.run()))
        await self._stopping.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._end(list(self._channels))
        await self._ear.close()
        self._database.close()

    async def _watch(self) -> None:
        while True:
            try:
                await self._step()
            except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
                log("database_trouble", reason=error)
                DATABASE_TROUBLES.inc()
                self._refresh_at = 0.0
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _step(self) -> None:
        """Looks at the log and at the channels, and waits until there may be more."""
        heard = {"channels_changed", "chat_sent"} if self._channels else {"channels_changed"}
        if await self._ear.listen(heard):
            self._refresh_at = min(self._refresh_at, time.monotonic())  # what was rung meanwhile is lost
        if time.monotonic() >= self._refresh_at:
            await self._refresh()
        if self._channels:
            while await self._look():
                pass
            if time.monotonic() >= self._tidy_at:
                await self._tidy()
        if bool(self._channels) == ("chat_sent" in heard):
            rung = await self._ear.wait(POLL_SECONDS if self._channels else REFRESH_SECONDS)
            if "channels_changed" in rung:
                self._refresh_at = 0.0

    async def _look(self) -> bool:
        """Reads the log on, once for all channels, and wakes those of the stores it finds; false: nothing new."""
        since = self._tail.position
        row = await self._database.one(query("stores_of_log"), after=since, page=PAGE)
        if row is None:
            return False
        self._tail.position = row.upto
        stores = set(row.store_ids)
        for channel, _ in self._channels.values():
            if channel.store_id is None or channel.store_id in stores:
                channel.tell(since)
        return True

    async def _refresh(self) -> None:
        """Begins to work on channels that are new, ends where they are gone or paused, tells the others."""
        for kind in self._kinds - {"webhook"}:
            await self._database.rows(query("open_system_channel"), kind=kind)
        rows = {
            row.channel_id: row for row in await self._database.rows(query("list_channels")) if row.kind in self._kinds
        }
        self._refresh_at = time.monotonic() + REFRESH_SECONDS
        if rows and not self._channels:
            bounds = await self._database.one(query("log_bounds"))
            self._tail.position = bounds.latest if bounds else 0
        await self._end([i for i, (_, task) in self._channels.items() if i not in rows or task.done()])
        for channel_id, row in rows.items():
            if channel_id not in self._channels:
                self._start(row)
            else:
                self._channels[channel_id][0].compare(row)

    def _start(self, row: Row) -> None:
        channel = Channel(row, self._far_side(row.kind), self._database, self._tail, self._owner)
        self._channels[row.channel_id] = channel, asyncio.ensure_future(channel.run())

    def _far_side(self, kind: str) -> FarSide:
        """What is on the far side; only here, so only where it is used, its libraries are loaded."""
        if kind == "amqp":
            from relay.amqp import Amqp

            return Amqp(self._settings.amqp_urls, self._database)
        if kind == "xmpp" and self._settings.xmpp_component:
            from relay.xmpp import Xmpp

            return Xmpp(self._settings.xmpp_component, self._database)
        from relay.webhook import Webhook

        return Webhook(self._settings.webhook_allow_private)

    async def _end(self, channel_ids: list[int]) -> None:
        """Ends work on these channels, once their chats on the way have arrived."""
        ending = [self._channels.pop(channel_id) for channel_id in channel_ids]
        for channel, _ in ending:
            channel.stop()
        if ending:
            tasks = [task for _, task in ending]
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
            for task in tasks:
                task.cancel()
            for problem in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(problem, Exception):
                    log("channel_ended", reason=repr(problem))

    async def _tidy(self) -> None:
        """Moves idle channels' cursors up, so that a relay that starts need not read so far back; forgets the old."""
        upto = self._tail.position
        idle = [channel for channel, _ in self._channels.values() if channel.caught_up]
        await self._database.rows(
            query("advance_idle_channels"),
            channel_ids=[channel.channel_id for channel in idle],
            tokens=[channel.token for channel in idle],
            upto=upto,
        )
        await self._database.rows(query("prune_channels"))
        self._tidy_at = time.monotonic() + TIDY_SECONDS
