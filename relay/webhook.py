"""Webhooks by the Standard Webhooks specification: one signed POST per chat, and the meaning of each response."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpcore
from standardwebhooks import Webhook as Signer

from relay.database import Row
from relay.guard import GuardedNetwork
from relay.transport import ChatRejected, DeliveryError, Outcome, in_conversation_order
from sql.database import query
from sql.shapes import instant, sent_chat

# As the specification suggests: ten attempts over about three days.
RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
JITTER = 0.1
SHORTEST_RETRY_AFTER_SECONDS, LONGEST_RETRY_AFTER_SECONDS = 1.0, 86400.0
TIMEOUT_SECONDS = 20.0
LARGEST_ANSWER_BYTES = 65536  # of the body; the rest is not read
SHOWN_CHARACTERS = 200  # of the body, in the stored attempt
WIDTH = 8  # conversations at once
KEEP_OLD_SECRET = dt.timedelta(hours=24)

# Statuses that mean "not this chat" rather than "not now". After the third in a row, the chat is a dead letter.
REJECTING_STATUSES = {400, 413, 415, 422}
MOST_REJECTIONS = 2  # that are retried


@dataclass(frozen=True)
class Answer:
    """A response of the receiver."""

    status: int
    retry_after: str | None
    text: str  # the beginning of the body


class Webhook:
    """A store's receiver."""

    stays_connected = False
    batch_size = 100
    read_query = query("relay/read_log_of_channel")

    def __init__(self, allow_private: bool) -> None:
        self._http = httpcore.AsyncConnectionPool(
            max_connections=WIDTH, keepalive_expiry=30, network_backend=GuardedNetwork(allow_private)
        )
        self._retry_seconds: Sequence[float] = RETRY_SECONDS
        self._rejections: dict[int, int] = {}  # in a row, by chat_id; at most one for each chat sent at once

    async def open(self, settings: dict[str, Any]) -> None:
        """Applies the settings; connections are opened when needed."""
        self._url = settings["url"]
        self._timeout = settings.get("timeout_seconds", TIMEOUT_SECONDS)
        self._retry_seconds = settings.get("retry_seconds", RETRY_SECONDS)
        secrets = [settings["secret"]]
        # For a day after a change both secrets sign, so that the receiver can switch at any time.
        replaced = settings.get("replaced_at")
        if replaced and dt.datetime.fromisoformat(replaced) > dt.datetime.now(dt.UTC) - KEEP_OLD_SECRET:
            secrets.append(settings["old_secret"])
        self._signers = [Signer(secret) for secret in secrets]

    async def lost(self) -> None:
        """Never returns: there is no lasting connection to lose."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Closes the connections that are kept alive."""
        await self._http.aclose()

    def backoff_seconds(self, failures: int) -> float | None:
        """The specification's schedule, with jitter."""
        if failures >= len(self._retry_seconds):
            return None
        return float(self._retry_seconds[failures]) * random.uniform(1, 1 + JITTER)  # noqa: S311

    async def deliver(self, chats: Sequence[Row], failures: int, outcome: Outcome) -> None:
        """POSTs each chat; the outcome has every attempt."""
        attempts: list[tuple[float, dict[str, Any]]] = []

        async def send(chat: Row) -> None:
            attempt: dict[str, Any] = {"chat_id": chat.chat_id, "status": None, "error": None}
            began = time.monotonic()
            attempts.append((began, attempt))
            try:
                answer = await self._post(chat)
                attempt["status"] = answer.status
                self._judge(chat.chat_id, answer)
            except (DeliveryError, ChatRejected) as error:
                attempt["error"] = str(error)[: SHOWN_CHARACTERS + 100]
                raise
            finally:
                attempt["took_seconds"] = time.monotonic() - began

        await in_conversation_order(chats, send, WIDTH, outcome)
        now = time.monotonic()
        outcome.attempts = [attempt | {"ago_seconds": now - began} for began, attempt in attempts]

    async def _post(self, chat: Row) -> Answer:
        """Makes one attempt. Raises DeliveryError if no complete status and headers arrive."""
        body = json.dumps({"type": "chat.sent", "timestamp": instant(chat.sent_at), "data": sent_chat(chat)}).encode()
        answer: Answer | None = None
        try:
            async with asyncio.timeout(self._timeout):
                async with self._http.stream(
                    "POST", self._url, headers=self._headers(str(chat.chat_id), body), content=body
                ) as response:
                    headers = {name.lower(): value for name, value in response.headers}
                    after = headers.get(b"retry-after")
                    answer = Answer(response.status, after.decode("latin-1") if after is not None else None, "")
                    read = b""
                    async for chunk in response.aiter_stream():
                        read += chunk
                        if len(read) > LARGEST_ANSWER_BYTES:
                            break  # leaving closes the connection
                    text = read[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace").replace("\0", "\ufffd")
                    answer = Answer(answer.status, answer.retry_after, text[:SHOWN_CHARACTERS])
        except TimeoutError:
            if answer is None:
                raise DeliveryError(f"no answer within {self._timeout:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            if answer is None:
                raise DeliveryError(str(error) or type(error).__name__) from None
        assert answer is not None
        return answer

    def _headers(self, message_id: str, body: bytes) -> list[tuple[bytes, bytes]]:
        now = dt.datetime.now(dt.UTC)
        signatures = " ".join(signer.sign(message_id, now, body.decode()) for signer in self._signers)
        fields = {
            "content-type": "application/json",
            "user-agent": "Shoptalk",
            "content-length": str(len(body)),
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signatures,
        }
        return [(name.encode(), value.encode()) for name, value in fields.items()]

    def _judge(self, chat_id: int, answer: Answer) -> None:
        """Raises the error that a status other than 2xx means. Redirects are not followed, so they are errors too."""
        rejections = self._rejections.pop(chat_id, 0)
        if 200 <= answer.status < 300:
            return
        reason = f"answered {answer.status} {answer.text}".strip()
        if answer.status == 410:
            raise DeliveryError(reason, disable=True)
        if answer.status in REJECTING_STATUSES:
            if rejections >= MOST_REJECTIONS:
                raise ChatRejected(reason)
            self._rejections[chat_id] = rejections + 1
        retry_seconds = retry_after_seconds(answer.retry_after) if answer.status in (429, 503) else None
        raise DeliveryError(reason, retry_seconds)


def retry_after_seconds(text: str | None) -> float | None:
    """The delay that a Retry-After header asks for, from 1 s to a day; None if missing or not understood."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        seconds = float(text.strip()[:9])
    else:
        try:
            at = email.utils.parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
    return min(max(seconds, SHORTEST_RETRY_AFTER_SECONDS), LONGEST_RETRY_AFTER_SECONDS)
