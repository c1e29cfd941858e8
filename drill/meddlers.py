"""The meddler: cancels random chats, requeues dead letters (half of them repaired), pauses conversations and store."""

from __future__ import annotations

import threading
import time

import psycopg

from drill.load import HOT, Load
from drill.shop import Connection, Shop

PAUSE_SECONDS = 0.2
CANCEL_SHARE = 0.7
PAUSE_SHARE = 0.1
STORE_SHARE = 0.2  # of the pauses
PAUSED_SECONDS = 0.3
WAITING_SHARE = 0.2
REPAIRED_SHARE = 0.5
RETRY_SECONDS = 0.2


class Meddler(threading.Thread):
    """Meddles until stop(), and counts its actions."""

    def __init__(self, load: Load, shop: Shop) -> None:
        super().__init__(daemon=True)
        self.cancelled = self.requeued = self.paused = 0
        self.sent_though_paused: list[str] = []
        self._resumes: set[str] = set()  # statements still to be run
        self._ledger = load.ledger
        self._chooser = load.chooser("meddler")
        self._shop = shop
        self._stopping = threading.Event()

    def run(self) -> None:
        """Meddles until stop(), then resumes whatever is paused."""
        while not self._stopping.is_set():
            try:
                with self._shop.connect("drill meddler") as session:
                    while not self._stopping.wait(self._chooser.expovariate(1 / PAUSE_SECONDS)):
                        self._meddle(session)
            except psycopg.Error:
                time.sleep(RETRY_SECONDS)
        while self._resumes:
            try:
                with self._shop.connect("drill meddler") as session:
                    self._resume(session)
            except psycopg.Error:
                time.sleep(RETRY_SECONDS)

    def stop(self) -> None:
        """Stops the thread, which first resumes whatever is paused."""
        self._stopping.set()
        self.join()

    def _meddle(self, session: Connection) -> None:
        chance = self._chooser.random()
        if chance < CANCEL_SHARE:
            self._cancel(session)
        elif chance < CANCEL_SHARE + PAUSE_SHARE:
            self._pause(session)
        else:
            self._requeue(session)

    def _pause(self, session: Connection) -> None:
        """Pauses for a moment: after pause_…() has returned, nothing may be sent."""
        self._resume(session)  # left over from an error
        conversation = self._chooser.choice(HOT)
        pause, resume = f"select pause_conversation({conversation})", f"select resume_conversation({conversation})"
        sent = f"select max(position) from sent_log where conversation_id = {conversation}"  # noqa: S608  # a number
        if self._chooser.random() < STORE_SHARE:
            pause, resume, sent = (
                "select pause_store(1)",
                "select resume_store(1)",
                "select max(position) from sent_log",
            )
        self._resumes.add(resume)
        try:
            session.execute(pause.encode())
        except psycopg.Error as error:
            if error.sqlstate != "ST404":  # the conversation does not exist yet
                raise
            self._resumes.clear()
            return
        before = session.execute(sent.encode()).fetchone()
        self._stopping.wait(self._chooser.uniform(0, PAUSED_SECONDS))
        if session.execute(sent.encode()).fetchone() != before:
            self.sent_though_paused.append(f"{sent} was {before} after {pause}")
        self._resume(session)
        self.paused += 1

    def _resume(self, session: Connection) -> None:
        for resume in list(self._resumes):
            session.execute(resume.encode())
            self._resumes.discard(resume)

    def _cancel(self, session: Connection) -> None:
        """Cancels one of the last accepted chats, or one that waits in the queue."""
        chat_id = self._ledger.recent(self._chooser)
        if self._chooser.random() < WAITING_SHARE:
            row = session.execute("select chat_id from chat_queue order by random() limit 1").fetchone()
            chat_id = row[0] if row else chat_id
        if chat_id is None:
            return
        try:
            session.execute("select cancel_chat(%s)", [chat_id])
        except psycopg.Error as error:
            if error.sqlstate != "ST409":  # it was already sent
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
        if self._chooser.random() < REPAIRED_SHARE:
            session.execute("insert into drill_repaired values (%s) on conflict do nothing", row)
        try:
            session.execute("select requeue_chat(%s)", row)
        except psycopg.Error as error:
            if error.sqlstate != "ST409":  # it was cancelled meanwhile
                raise
        else:
            self.requeued += 1
