"""Webhooks by the Standard Webhooks specification: one signed POST for each chat, and what each answer means."""

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

from relay.channels import Outcome, Refused, Trouble, in_conversation_order
from relay.database import Row
from relay.guard import GuardedNetwork
from sql.database import query
from sql.shapes import instant, sent_chat

# As the specification suggests: ten attempts over about three days.
RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
JITTER = 0.1
SHORTEST_RETRY_AFTER_SECONDS, LONGEST_RETRY_AFTER_SECONDS = 1.0, 86400.0
TIMEOUT_SECONDS = 20.0
LARGEST_ANSWER_BYTES = 65536  # of an answer's body; what comes after is not read
SHOWN_CHARACTERS = 200  # of it, in the attempt that is kept
WIDTH = 8  # conversations at once
KEEP_OLD_SECRET = dt.timedelta(hours=24)

# What says "not this chat" rather than "not now". The third time in a row, the chat is a dead letter.
REFUSALS = {400, 413, 415, 422}
REFUSED_AFTER = 2


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    retry_after: str | None
    text: str  # the beginning of the body


class Webhook:
    """A store's receiver."""

    stays = False
    batch = 100
    reads = query("read_log_of_channel")

    def __init__(self, allow_private: bool) -> None:
        self._http = httpcore.AsyncConnectionPool(
            max_connections=WIDTH, keepalive_expiry=30, network_backend=GuardedNetwork(allow_private)
        )
        self._retry_seconds: Sequence[float] = RETRY_SECONDS
        self._refusals: dict[int, int] = {}  # in a row, by chat; no more than were on their way at once

    async def open(self, settings: dict[str, Any]) -> None:
        """Takes the settings over; the connections are made as they are needed."""
        self._url = settings["url"]
        self._timeout = settings.get("timeout_seconds", TIMEOUT_SECONDS)
        self._retry_seconds = settings.get("retry_seconds", RETRY_SECONDS)
        secrets = [settings["secret"]]
        # Both secrets sign for a day after a change, so that receivers may change theirs whenever they like.
        replaced = settings.get("replaced_at")
        if replaced and dt.datetime.fromisoformat(replaced) > dt.datetime.now(dt.UTC) - KEEP_OLD_SECRET:
            secrets.append(settings["old_secret"])
        self._signers = [Signer(secret) for secret in secrets]

    async def lost(self) -> None:
        """Never: there is no connection that stays."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Ends kept connections."""
        await self._http.aclose()

    def backoff_seconds(self, attempts: int) -> float | None:
        """The specification's schedule, with jitter."""
        if attempts >= len(self._retry_seconds):
            return None
        return float(self._retry_seconds[attempts]) * random.uniform(1, 1 + JITTER)  # noqa: S311

    async def deliver(self, chats: Sequence[Row], attempts: int, outcome: Outcome) -> None:
        """POSTs each chat; every attempt is kept in the outcome."""
        tried: list[tuple[float, dict[str, Any]]] = []

        async def send(chat: Row) -> None:
            attempt: dict[str, Any] = {"chat_id": chat.chat_id, "status": None, "error": None}
            began = time.monotonic()
            tried.append((began, attempt))
            try:
                answer = await self._post(chat)
                attempt["status"] = answer.status
                self._judge(chat.chat_id, answer)
            except (Trouble, Refused) as problem:
                attempt["error"] = str(problem)[: SHOWN_CHARACTERS + 100]
                raise
            finally:
                attempt["took_seconds"] = time.monotonic() - began

        await in_conversation_order(chats, send, WIDTH, outcome)
        now = time.monotonic()
        outcome.tried = [attempt | {"ago_seconds": now - began} for began, attempt in tried]

    async def _post(self, chat: Row) -> Answer:
        """One attempt. Raises Trouble where no whole answer's head comes."""
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
                raise Trouble(f"no answer within {self._timeout:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            if answer is None:
                raise Trouble(str(error) or type(error).__name__) from None
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
        """Raises what an answer other than 2xx means; a redirect is one, and is not followed."""
        refusals = self._refusals.pop(chat_id, 0)
        if 200 <= answer.status < 300:
            return
        reason = f"answered {answer.status} {answer.text}".strip()
        if answer.status == 410:
            raise Trouble(reason, disable=True)
        if answer.status in REFUSALS:
            if refusals >= REFUSED_AFTER:
                raise Refused(reason)
            self._refusals[chat_id] = refusals + 1
        wanted = retry_after_seconds(answer.retry_after) if answer.status in (429, 503) else None
        raise Trouble(reason, wanted)


def retry_after_seconds(text: str | None) -> float | None:
    """What a Retry-After header asks for, a second to a day; None where it asks for nothing that is understood."""
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
