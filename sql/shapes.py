"""A chat as JSON, the same for REST, streams, webhooks and RabbitMQ."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Row


def instant(value: dt.datetime | None) -> str | None:
    """ISO 8601 in UTC, to the microsecond."""
    return None if value is None else value.astimezone(dt.UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def chat(row: Row[Any] | Any) -> dict[str, Any]:
    """A chat's members, from a row with its columns."""
    return {
        "chat_id": row.chat_id,
        "conversation_id": row.conversation_id,
        "seq": row.seq,
        "sender": row.sender,
        "payload": row.payload,
        "client_id": row.client_id,
        "operator_id": row.operator_id,
        "utc_date": instant(row.created_at),
        "state": row.state,
        "release_at": instant(row.release_at),
    }


def sent_chat(row: Row[Any] | Any) -> dict[str, Any]:
    """The same, and when it was sent."""
    return chat(row) | {"sent_at": instant(row.sent_at)}
