"""Readers of the log: each tails it by a cursor, woken by NOTIFY chat_sent, and records what it saw."""

from __future__ import annotations

import threading
import time

import psycopg

from drill.shop import Shop

POLL_SECONDS = 0.5
RECONNECT_SECONDS = 0.2


class Reader(threading.Thread):
    """One reader. It never looks back, so it misses entries that are written below its cursor."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[int, int]] = []  # (position, chat_id)
        self._shop = shop
        self._stopping = threading.Event()

    @property
    def cursor(self) -> int:
        """The last position that it saw."""
        return self.seen[-1][0] if self.seen else 0

    def run(self) -> None:
        """Reads until stop(), whatever happens to its session."""
        while not self._stopping.is_set():
            try:
                self._tail()
            except psycopg.Error:
                time.sleep(RECONNECT_SECONDS)

    def stop(self) -> None:
        """Stops the thread."""
        self._stopping.set()
        self.join()

    def _tail(self) -> None:
        with self._shop.connect("drill reader") as session:
            session.execute("listen chat_sent")
            while not self._stopping.is_set():
                rows = session.execute(
                    "select position, chat_id from sent_log where position > %s order by position", [self.cursor]
                ).fetchall()
                self.seen += [(int(position), int(chat_id)) for position, chat_id in rows]
                list(session.notifies(timeout=POLL_SECONDS, stop_after=1))
