"""The tables that a drill prints: faults, chats, and figures."""

from __future__ import annotations

from collections.abc import Mapping

from drill.account import Books, Figures
from drill.ledger import Ledger

EXAMPLES = 5
WIDTH = 28


def table(title: str, counts: Mapping[str, int]) -> str:
    """A table with one line per count."""
    lines = [f"{name:<{WIDTH}}{count:>10,}" for name, count in counts.items()]
    return "\n".join([f"{title}", "-" * (WIDTH + 10), *lines, ""])


def chats(books: Books, ledger: Ledger, meddled: Mapping[str, int]) -> dict[str, int]:
    """The chats by outcome."""
    return {
        "accepted, confirmed": len(ledger.accepted),
        "accepted or not: no answer": len(ledger.undecided),
        "rolled back": len(ledger.rolled_back),
        "in the database": len(books.chats),
        "sent": len(books.log),
        "failed": len(books.dead),
        "cancelled": len(books.cancelled),
        **meddled,
    }


def report(faults: Mapping[str, int], chats_: Mapping[str, int], wrong: Figures) -> str:
    """The whole report, with examples of the errors."""
    parts = [table("faults injected", dict(sorted(faults.items()))), table("chats", chats_)]
    parts.append(table("wrong (all must be 0)", {name: len(found) for name, found in wrong.items()}))
    for name, found in wrong.items():
        parts += [f"{name}: {example}" for example in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            parts.append(f"{name}: and {len(found) - EXAMPLES:,} more")
    return "\n".join(parts)
