"""The account: the database at the end, compared with the producers' answers and the readers' lists."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drill.ledger import Ledger
from drill.shop import Shop

Figures = dict[str, list[str]]  # by name of the figure: the errors found, usually one text per chat


@dataclass(frozen=True)
class Books:
    """All tables, including pruned rows, read in one snapshot."""

    chats: dict[int, tuple[int, int, str]]  # chat_id: (conversation_id, seq, payload)
    log: list[tuple[int, int]]  # (position, chat_id), by position
    queue: set[int]
    failures: dict[int, str]  # chat_id: reason, of every chat whose sending raised an error
    dead: set[int]  # dead letters
    cancelled: set[int]
    repaired: set[int]  # bad chats that can be sent since
    last_seqs: dict[int, int]  # by conversation

    @classmethod
    def read(cls, shop: Shop) -> Books:
        """Reads the database."""
        with shop.connect("drill account") as session, session.transaction():
            session.execute("set transaction isolation level repeatable read")
            session.execute("set local statement_timeout = 0")

            def ids(statement: str) -> set[int]:
                return {row[0] for row in session.execute(statement.encode())}

            return cls(
                chats={
                    r[0]: r[1:]
                    for r in session.execute("select chat_id, conversation_id, seq, payload from drill_chats")
                },
                log=session.execute("select position, chat_id from drill_log order by position").fetchall(),
                queue=ids("select chat_id from chat_queue"),
                failures=dict(session.execute("select chat_id, reason from drill_failures").fetchall()),
                dead=ids("select chat_id from chat_failures where dead_at is not null"),
                cancelled=ids("select chat_id from drill_cancelled"),
                repaired=ids("select chat_id from drill_repaired"),
                last_seqs=dict(session.execute("select conversation_id, last_seq from conversations").fetchall()),
            )

    @property
    def sent(self) -> set[int]:
        """The chats in the log."""
        return {chat_id for _, chat_id in self.log}

    def describe(self, chat_id: int) -> str:
        """A chat for an error text."""
        conversation, seq, payload = self.chats.get(chat_id, (0, 0, "unknown"))
        return f"chat {chat_id}, {seq} of conversation {conversation}: {payload}"


def figures(books: Books, ledger: Ledger, readers: Sequence[Sequence[tuple[int, int]]]) -> Figures:
    """The errors by figure; all must be empty after a drill."""
    return {
        "lost": list(_lost(books, ledger)),
        "repeated": list(_repeated(books)),
        "out of order": [*ledger.misnumbered, *_out_of_order(books, ledger)],
        "stuck": [books.describe(chat_id) for chat_id in books.queue],
        "reader differences": list(_reader_differences(books, readers)),
        "sent although cancelled": list(_sent_although_cancelled(books, ledger)),
        "wrong failures": list(_wrong_failures(books)),
        "rolled back yet there": [payload for _, _, payload in books.chats.values() if payload in ledger.rolled_back],
        "gaps": list(_gaps(books)),
        "wrong answers": ledger.wrong_answers,
    }


def _lost(books: Books, ledger: Ledger) -> Iterator[str]:
    for chat_id, payload in ledger.accepted.items():
        if books.chats.get(chat_id, (0, 0, ""))[2] != payload:
            yield f"accepted but not in chats: {chat_id}: {payload}"
    for chat_id in books.chats.keys() - books.sent - books.queue - books.dead - books.cancelled:
        yield f"in no state: {books.describe(chat_id)}"


def _repeated(books: Books) -> Iterator[str]:
    for chat_id, times in collections.Counter(chat_id for _, chat_id in books.log).items():
        if times > 1:
            yield f"{times} times in the log: {books.describe(chat_id)}"
    for payload, times in collections.Counter(payload for _, _, payload in books.chats.values()).items():
        if times > 1:
            yield f"accepted {times} times: {payload}"
    for chat_id in books.sent & (books.queue | books.dead):
        yield f"sent and still to be sent: {books.describe(chat_id)}"
    for chat_id in books.sent - books.chats.keys():
        yield f"sent but never accepted: {chat_id}"


def _out_of_order(books: Books, ledger: Ledger) -> Iterator[str]:
    """Requeued dead letters do not count: they are sent late on purpose."""
    last: dict[int, int] = {}
    for position, chat_id in books.log:
        if chat_id in ledger.requeued or chat_id not in books.chats:
            continue
        conversation, seq, _ = books.chats[chat_id]
        if seq <= last.get(conversation, 0):
            yield f"at {position} after seq {last[conversation]}: {books.describe(chat_id)}"
        last[conversation] = max(seq, last.get(conversation, 0))


def _reader_differences(books: Books, readers: Sequence[Sequence[tuple[int, int]]]) -> Iterator[str]:
    log = set(books.log)
    for number, seen in enumerate(readers, 1):
        for position, chat_id in sorted(log.difference(seen)):
            yield f"reader {number} missed {position}: {books.describe(chat_id)}"
        for position, chat_id in sorted(set(seen) - log):
            yield f"reader {number} saw {position}, which is not in the log: {books.describe(chat_id)}"
        if len(set(seen)) < len(seen):
            yield f"reader {number} saw a position twice"


def _sent_although_cancelled(books: Books, ledger: Ledger) -> Iterator[str]:
    for chat_id in books.sent & (books.cancelled | ledger.cancelled):
        yield books.describe(chat_id)
    for chat_id in ledger.cancelled - books.cancelled:
        yield f"the cancellation is gone: {books.describe(chat_id)}"


def _wrong_failures(books: Books) -> Iterator[str]:
    for chat_id, reason in books.failures.items():
        if not books.chats[chat_id][2].startswith("bad"):
            yield f"{reason}: {books.describe(chat_id)}"
    for chat_id in books.sent & books.chats.keys() - books.repaired:
        if books.chats[chat_id][2].startswith("bad"):
            yield f"bad but sent: {books.describe(chat_id)}"


def _gaps(books: Books) -> Iterator[str]:
    for expected, (position, chat_id) in enumerate(books.log, 1):
        if position != expected:
            yield f"position {position} instead of {expected}: {books.describe(chat_id)}"
            break
    seqs = collections.defaultdict(list)
    for conversation, seq, _ in books.chats.values():
        seqs[conversation].append(seq)
    for conversation, last_seq in books.last_seqs.items():
        if sorted(seqs[conversation]) != list(range(1, last_seq + 1)):
            yield f"conversation {conversation}: {len(seqs[conversation])} chats, but last_seq {last_seq}"
