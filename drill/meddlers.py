"""Meddlers: cancel chats at random and requeue dead letters, some of them healed."""

from __future__ import annotations

import threading
import time

import psycopg

from drill.load import Load
from drill.shop import Connection, Shop

PAUSE_SECONDS = 0.2
CANCEL_SHARE = 0.8
WAITING_SHARE = 0.2
HEALED_SHARE = 0.5
AGAIN_SECONDS = 0.2


class Meddler(threading.Thread):
    """Does its mischief until end(). Counts what it did."""

    def __init__(self, load: Load, shop: Shop) -> None:
        super().__init__(daemon=True)
        self.cancelled = self.requeued = 0
        self._ledger = load.ledger
        self._chooser = load.chooser("meddler")
        self._shop = shop
        self._done = threading.Event()

    def run(self) -> None:
        """Until end()."""
        while not self._done.is_set():
            try:
                with self._shop.connect("drill meddler") as session:
                    while not self._done.wait(self._chooser.expovariate(1 / PAUSE_SECONDS)):
                        self._meddle(session)
            except psycopg.Error:
                time.sleep(AGAIN_SECONDS)

    def end(self) -> None:
        """Ends it and waits for that."""
        self._done.set()
        self.join()

    def _meddle(self, session: Connection) -> None:
        if self._chooser.random() < CANCEL_SHARE:
            self._cancel(session)
        else:
            self._requeue(session)

    def _cancel(self, session: Connection) -> None:
        """One of the last accepted, or one that waits in the queue and so can still be had."""
        chat_id = self._ledger.recent(self._chooser)
        if self._chooser.random() < WAITING_SHARE:
            row = session.execute("select chat_id from chat_queue order by random() limit 1").fetchone()
            chat_id = row[0] if row else chat_id
        if chat_id is None:
            return
        try:
            session.execute("select cancel_chat(%s)", [chat_id])
        except psycopg.Error as error:
            if error.sqlstate != "ST409":  # it is sent
                raise
        else:
            self._ledger.cancelled.add(chat_id)
            self.cancelled += 1

    def _requeue(self, session: Connection) -> None:
        row = session.execute(
            "select chat_id from chat_failures where dead_at is not null order by random() limit 1"
        ).fetchone()
        if row is None:
            return
        self._ledger.requeued.add(row[0])
        if self._chooser.random() < HEALED_SHARE:
            session.execute("insert into drill_healed values (%s) on conflict do nothing", row)
        try:
            session.execute("select requeue_chat(%s)", row)
        except psycopg.Error as error:
            if error.sqlstate != "ST409":  # cancelled meanwhile
                raise
        else:
            self.requeued += 1
