"""How far a channel has come in the log: which chats to read next, and how far the cursor may move."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass, replace

WINDOW = 20_000  # positions of the log that one read covers


@dataclass(frozen=True)
class Progress:
    """A value: the channel replaces it once the database has committed the step, so a failed commit changes nothing.

    A chat is settled when it was delivered or became a dead letter.
    """

    cursor: int  # as in the table: everything up to here is settled
    seen: int  # read up to here; the next read starts after it
    beyond: frozenset[int] = frozenset()  # settled, but an earlier chat is not yet

    @classmethod
    def starting_at(cls, cursor: int) -> Progress:
        """The progress of a channel whose log is to be read from its cursor on."""
        return cls(cursor, cursor)

    def resume(self, cursor: int, is_unbroken: bool) -> Progress:
        """The progress at the start of a lease, with the table's cursor.

        is_unbroken: no other relay has had the channel since our last lease, and no operator has moved the cursor; so
        what we have read and settled since then still holds.
        """
        if is_unbroken and cursor <= self.seen:
            return replace(self, cursor=cursor)
        return Progress.starting_at(cursor)

    def read_until(self, end: int) -> int:
        """Up to which position to read next, in a log that ends at `end`; not after `seen`: there is nothing new."""
        return min(self.seen + WINDOW, end)

    def mark_seen(self, position: int) -> Progress:
        """Everything up to the position was read."""
        return replace(self, seen=max(self.seen, position))

    def is_settled(self, position: int) -> bool:
        """Whether a chat after the cursor was settled before, ahead of an earlier one."""
        return position in self.beyond

    def settle(self, positions: Iterable[int], settled: Collection[int], until: int) -> Progress:
        """Moves the cursor over settled chats.

        positions: of the batch, ascending. settled: those settled now. until: how far the cursor moves if all are;
        otherwise it stops before the first that is not.
        """
        beyond: Set[int] = self.beyond.union(settled)
        unsettled = next((position for position in positions if position not in beyond), None)
        if unsettled is not None:
            until = min(until, unsettled - 1)
        beyond = frozenset(position for position in beyond if position > until)
        return replace(self, cursor=max(self.cursor, until), beyond=beyond)
