"""What people write to a conversation's XMPP address: it becomes a chat, or they are told why not."""

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

from relay.channels import Trouble
from relay.database import Database
from relay.xmpp_link import Link
from sql.database import query
from sql.fields import LARGEST_CHAT_ID, LARGEST_ID, Payload
from sql.jid import bare_jid
from sql.log import Log

log = Log("relay")

MOST_WAITING = 1000  # messages on their way into the database; more are told to come again
AT_ONCE = 2  # of the relay's connections, so that the lease is renewed whatever comes in

RECEIPTS, ORIGIN_ID = "urn:xmpp:receipts", "{urn:xmpp:sid:0}origin-id"
ENCRYPTED = ("}encrypted", "{urn:xmpp:eme:0}encryption")  # OMEMO and others: the body is only an excuse

PAYLOAD: TypeAdapter[str] = TypeAdapter(Payload)
PREFIX = "conversation-"


class No(Exception):
    """The message is not taken: a stanza error's type and condition, and the reason in words."""

    def __init__(self, kind: str, condition: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.condition = kind, condition


# By the SQLSTATE of the database's own refusals. Any other says nothing about the message.
ANSWERS = {"ST403": ("auth", "forbidden"), "ST404": ("cancel", "item-not-found"), "ST409": ("cancel", "conflict")}


def number(text: str | None, largest: int) -> int | None:
    """The positive number that the text is, as we write numbers; None where it is none."""
    if not text or not text.isascii() or not text.isdigit() or len(text) > 16 or text.startswith("0"):
        return None
    return int(text) if int(text) <= largest else None


def conversation_of(node: str) -> int | None:
    """Which conversation has the address with this name."""
    return number(node.removeprefix(PREFIX), LARGEST_ID) if node.startswith(PREFIX) else None


class Inbox:
    """Takes messages in, those of a conversation in the order in which they came."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = asyncio.Semaphore(AT_ONCE)
        self._last: dict[int, asyncio.Task[None]] = {}  # of each conversation, the one on its way
        self._waiting = 0

    def take(self, link: Link, message: Message) -> None:
        """Begins to take a message in; returns at once. Raises BadJid for a sender that can be nobody."""
        conversation_id = conversation_of(message["to"].node)
        sender = bare_jid(message["from"].bare)
        received = message.xml.find(f"{{{RECEIPTS}}}received")
        if received is not None and conversation_id is not None:
            chat_id = number(received.get("id"), LARGEST_CHAT_ID)
            if chat_id is not None and self._waiting < MOST_WAITING:
                values = {"conversation_id": conversation_id, "chat_id": chat_id, "xmpp_jid": sender}
                self._begin(conversation_id, lambda: self._run(query("mark_delivered"), values))
        if message["body"]:
            if self._waiting >= MOST_WAITING:
                refuse(link, message, No("wait", "resource-constraint", "too much at once, try again"))
            else:
                self._begin(conversation_id or 0, lambda: self._accept(link, message, conversation_id, sender))

    def _begin(self, conversation_id: int, work: Callable[[], Awaitable[None]]) -> None:
        """Does the work after what is on its way for the conversation."""
        before = self._last.get(conversation_id)

        async def in_turn() -> None:
            try:
                if before is not None:
                    await asyncio.wait({before})
                await work()
            except (sa.exc.SQLAlchemyError, Trouble) as error:
                log("message_trouble", conversation_id=conversation_id, reason=error)
            except Exception:
                # Ours to mend; the others are taken in meanwhile.
                log("message_failed", traceback=True, conversation_id=conversation_id)
            finally:
                self._waiting -= 1
                if self._last.get(conversation_id) is task:
                    del self._last[conversation_id]

        self._waiting += 1
        task = self._last[conversation_id] = asyncio.ensure_future(in_turn())

    async def _run(self, statement: sa.TextClause, values: dict[str, Any]) -> None:
        async with self._places:
            await self._database.rows(statement, **values)

    async def _accept(self, link: Link, message: Message, conversation_id: int | None, sender: str) -> None:
        """Accepts it, and then, after the commit, gives the receipt that was asked for; or says why not."""
        try:
            await self._enqueue(message, conversation_id, sender)
        except No as no:
            refuse(link, message, no)
            return
        if message["id"] and message.xml.find(f"{{{RECEIPTS}}}request") is not None:
            receipt = link.message(message["from"], message["to"], "receipt-" + message["id"], message["type"])
            ET.SubElement(receipt.xml, f"{{{RECEIPTS}}}received", id=message["id"])
            link.send(receipt)

    async def _enqueue(self, message: Message, conversation_id: int | None, sender: str) -> None:
        """Makes a chat of it, once. Raises No."""
        if conversation_id is None:
            raise No("cancel", "item-not-found", "this is no conversation")
        if message["from"].domain == message["to"].domain:
            raise No("cancel", "not-allowed", "a conversation does not write to another")
        if message["type"] not in ("chat", "normal"):
            raise No("cancel", "feature-not-implemented", "a conversation takes chat messages only")
        if any(child.tag.endswith(ENCRYPTED) for child in message.xml):
            raise No("modify", "not-acceptable", "encrypted messages cannot be read here")
        try:
            payload = PAYLOAD.validate_python(message["body"])
        except ValidationError as error:
            raise No("modify", "not-acceptable", error.errors()[0]["msg"]) from None
        values = {
            "conversation_id": conversation_id,
            "xmpp_jid": sender,
            "message_id": message_key(message, conversation_id, sender),
            "payload": payload,
        }
        try:
            await self._run(query("enqueue_from_xmpp"), values)
        except sa.exc.SQLAlchemyError as error:
            cause = error.orig if isinstance(error, sa.exc.DBAPIError) else None
            if isinstance(cause, psycopg.Error) and cause.sqlstate in ANSWERS:
                raise No(*ANSWERS[cause.sqlstate], str(cause.diag.message_primary)) from None
            log("message_not_taken", conversation_id=conversation_id, reason=cause or error)
            raise No("wait", "resource-constraint", "not just now, try again") from None

    async def drain(self, seconds: float) -> None:
        """Waits for what is on its way, so long at most."""
        if self._last:
            await asyncio.wait(set(self._last.values()), timeout=seconds)


def refuse(link: Link, message: Message, no: No) -> None:
    """Answers with a stanza error."""
    answer = link.message(message["from"], message["to"], message["id"], "error")
    answer["error"]["type"], answer["error"]["condition"], answer["error"]["text"] = no.kind, no.condition, str(no)
    link.send(answer)


def message_key(message: Message, conversation_id: int, sender: str) -> str | None:
    """What the message is known by when it comes again; None: nothing.

    By origin-id (XEP-0359), or by the stanza's id. That one need only be unique within its stream (RFC 6120), and some
    count from 1 in each: so with other text it is another message.
    """
    origin = message.xml.find(ORIGIN_ID)
    own_id = (origin.get("id") if origin is not None else None) or message["id"]
    if not own_id:
        return None
    return hashlib.sha256("\0".join((sender, str(conversation_id), own_id, message["body"])).encode()).hexdigest()
