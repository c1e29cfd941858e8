"""Producers: over REST with and without their own ids, over SQL in single statements and in long transactions."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from drill.load import Draft, Drafts, Load
from drill.shop import Connection, Shop
from sql.errors import is_rejection

ANSWER_SECONDS = 20
RETRY_SECONDS = 0.1
LONG_PAUSE_SECONDS = 0.6
ROLLED_BACK_SHARE = 0.2
LIST_MOST = 40
TRANSACTION_MOST = 6
ENQUEUE = "select chat_id, conversation_id, seq from enqueue_chat(%s, 1, 1, %s)"

block = itertools.count(1)  # of a million chat_ids, one for each producer that chooses its own


class Producer(threading.Thread):
    """One producer: posts the chats of a turn, pauses, and so on until the load ends."""

    def __init__(self, load: Load, name: str) -> None:
        super().__init__(daemon=True, name=name)
        self.load = load
        self.ledger = load.ledger
        self.drafts = Drafts(load, name)

    def run(self) -> None:
        """Posts until the load ends."""
        while not self.load.ending.is_set():
            self.turn()
            self.drafts.pause()

    def turn(self) -> None:
        """Posts one or several chats."""
        raise NotImplementedError

    def accept(self, row: Any, draft: Draft) -> None:
        """Records a confirmed (chat_id, conversation_id, seq)."""
        chat_id, conversation_id, seq = row
        if conversation_id != draft.conversation_id:
            self.ledger.record_error(f"{draft} was put into conversation {conversation_id}")
        self.ledger.accept(self.name, chat_id, conversation_id, seq, draft.payload)


class RestProducer(Producer):
    """Over REST. With its own ids it repeats a request until it is answered; the repeats must add no chat."""

    def __init__(self, load: Load, name: str, port: int, own_ids: bool, lists: bool) -> None:
        super().__init__(load, name)
        self._port = port
        self._ids = itertools.count(next(block) * 1_000_000 + 1) if own_ids else None
        self._lists = lists
        self._connection: http.client.HTTPConnection | None = None

    def turn(self) -> None:
        """One request: a chat or a list."""
        drafts = self.drafts.some(LIST_MOST) if self._lists else [self.drafts.next()]
        chats = [draft.as_json(next(self._ids) if self._ids else None) for draft in drafts]
        answers = self._post(chats if self._lists else chats[0])
        while answers is None and self._ids and not self.load.giving_up.wait(RETRY_SECONDS):
            answers = self._post(chats if self._lists else chats[0])
        if answers is None:
            self.ledger.leave_undecided(draft.payload for draft in drafts)
            self.load.giving_up.wait(RETRY_SECONDS)
            return
        for draft, answer in zip(drafts, answers, strict=True):
            if answer.get("status", 200) not in (200, 201):
                self.ledger.record_error(f"{draft} was answered {answer}")
                self.ledger.leave_undecided([draft.payload])
            else:
                self.accept([answer["chat_id"], answer["conversation_id"], answer["seq"]], draft)

    def _post(self, body: Any) -> list[dict[str, Any]] | None:
        """The answers; None if the server cannot be reached or answers 503."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        try:
            self._connection.request("POST", "/v1/chats", json.dumps(body), {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return None
        if response.status == 503:
            return None
        answer = json.loads(text) if text.startswith((b"{", b"[")) else {"status": response.status, "detail": text}
        return answer if isinstance(answer, list) else [answer] * (len(body) if isinstance(body, list) else 1)


class SqlProducer(Producer):
    """Over SQL, one statement per chat."""

    def __init__(self, load: Load, name: str, shop: Shop) -> None:
        super().__init__(load, name)
        self._shop = shop
        self._session: Connection | None = None

    def turn(self) -> None:
        """One chat."""
        draft = self.drafts.next()
        try:
            self.accept(self.session().execute(ENQUEUE, [draft.conversation_id, draft.payload]).fetchone(), draft)
        except psycopg.Error as error:
            self.ledger.leave_undecided([draft.payload])
            self.drop_session(error)

    def session(self) -> Connection:
        """The session, reopened if it was lost. Raises psycopg.Error."""
        if self._session is None:
            self._session = self._shop.connect("drill producer")
        return self._session

    def drop_session(self, error: psycopg.Error) -> None:
        """After an error, so that the next turn opens a new session."""
        if is_rejection(error.sqlstate):
            self.ledger.record_error(f"enqueue_chat() raised {error.sqlstate} {error}")
        if self._session is not None:
            self._session.close()
        self._session = None
        time.sleep(RETRY_SECONDS)


class LongSqlProducer(SqlProducer):
    """Over SQL, several chats in one slow transaction, which is rolled back now and then."""

    def turn(self) -> None:
        """One transaction."""
        drafts = self.drafts.some(TRANSACTION_MOST)
        payloads = [draft.payload for draft in drafts]
        rolled_back = self.drafts.chooser.random() < ROLLED_BACK_SHARE
        after_error: Callable[[list[str]], None] = self.ledger.roll_back
        try:
            session = self.session()
            session.execute("begin")
            rows = [session.execute(ENQUEUE, [d.conversation_id, d.payload]).fetchone() for d in drafts]
            self.load.ending.wait(self.drafts.chooser.random() * LONG_PAUSE_SECONDS)
            if rolled_back:
                session.execute("rollback")
                self.ledger.roll_back(payloads)
                return
            after_error = self.ledger.leave_undecided
            session.execute("commit")
        except psycopg.Error as error:
            after_error(payloads)
            self.drop_session(error)
        else:
            for row, draft in zip(rows, drafts, strict=True):
                self.accept(row, draft)


def make_producers(load: Load, shop: Shop, port: int) -> list[Producer]:
    """All of a drill's producers, not started yet."""
    return [
        RestProducer(load, "rest-own-1", port, own_ids=True, lists=False),
        RestProducer(load, "rest-own-2", port, own_ids=True, lists=False),
        RestProducer(load, "rest", port, own_ids=False, lists=False),
        RestProducer(load, "rest-lists-own", port, own_ids=True, lists=True),
        RestProducer(load, "rest-lists", port, own_ids=False, lists=True),
        SqlProducer(load, "sql-1", shop),
        SqlProducer(load, "sql-2", shop),
        LongSqlProducer(load, "sql-long-1", shop),
        LongSqlProducer(load, "sql-long-2", shop),
        LongSqlProducer(load, "sql-long-3", shop),
    ]
