"""XMPP: the relay as a component of an XMPP server (XEP-0114), on which each conversation has an address."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Any

from slixmpp import Message
from slixmpp.jid import InvalidJID
from slixmpp.xmlstream import ET

from relay.database import Database, Row
from relay.transport import BACKOFF_SECONDS, ChatRejected, DeliveryError, Outcome
from relay.xmpp_inbox import PREFIX, RECEIPTS, Inbox, parse_conversation, parse_id
from relay.xmpp_link import Link
from sql.backoff import backoff_seconds
from sql.database import call, query
from sql.fields import LARGEST_CHAT_ID
from sql.jid import bare_jid
from sql.log import Log
from sql.settings import XmppComponent
from sql.shapes import instant

log = Log("relay")

BATCH = 50  # chats before a ping, and so the most that are repeated after a cut connection
IDLE_SECONDS = 30.0  # between pings while there is nothing to send
REQUEUE_SECONDS = 300.0  # until a chat that bounced with type "wait" is sent once more
DRAIN_SECONDS = 1.0
MOST_LATE = 10_000  # late bounces waiting to be recorded; more are dropped

# The characters that XML 1.0 cannot carry. Tab, line feed, carriage return and U+007F to U+009F it can.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# The stream errors that the stanza before them causes: it is too long, or the server does not accept it.
STANZA_FAULTS = {
    "bad-format",
    "invalid-xml",
    "not-well-formed",
    "policy-violation",
    "restricted-xml",
    "unsupported-encoding",
}


class Xmpp:
    """The server, with its users and those of the servers it federates with."""

    stays_connected = True
    batch_size = BATCH
    read_query = query("relay/read_log_for_xmpp")

    def __init__(self, component: XmppComponent, database: Database) -> None:
        self._component, self._database = component, database
        self._inbox = Inbox(database)
        self._link: Link | None = None
        self._in_flight: dict[int, Row] = {}  # by chat_id: sent since the last answered ping
        self._bounced: dict[int, ChatRejected] = {}  # those of them that bounced
        self._late: list[dict[str, Any]] = []  # bounces of chats that already count as delivered
        self._has_late = asyncio.Event()

    async def open(self, settings: dict[str, Any]) -> None:
        """Connects; from then on inbound messages arrive too."""
        self._link = link = Link(self._component, self._take)
        await link.connect()
        log("connected", component=self._component.jid)

    async def close(self) -> None:
        """Finishes the inbound messages that have arrived, and ends the stream."""
        link, self._link = self._link, None
        if link is not None:
            await self._inbox.drain(DRAIN_SECONDS)
            await link.close()
            await self._inbox.drain(DRAIN_SECONDS)

    def backoff_seconds(self, failures: int) -> float:
        """Never gives up: the server is the shop's own."""
        return backoff_seconds(failures, *BACKOFF_SECONDS)

    async def deliver(self, chats: Sequence[Row], failures: int, outcome: Outcome) -> None:
        """Sends the chats and then a ping: its answer proves that the server has received them all.

        After a failure it sends them one by one, to find a chat for which the server ends the stream, and reject it.
        """
        await self._record_late()
        step = 1 if failures else BATCH
        for start in range(0, len(chats), step):
            if outcome.stopped:
                break
            own = chats[start : start + step]
            try:
                await self._send_confirmed(own, outcome)
            except DeliveryError as error:
                outcome.error = error
                condition = self._link.condition if self._link else ""
                if len(own) == 1 and condition in STANZA_FAULTS:
                    outcome.rejected[own[0].position] = ChatRejected(str(error))
                break

    async def _send_confirmed(self, chats: Sequence[Row], outcome: Outcome) -> None:
        """Sends the chats and waits until the server has received them. Raises DeliveryError."""
        link = self._link
        assert link is not None
        self._in_flight, self._bounced = {}, {}
        for chat in chats:
            try:
                message = self._message(link, chat)
            except InvalidJID as error:
                reason = f"invalid XMPP address {chat.xmpp_jid}: {error}"
                outcome.rejected[chat.position] = ChatRejected(reason)
                continue
            self._in_flight[chat.chat_id] = chat
            link.send(message)
        await link.ping()
        for chat_id, chat in self._in_flight.items():
            if chat_id in self._bounced:
                outcome.rejected[chat.position] = self._bounced[chat_id]
            else:
                outcome.delivered.add(chat.position)
        self._in_flight = {}

    def _message(self, link: Link, chat: Row) -> Message:
        """The chat as a message to the other party, with the chat_id as its id. Raises InvalidJID."""
        address = f"{PREFIX}{chat.conversation_id}@{self._component.jid}"
        if not chat.xmpp_jid:
            raise InvalidJID("the other party's address was removed")
        message = link.message(chat.xmpp_jid, address, str(chat.chat_id))
        message["body"] = NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", chat.payload)
        ET.SubElement(message.xml, "{urn:xmpp:sid:0}origin-id", id=str(chat.chat_id))
        ET.SubElement(message.xml, f"{{{RECEIPTS}}}request")
        if chat.was_held:  # XEP-0203: the time at which it was written
            stamp = {"from": address, "stamp": str(instant(chat.created_at))}
            ET.SubElement(message.xml, "{urn:xmpp:delay}delay", stamp)
        return message

    async def lost(self) -> None:
        """Records late bounces, and pings every 30 s; raises DeliveryError when the connection is lost."""
        link = self._link
        assert link is not None
        while True:
            await self._record_late()
            waits = [asyncio.ensure_future(event.wait()) for event in (link.closed, self._has_late)]
            try:
                done, _ = await asyncio.wait(waits, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if not done or link.closed.is_set():
                await link.ping()

    async def _record_late(self) -> None:
        """Makes dead letters of the chats that bounced after they had been settled as delivered."""
        self._has_late.clear()
        while self._late:
            await self._database.rows(*call("record_bounce", **self._late[0]))
            self._late.pop(0)

    def _take(self, message: Message) -> None:
        """Handles an inbound message or bounce."""
        link = self._link
        if link is None:
            return
        with contextlib.suppress(ValueError):  # not a valid address, so there is no one to answer to
            if message["type"] == "error":
                self._take_bounce(message)
            else:
                self._inbox.take(link, message)

    def _take_bounce(self, message: Message) -> None:
        """Handles a bounce of a chat. It may be forged, so address and conversation must match the chat's."""
        conversation_id, chat_id = parse_conversation(message["to"].node), parse_id(message["id"], LARGEST_CHAT_ID)
        if conversation_id is None or chat_id is None:
            return
        error, sender = message["error"], bare_jid(message["from"].bare)
        reason = f"bounced: {error['condition']} {error['text']}".strip()[:500]
        requeue_seconds = REQUEUE_SECONDS if error["type"] == "wait" else None
        chat = self._in_flight.get(chat_id)
        if chat is not None and (chat.conversation_id, chat.xmpp_jid) == (conversation_id, sender):
            self._bounced[chat_id] = ChatRejected(reason, requeue_seconds)
            return
        values = {"conversation_id": conversation_id, "chat_id": chat_id, "xmpp_jid": sender}
        if len(self._late) < MOST_LATE:
            self._late.append(values | {"reason": reason, "requeue_seconds": requeue_seconds})
            self._has_late.set()
