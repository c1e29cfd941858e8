"""The relay: reads the log once for all channels, and notifies those that have something to deliver."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import psycopg
import sqlalchemy as sa

from relay.channels import Channel, Tail
from relay.database import Database, Listener, Row
from relay.transport import Transport
from sql.database import call, query
from sql.log import Log
from sql.metrics import DATABASE_TROUBLES
from sql.settings import Settings

log = Log("relay")

POLL_SECONDS = 5.0  # the log is read at least this often, in case a notification is lost
REFRESH_SECONDS = 30.0  # and the table of channels this often
TIDY_SECONDS = 60.0
RECONNECT_SECONDS = 1.0
PAGE = 5000  # positions of the log per read
STOP_SECONDS = 3.0  # for chats on their way; honcho kills after 5


class Relay:
    """Works on every channel that it is configured for, side by side with any number of other relays."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        configured = {"amqp": settings.amqp_urls, "xmpp": settings.xmpp_component}
        self._kinds = {"webhook"} | {kind for kind, setting in configured.items() if setting}
        self._database = Database(settings.database_url, settings.pooled)
        self._listener = Listener(settings.direct_url)
        self._tail = Tail()
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._channels: dict[int, tuple[Channel, asyncio.Task[None]]] = {}
        self._stopping = asyncio.Event()
        self._refresh_at = self._tidy_at = 0.0

    def stop(self) -> None:
        """Lets the chats on their way arrive, and then ends run()."""
        self._stopping.set()

    async def run(self) -> None:
        """Runs until stop(); survives every error of the database."""
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
        await self._listener.close()
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
        """Reads the log and the table of channels, and waits until there may be more."""
        names = {"channels_changed", "chat_sent"} if self._channels else {"channels_changed"}
        if await self._listener.listen(names):
            self._refresh_at = min(self._refresh_at, time.monotonic())  # earlier notifications are lost
        if time.monotonic() >= self._refresh_at:
            await self._refresh()
        if self._channels:
            while await self._read_log():
                pass
            if time.monotonic() >= self._tidy_at:
                await self._tidy()
        if bool(self._channels) == ("chat_sent" in names):
            notified = await self._listener.wait(POLL_SECONDS if self._channels else REFRESH_SECONDS)
            if "channels_changed" in notified:
                self._refresh_at = 0.0

    async def _read_log(self) -> bool:
        """Reads the next page once for all channels, and notifies those of the stores in it; false: nothing new."""
        since = self._tail.position
        row = await self._database.one(query("relay/stores_of_log"), after=since, page=PAGE)
        if row is None:
            return False
        self._tail.position = row.upto
        stores = set(row.store_ids)
        for channel, _ in self._channels.values():
            if channel.store_id is None or channel.store_id in stores:
                channel.notify(since)
        return True

    async def _refresh(self) -> None:
        """Starts work on new channels, ends it on removed or paused ones, and compares the others with the table."""
        for kind in self._kinds - {"webhook"}:
            await self._database.rows(*call("open_system_channel", kind=kind))
        rows = {
            row.channel_id: row
            for row in await self._database.rows(query("relay/list_channels"))
            if row.kind in self._kinds
        }
        self._refresh_at = time.monotonic() + REFRESH_SECONDS
        if rows and not self._channels:
            bounds = await self._database.one(query("shared/log_bounds"))
            self._tail.position = bounds.latest if bounds else 0
        await self._end([i for i, (_, task) in self._channels.items() if i not in rows or task.done()])
        for channel_id, row in rows.items():
            if channel_id not in self._channels:
                self._start(row)
            else:
                self._channels[channel_id][0].compare(row)

    def _start(self, row: Row) -> None:
        channel = Channel(row, self._transport(row.kind), self._database, self._tail, self._owner)
        self._channels[row.channel_id] = channel, asyncio.ensure_future(channel.run())

    def _transport(self, kind: str) -> Transport:
        """A transport of this kind. Imported here, so that its libraries are loaded only where it is used."""
        if kind == "amqp":
            from relay.amqp import Amqp

            return Amqp(self._settings.amqp_urls, self._database)
        if kind == "xmpp" and self._settings.xmpp_component:
            from relay.xmpp import Xmpp

            return Xmpp(self._settings.xmpp_component, self._database)
        from relay.webhook import Webhook

        return Webhook(self._settings.webhook_allow_private)

    async def _end(self, channel_ids: list[int]) -> None:
        """Ends work on these channels once their chats on the way have arrived, or after 3 s."""
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
        """Moves up the cursors of idle channels, so that a relay that starts reads less; removes old attempts."""
        upto = self._tail.position
        idle = [channel for channel, _ in self._channels.values() if channel.caught_up]
        await self._database.rows(
            *call(
                "advance_idle_channels",
                channel_ids=[channel.channel_id for channel in idle],
                tokens=[channel.token for channel in idle],
                upto=upto,
            )
        )
        await self._database.rows(*call("prune_channels"))
        self._tidy_at = time.monotonic() + TIDY_SECONDS
