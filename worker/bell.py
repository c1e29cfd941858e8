"""Sleeping until there may be something to send: LISTEN, the bell's lock, and the poll under both."""

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

# A busy worker leaves the bell alone, so that producers need not ring (a NOTIFY costs them two thirds of
# their speed), and looks by itself this often until nothing has come for this long. Busy it is when it was rung
# for while it still sent what it had been rung for before, so many times in a row: at fifty chats a second
# hardly ever, where each is then sent at its ring and not at the next poll.
BUSY_LOOKS = 2
BUSY_POLL_SECONDS = 0.002
BUSY_LINGER_SECONDS = 0.010
# Asleep: the poll under the bell, for a lost notification, a retry that falls due, a dead listener.
ASLEEP_POLL_SECONDS = 0.5
# A transaction is under way that will not ring when it commits: most end at once, some are thought over.
UNDECIDED_POLL_SECONDS = (0.001, 0.05)  # doubling
RECONNECT_SECONDS = 1.0
# The schedule rings every minute: a listener that hears nothing for longer is deaf.
DEAF_AFTER_SECONDS = 90.0


class Bell:
    """One worker's LISTEN connection, used by the thread that sends; `wake()` may come from anywhere.

    `wait()` returns when there may be work; that is only ever a hint. It raises nothing: a lost connection
    is made anew, and meanwhile the poll goes on.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._armed = False  # we hold the bell's lock, so every enqueue rings
        self._rung = False
        self._overtaken = 0  # looks in a row, at the end of which we had been rung again
        self._undecided_seconds = UNDECIDED_POLL_SECONDS[0]
        self._last_work = self._last_ring = self._reconnect_at = float("-inf")
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)

    def wake(self) -> None:
        """Ends the present or the next wait(). Safe in signal handlers and in other threads."""
        try:
            os.write(self._wake_writer, b"!")
        except BlockingIOError:
            pass  # full of wake-ups already

    def wait(self, worked: bool) -> None:
        """Returns when it is time to look at the queue again. `worked`: the last look found something."""
        try:
            self._wait(worked)
        except psycopg.Error as error:
            self._lost(error)

    def close(self) -> None:
        """Ends the connection and with it the lock."""
        if self._connection is not None:
            self._connection.close()

    def _wait(self, worked: bool) -> None:
        now = time.monotonic()
        if worked or self._rung:
            self._last_work = now
            self._undecided_seconds = UNDECIDED_POLL_SECONDS[0]
        self._rung = False
        if self._armed:
            self._sleep(worked)
        elif now - self._last_work < BUSY_LINGER_SECONDS:
            self.pause(BUSY_POLL_SECONDS)
        elif now < self._reconnect_at:
            self.pause(ASLEEP_POLL_SECONDS)
        else:
            self._arm()

    def _sleep(self, worked: bool) -> None:
        """Waits for a ring, unless one has come while the caller looked; gives the bell up to keep busy."""
        self._hear()
        self._overtaken = self._overtaken + 1 if worked and self._rung else 0
        if self._overtaken >= BUSY_LOOKS:
            self._listener().execute(str(query("say_awake")))
            self._armed, self._overtaken = False, 0
        elif not self._rung:
            self._listen(ASLEEP_POLL_SECONDS)

    def _arm(self) -> None:
        """Takes the bell's lock. Got it: the caller looks once more before it sleeps, see the schema."""
        row = self._listener().execute(str(query("say_asleep"))).fetchone()
        asleep = row[0] if row else None
        if asleep:
            self._armed = True
        elif asleep is None:
            self._listen(ASLEEP_POLL_SECONDS)
        else:
            self._listen(self._undecided_seconds)
            self._undecided_seconds = min(2 * self._undecided_seconds, UNDECIDED_POLL_SECONDS[1])

    def _listener(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = connect(self._database_url, "shoptalk worker bell")
            self._connection.add_notify_handler(self._on_notify)
            self._connection.execute("listen chat_queued")
            self._last_ring = time.monotonic()
            log("listening")
            listener_is_up("bell")
        return self._connection

    def _on_notify(self, _: object) -> None:
        self._rung = True
        self._last_ring = time.monotonic()

    def _listen(self, seconds: float) -> None:
        """Waits for a notification, a wake() or the time, whichever is first."""
        connection = self._listener()
        if not self._rung:
            self.pause(seconds, connection.pgconn.socket)
        self._hear()
        if time.monotonic() - self._last_ring > DEAF_AFTER_SECONDS:
            raise psycopg.OperationalError(f"no notification for {DEAF_AFTER_SECONDS:.0f} s")

    def _hear(self) -> None:
        """Takes what notifications have come."""
        connection = self._listener()
        connection.pgconn.consume_input()
        while notify := connection.pgconn.notifies():
            self._on_notify(notify)

    def pause(self, seconds: float, *sockets: int) -> None:
        """Waits for the time, for wake(), or for something to read from the sockets."""
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
        listener_is_lost("bell")
        self.close()
        self._connection = None
        self._armed = False
        self._reconnect_at = time.monotonic() + RECONNECT_SECONDS
        self.pause(BUSY_POLL_SECONDS)
