"""Messages to a conversation's XMPP address: each becomes a chat, or is answered with a stanza error."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from slixmpp import Message
from slixmpp.xmlstream import ET

from relay.database import Database
from relay.transport import DeliveryError
from relay.xmpp_link import Link
from sql.database import call
from sql.errors import meaning
from sql.fields import LARGEST_CHAT_ID, LARGEST_ID, Payload
from sql.jid import bare_jid
from sql.log import Log

log = Log("relay")

MOST_WAITING = 1000  # messages on their way into the database; more are answered "wait"
AT_ONCE = 2  # of the relay's connections; the other two stay free for outgoing chats

RECEIPTS, ORIGIN_ID = "urn:xmpp:receipts", "{urn:xmpp:sid:0}origin-id"
ENCRYPTED = (
    "}encrypted",
    "{urn:xmpp:eme:0}encryption",
)  # OMEMO and others: the body only says that the message is encrypted

PAYLOAD: TypeAdapter[str] = TypeAdapter(Payload)
PREFIX = "conversation-"


class StanzaRejected(Exception):
    """The message is not accepted: the stanza error's type and condition, and a text for people."""

    def __init__(self, kind: str, condition: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.condition = kind, condition


def parse_id(text: str | None, largest: int) -> int | None:
    """The text as a positive integer without leading zeros, as we write ids; None if it is not one."""
    if not text or not text.isascii() or not text.isdigit() or len(text) > 16 or text.startswith("0"):
        return None
    return int(text) if int(text) <= largest else None


def parse_conversation(node: str) -> int | None:
    """The conversation_id in the local part of an address; None if it is not a conversation's."""
    return parse_id(node.removeprefix(PREFIX), LARGEST_ID) if node.startswith(PREFIX) else None


class Inbox:
    """Accepts messages, those of a conversation in the order of their arrival."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._last: dict[int, asyncio.Task[None]] = {}  # the last task of each conversation
        self._waiting = 0

    def take(self, link: Link, message: Message) -> None:
        """Starts accepting a message; returns at once. Raises BadJid if the sender's address is invalid."""
        conversation_id = parse_conversation(message["to"].node)
        sender = bare_jid(message["from"].bare)
        received = message.xml.find(f"{{{RECEIPTS}}}received")
        if received is not None and conversation_id is not None:
            chat_id = parse_id(received.get("id"), LARGEST_CHAT_ID)
            if chat_id is not None and self._waiting < MOST_WAITING:
                mark = call("mark_delivered", conversation_id=conversation_id, chat_id=chat_id, xmpp_jid=sender)
                self._begin(conversation_id, lambda: self._run(*mark))
        if message["body"]:
            if self._waiting >= MOST_WAITING:
                answer_error(
                    link, message, StanzaRejected("wait", "resource-constraint", "too many messages; try again")
                )
            else:
                self._begin(conversation_id or 0, lambda: self._accept(link, message, conversation_id, sender))

    def _begin(self, conversation_id: int, work: Callable[[], Awaitable[None]]) -> None:
        """Starts the work; it waits until earlier work for the conversation is done."""
        before = self._last.get(conversation_id)

        async def in_turn() -> None:
            try:
                if before is not None:
                    await asyncio.wait({before})
                await work()
            except (sa.exc.SQLAlchemyError, DeliveryError) as error:
                log("message_trouble", conversation_id=conversation_id, reason=error)
            except Exception:
                # A bug of ours; the other messages are accepted meanwhile.
                log("message_failed", traceback=True, conversation_id=conversation_id)
            finally:
                self._waiting -= 1
                if self._last.get(conversation_id) is task:
                    del self._last[conversation_id]

        self._waiting += 1
        task = self._last[conversation_id] = asyncio.ensure_future(in_turn())

    async def _run(self, statement: sa.Executable, values: dict[str, Any]) -> None:
        async with self._slots:
            await self._database.rows(statement, **values)

    async def _accept(self, link: Link, message: Message, conversation_id: int | None, sender: str) -> None:
        """Accepts the message and, after the commit, sends the requested receipt; or answers with a stanza error."""
        try:
            await self._enqueue(message, conversation_id, sender)
        except StanzaRejected as rejected:
            answer_error(link, message, rejected)
            return
        if message["id"] and message.xml.find(f"{{{RECEIPTS}}}request") is not None:
            receipt = link.message(message["from"], message["to"], "receipt-" + message["id"], message["type"])
            ET.SubElement(receipt.xml, f"{{{RECEIPTS}}}received", id=message["id"])
            link.send(receipt)

    async def _enqueue(self, message: Message, conversation_id: int | None, sender: str) -> None:
        """Makes one chat of the message, also if it arrives twice. Raises StanzaRejected."""
        if conversation_id is None:
            raise StanzaRejected("cancel", "item-not-found", "this is not the address of a conversation")
        if message["from"].domain == message["to"].domain:
            raise StanzaRejected("cancel", "not-allowed", "a conversation cannot write to another one")
        if message["type"] not in ("chat", "normal"):
            raise StanzaRejected("cancel", "feature-not-implemented", "only messages of type chat are accepted")
        if any(child.tag.endswith(ENCRYPTED) for child in message.xml):
            raise StanzaRejected("modify", "not-acceptable", "encrypted messages are not supported")
        try:
            payload = PAYLOAD.validate_python(message["body"])
        except ValidationError as error:
            raise StanzaRejected("modify", "not-acceptable", error.errors()[0]["msg"]) from None
        enqueue = call(
            "enqueue_from_xmpp",
            conversation_id=conversation_id,
            xmpp_jid=sender,
            message_id=message_key(message, conversation_id, sender),
            payload=payload,
        )
        try:
            await self._run(*enqueue)
        except sa.exc.SQLAlchemyError as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else None
            if isinstance(cause, psycopg.Error) and (answer := meaning(cause.sqlstate).stanza_error):
                raise StanzaRejected(*answer, str(cause.diag.message_primary)) from None
            log("message_not_taken", conversation_id=conversation_id, reason=cause or error)
            raise StanzaRejected("wait", "resource-constraint", "temporarily unavailable; try again") from None

    async def drain(self, seconds: float) -> None:
        """Waits for the messages on their way, at most this long."""
        if self._last:
            await asyncio.wait(set(self._last.values()), timeout=seconds)


def answer_error(link: Link, message: Message, rejected: StanzaRejected) -> None:
    """Answers with a stanza error."""
    answer = link.message(message["from"], message["to"], message["id"], "error")
    error = answer["error"]
    error["type"], error["condition"], error["text"] = rejected.kind, rejected.condition, str(rejected)
    link.send(answer)


def message_key(message: Message, conversation_id: int, sender: str) -> str | None:
    """The key by which a repeat of the message is recognized; None: the message has no id.

    The origin-id (XEP-0359) or the stanza's id, together with the text: a stanza id is unique only within its stream
    (RFC 6120), and some programs count from 1 in each, so the same id with another text is another message.
    """
    origin = message.xml.find(ORIGIN_ID)
    own_id = (origin.get("id") if origin is not None else None) or message["id"]
    if not own_id:
        return None
    return hashlib.sha256("\0".join((sender, str(conversation_id), own_id, message["body"])).encode()).hexdigest()
