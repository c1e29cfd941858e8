"""What an SQLSTATE means: one table for REST, RabbitMQ, XMPP, the command line and the drill.

The functions of the database raise SQLSTATEs of their own, of class ST (sql/functions/errors.sql). An error is
recognized by its SQLSTATE, never by its text.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """How an error is reported."""

    http_status: int
    stanza_error: tuple[str, str] | None = None  # XMPP's type and condition; None: no answer to a stanza


# By SQLSTATE, else by its class. These errors are the request's fault: sent again, it fails again.
REJECTIONS = {
    "ST403": Meaning(403, ("auth", "forbidden")),
    "ST404": Meaning(404, ("cancel", "item-not-found")),
    "ST409": Meaning(409, ("cancel", "conflict")),
    "22": Meaning(400),  # data exception
    "23": Meaning(400),  # a constraint that the input models did not catch
}
# All others are the server's: the same request may succeed later.
SERVER_FAULT = Meaning(503)

# Raised and caught inside the database; no caller ever sees them.
INTERNAL = frozenset({"ST001"})


def meaning(sqlstate: str | None) -> Meaning:
    """The meaning of an SQLSTATE; None, as of a lost connection, is the server's fault."""
    state = sqlstate or ""
    return REJECTIONS.get(state) or REJECTIONS.get(state[:2]) or SERVER_FAULT


def http_status(sqlstate: str | None) -> int:
    """The status that REST answers."""
    return meaning(sqlstate).http_status


def is_rejection(sqlstate: str | None) -> bool:
    """Whether the request is at fault and must not be repeated unchanged."""
    return meaning(sqlstate) is not SERVER_FAULT
