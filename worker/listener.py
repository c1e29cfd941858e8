"""Waits until there may be something to send: LISTEN, the lock of the idle worker, and a poll in case both fail."""

from __future__ import annotations

import os
import select
import time
from typing import Any

import psycopg

from sql.database import connect, query
from sql.log import Log
from sql.metrics import listener_is_lost, listener_is_up

log = Log("worker")

# A busy worker is not idle, so that producers need not notify it (a NOTIFY costs them two thirds of their speed). It
# polls this often, until nothing has come for this long. It becomes busy when, this many times in a row, a wake-up came
# while it still sent the chats of the wake-up before: at fifty chats a second hardly ever, and each of those is sent at
# its wake-up and not at the next poll.
BUSY_AFTER_WAKEUPS = 2
BUSY_POLL_SECONDS = 0.002
BUSY_LINGER_SECONDS = 0.010
# The poll while idle, in case of a lost notification, a retry that falls due, or a listener without a connection.
IDLE_POLL_SECONDS = 0.5
# A transaction is under way that will not notify when it commits: most end at once, some take longer.
UNDECIDED_POLL_SECONDS = (0.001, 0.05)  # doubling
RECONNECT_SECONDS = 1.0
# The schedule notifies every minute, so a connection that has received nothing for longer is dead.
SILENT_AFTER_SECONDS = 90.0


class Listener:
    """One worker's LISTEN connection, used by the thread that sends; `wake()` may be called from any thread.

    `wait()` returns when there may be work; that is only a hint. It raises nothing: a lost connection is reopened, and
    meanwhile the poll continues.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._is_idle = False
        self._was_notified = False
        self._overtaken = 0  # sends in a row during which another wake-up came
        self._undecided_seconds = UNDECIDED_POLL_SECONDS[0]
        self._last_work = self._last_notification = self._reconnect_at = float("-inf")
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)

    @property
    def is_idle(self) -> bool:
        """Whether this listener holds the lock of the idle worker, so that every enqueue notifies it."""
        return self._is_idle

    @property
    def was_notified(self) -> bool:
        """Whether a notification has come during the last wait()."""
        return self._was_notified

    def wake(self) -> None:
        """Ends the present or the next wait(). Safe in signal handlers and in other threads."""
        try:
            os.write(self._wake_writer, b"!")
        except BlockingIOError:
            pass  # already full of wake-ups

    def wait(self, worked: bool) -> None:
        """Returns when it is time to look at the queue again. `worked`: the last look found something."""
        try:
            self._wait(worked)
        except psycopg.Error as error:
            self._lost(error)

    def close(self) -> None:
        """Closes the connection and with it releases the lock."""
        if self._connection is not None:
            self._connection.close()

    def _wait(self, worked: bool) -> None:
        now = time.monotonic()
        if worked or self._was_notified:
            self._last_work = now
            self._undecided_seconds = UNDECIDED_POLL_SECONDS[0]
        self._was_notified = False
        if self._is_idle:
            self._wait_idle(worked)
        elif now - self._last_work < BUSY_LINGER_SECONDS:
            self.pause(BUSY_POLL_SECONDS)
        elif now < self._reconnect_at:
            self.pause(IDLE_POLL_SECONDS)
        else:
            self._go_idle()

    def _wait_idle(self, worked: bool) -> None:
        """Waits for a wake-up, unless one has come while the caller sent; releases the lock to become busy."""
        self._receive()
        self._overtaken = self._overtaken + 1 if worked and self._was_notified else 0
        if self._overtaken >= BUSY_AFTER_WAKEUPS:
            self._connected().execute(str(query("worker/disarm_wakeup")))
            self._is_idle, self._overtaken = False, 0
        elif not self._was_notified:
            self._listen(IDLE_POLL_SECONDS)

    def _go_idle(self) -> None:
        """Tries to take the lock of the idle worker. With it, the caller looks once more before it waits.

        That last look finds chats that were enqueued before the lock was taken, and so without a notification.
        """
        row = self._connected().execute(str(query("worker/arm_wakeup"))).fetchone()
        is_idle = row[0] if row else None
        if is_idle:
            self._is_idle = True
        elif is_idle is None:
            self._listen(IDLE_POLL_SECONDS)
        else:
            self._listen(self._undecided_seconds)
            self._undecided_seconds = min(2 * self._undecided_seconds, UNDECIDED_POLL_SECONDS[1])

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = connect(self._database_url, "shoptalk worker listener")
            self._connection.add_notify_handler(self._on_notify)
            self._connection.execute("listen chat_queued")
            self._last_notification = time.monotonic()
            log("listening")
            listener_is_up("worker")
        return self._connection

    def _on_notify(self, _: object) -> None:
        self._was_notified = True
        self._last_notification = time.monotonic()

    def _listen(self, seconds: float) -> None:
        """Waits for a notification, for wake(), or this long, whichever is first."""
        connection = self._connected()
        if not self._was_notified:
            self.pause(seconds, connection.pgconn.socket)
        self._receive()
        if time.monotonic() - self._last_notification > SILENT_AFTER_SECONDS:
            raise psycopg.OperationalError(f"no notification for {SILENT_AFTER_SECONDS:.0f} s")

    def _receive(self) -> None:
        """Reads the notifications that have arrived."""
        connection = self._connected()
        connection.pgconn.consume_input()
        while notify := connection.pgconn.notifies():
            self._on_notify(notify)

    def pause(self, seconds: float, *sockets: int) -> None:
        """Waits this long, for wake(), or until one of the sockets is readable."""
        poll = select.poll()
        for descriptor in (self._wake_reader, *sockets):
            poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
        try:
            os.read(self._wake_reader, 4096)
        except BlockingIOError:
            pass

    def _lost(self, error: psycopg.Error) -> None:
        log("listener_lost", reason=error)
        listener_is_lost("worker")
        self.close()
        self._connection = None
        self._is_idle = False
        self._reconnect_at = time.monotonic() + RECONNECT_SECONDS
        self.pause(BUSY_POLL_SECONDS)
