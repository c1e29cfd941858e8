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

from relay.channels import BACKOFF_SECONDS, Outcome, Refused, Trouble
from relay.database import Database, Row
from relay.xmpp_inbox import PREFIX, RECEIPTS, Inbox, conversation_of, number
from relay.xmpp_link import Link
from sql.backoff import backoff_seconds
from sql.database import query
from sql.fields import LARGEST_CHAT_ID
from sql.jid import bare_jid
from sql.log import Log
from sql.settings import XmppComponent
from sql.shapes import instant

log = Log("relay")

BATCH = 50  # chats before a ping, and so the most that a cut connection repeats
IDLE_SECONDS = 30.0  # between pings while there is nothing to send
AGAIN_SECONDS = 300.0  # until a chat that came back as "not now" is sent once more
DRAIN_SECONDS = 1.0
MOST_LATE = 10_000  # bounces waiting to be noted

# What XML 1.0 cannot carry. The control characters that it can, it carries as they are.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# The stream errors that are about what was sent just before: too long, or not to the server's liking.
FAULTS = {"bad-format", "invalid-xml", "not-well-formed", "policy-violation", "restricted-xml", "unsupported-encoding"}


class Xmpp:
    """The server, with all its users and those of the servers that it knows."""

    stays = True
    batch = BATCH
    reads = query("read_log_for_xmpp")

    def __init__(self, component: XmppComponent, database: Database) -> None:
        self._component, self._database = component, database
        self._inbox = Inbox(database)
        self._link: Link | None = None
        self._flying: dict[int, Row] = {}  # the chats sent since the last ping was answered, by id
        self._came_back: dict[int, Refused] = {}  # of these, those that bounced
        self._late: list[dict[str, Any]] = []  # bounces of chats that have counted as delivered
        self._bounced = asyncio.Event()

    async def open(self, settings: dict[str, Any]) -> None:
        """Connects; from then on messages come in too."""
        self._link = link = Link(self._component, self._take)
        await link.up()
        log("connected", component=self._component.jid)

    async def close(self) -> None:
        """Takes in what has come, and ends the stream."""
        link, self._link = self._link, None
        if link is not None:
            await self._inbox.drain(DRAIN_SECONDS)
            await link.close()
            await self._inbox.drain(DRAIN_SECONDS)

    def backoff_seconds(self, attempts: int) -> float:
        """Never gives up: it is the house's own server."""
        return backoff_seconds(attempts, *BACKOFF_SECONDS)

    async def deliver(self, chats: Sequence[Row], attempts: int, outcome: Outcome) -> None:
        """Sends the chats and then a ping: its answer says that the server has them all.

        After a failure one by one, so that a chat at whose sight the server ends the stream is found and given up.
        """
        await self._note_late()
        step = 1 if attempts else BATCH
        for start in range(0, len(chats), step):
            if outcome.stopped:
                break
            own = chats[start : start + step]
            try:
                await self._confirmed(own, outcome)
            except Trouble as trouble:
                outcome.trouble = trouble
                condition = self._link.condition if self._link else ""
                if len(own) == 1 and condition in FAULTS:
                    outcome.refused[own[0].position] = Refused(str(trouble))
                break

    async def _confirmed(self, chats: Sequence[Row], outcome: Outcome) -> None:
        """Sends these and waits for the server. Raises Trouble."""
        link = self._link
        assert link is not None
        self._flying, self._came_back = {}, {}
        for chat in chats:
            try:
                message = self._message(link, chat)
            except InvalidJID as error:
                outcome.refused[chat.position] = Refused(f"{chat.xmpp_jid} is no address: {error}")
                continue
            self._flying[chat.chat_id] = chat
            link.send(message)
        await link.ping()
        for chat_id, chat in self._flying.items():
            if chat_id in self._came_back:
                outcome.refused[chat.position] = self._came_back[chat_id]
            else:
                outcome.done.add(chat.position)
        self._flying = {}

    def _message(self, link: Link, chat: Row) -> Message:
        """The chat as a message to the other party, known by the chat's id. Raises InvalidJID."""
        address = f"{PREFIX}{chat.conversation_id}@{self._component.jid}"
        if not chat.xmpp_jid:
            raise InvalidJID("the other party has none any more")
        message = link.message(chat.xmpp_jid, address, str(chat.chat_id))
        message["body"] = NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", chat.payload)
        ET.SubElement(message.xml, "{urn:xmpp:sid:0}origin-id", id=str(chat.chat_id))
        ET.SubElement(message.xml, f"{{{RECEIPTS}}}request")
        if chat.was_held:  # XEP-0203: when it was written
            stamp = {"from": address, "stamp": str(instant(chat.created_at))}
            ET.SubElement(message.xml, "{urn:xmpp:delay}delay", stamp)
        return message

    async def lost(self) -> None:
        """Notes bounces that come late, and pings now and then, meanwhile."""
        link = self._link
        assert link is not None
        while True:
            await self._note_late()
            waits = [asyncio.ensure_future(event.wait()) for event in (link.gone, self._bounced)]
            try:
                done, _ = await asyncio.wait(waits, timeout=IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if not done or link.gone.is_set():
                await link.ping()

    async def _note_late(self) -> None:
        """Makes dead letters of the chats that came back after they had counted as delivered."""
        self._bounced.clear()
        while self._late:
            await self._database.rows(query("bounced_on_xmpp"), **self._late[0])
            self._late.pop(0)

    def _take(self, message: Message) -> None:
        """A message that has come."""
        link = self._link
        if link is None:
            return
        with contextlib.suppress(ValueError):  # an address that can be nobody's: nobody to answer to
            if message["type"] == "error":
                self._take_back(message)
            else:
                self._inbox.take(link, message)

    def _take_back(self, message: Message) -> None:
        """A message of ours that has come back (or what somebody makes look like one)."""
        conversation_id, chat_id = conversation_of(message["to"].node), number(message["id"], LARGEST_CHAT_ID)
        if conversation_id is None or chat_id is None:
            return
        error, sender = message["error"], bare_jid(message["from"].bare)
        reason = f"came back: {error['condition']} {error['text']}".strip()[:500]
        again = AGAIN_SECONDS if error["type"] == "wait" else None
        chat = self._flying.get(chat_id)
        if chat is not None and (chat.conversation_id, chat.xmpp_jid) == (conversation_id, sender):
            self._came_back[chat_id] = Refused(reason, again)
            return
        values = {"conversation_id": conversation_id, "chat_id": chat_id, "xmpp_jid": sender}
        if len(self._late) < MOST_LATE:
            self._late.append(values | {"reason": reason, "requeue_seconds": again})
            self._bounced.set()
