"""The protocol between the relay and its transports, and the possible outcomes for a chat."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import sqlalchemy as sa

from relay.database import Row
from sql.log import Log

log = Log("relay")

BACKOFF_SECONDS = (0.5, 60.0)  # the first and the longest wait, doubling; a transport may have its own


class DeliveryError(Exception):
    """The receiver cannot take chats now. No chat counts as delivered that it has not confirmed."""

    def __init__(self, reason: str, retry_seconds: float | None = None, disable: bool = False) -> None:
        super().__init__(reason)
        self.retry_seconds = retry_seconds  # as the receiver asked for; None: the transport's own backoff
        self.disable = disable  # the receiver will never take chats: no retry until an operator resumes the channel


class ChatRejected(Exception):
    """The receiver will never take this chat; the others continue."""

    def __init__(self, reason: str, requeue_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.requeue_seconds = requeue_seconds  # it may take it later after all


@dataclass
class Outcome:
    """The result for a batch. A position in neither `delivered` nor `rejected` is delivered again."""

    delivered: set[int] = field(default_factory=set)
    rejected: dict[int, ChatRejected] = field(default_factory=dict)
    error: DeliveryError | None = None
    stopped: bool = False  # by the relay: the transport starts no more chats
    attempts: list[dict[str, Any]] = field(default_factory=list)  # of a webhook; the API shows them

    def dead_letters(self, chats: Sequence[Row]) -> list[dict[str, Any]]:
        """The rejected chats, as settle_batch() takes them."""
        return [
            {
                "position": chat.position,
                "chat_id": chat.chat_id,
                "reason": str(self.rejected[chat.position]),
                "requeue_seconds": self.rejected[chat.position].requeue_seconds,
            }
            for chat in chats
            if chat.position in self.rejected
        ]


class Transport(Protocol):
    """Delivers to one channel's receiver."""

    stays_connected: bool  # keeps the connection, and so the lease, while there is nothing to deliver
    batch_size: int
    read_query: sa.TextClause  # how it reads the log

    async def open(self, settings: dict[str, Any]) -> None:
        """Connects. Raises DeliveryError. Called for each lease, with the current settings."""

    async def deliver(self, chats: Sequence[Row], failures: int, outcome: Outcome) -> None:
        """Delivers chats, each conversation's in order, and records the outcome. failures: of the channel, in a row."""

    async def lost(self) -> None:
        """Never returns; raises DeliveryError when the connection is lost."""

    async def close(self) -> None:
        """Disconnects. Must be harmless at any time."""

    def backoff_seconds(self, failures: int) -> float | None:
        """How long to wait after this many failures in a row; None: give up and disable the channel."""


async def in_conversation_order(
    chats: Sequence[Row], send: Callable[[Row], Awaitable[None]], width: int, outcome: Outcome
) -> None:
    """Sends up to `width` chats at once, but starts no chat before the previous one of its conversation is confirmed.

    So a later chat of a conversation can never overtake one that is rejected or lost. `send` raises ChatRejected and
    DeliveryError; after a DeliveryError, or once stopped, no more chats are started.
    """
    slots = asyncio.Semaphore(width)
    conversations = defaultdict(list)
    for chat in chats:
        conversations[chat.conversation_id].append(chat)

    async def send_one_after_the_other(chats_of_one: list[Row]) -> None:
        for chat in chats_of_one:
            async with slots:
                if outcome.error is not None or outcome.stopped:
                    return
                try:
                    await send(chat)
                    outcome.delivered.add(chat.position)
                except ChatRejected as rejected:
                    outcome.rejected[chat.position] = rejected
                except DeliveryError as error:
                    outcome.error = outcome.error or error
                    return
                except Exception as error:
                    # A bug of ours. Without this the other conversations would continue after the batch has ended.
                    log("channel_failed", traceback=True)
                    outcome.error = outcome.error or DeliveryError(f"internal error: {type(error).__name__}")
                    return

    await asyncio.gather(*map(send_one_after_the_other, conversations.values()))
