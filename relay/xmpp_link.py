"""One connection to an XMPP server as its component (XEP-0114). It is never reopened: the next one is a new Link."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from slixmpp import Message
from slixmpp.componentxmpp import ComponentXMPP
from slixmpp.exceptions import IqError, IqTimeout
from slixmpp.xmlstream import ET
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from relay.transport import DeliveryError
from sql.settings import XmppComponent

CONNECT_SECONDS = 10.0
PING_SECONDS = 15.0
CLOSE_SECONDS = 1.0

logging.getLogger("slixmpp").setLevel(logging.CRITICAL)  # the channel logs its errors, in one line each


class Link:
    """The connection. It calls `take` for each message that arrives, in order."""

    def __init__(self, component: XmppComponent, take: Callable[[Any], None]) -> None:
        self._component = component
        self.closed = asyncio.Event()
        self.condition = ""  # of the stream error with which the server ended the stream, if any
        self._reason = "the connection was lost"
        self._ready = asyncio.Event()
        self._xmpp = ComponentXMPP(component.jid, component.secret, component.host, component.port, fix_error_ns=True)
        self._xmpp.remove_handler("Presence")  # we keep no roster, so strangers cannot fill one
        self._xmpp.register_plugin("xep_0030")  # answers service discovery; the next one answers pings
        self._xmpp.register_plugin("xep_0199")
        self._xmpp.register_handler(Callback("message", MatchXPath(f"{{{self._xmpp.default_ns}}}message"), take))
        self._xmpp.add_event_handler("session_start", lambda _: self._ready.set())
        self._xmpp.add_event_handler("stream_error", self._note_error)
        self._xmpp.add_event_handler("disconnected", self._note_loss)
        self._xmpp.add_event_handler("connection_failed", self._note_loss)

    def _note_error(self, error: Any) -> None:
        self.condition = error["condition"]
        self._reason = f"the server ended the stream: {self.condition} {error['text']}".strip()

    def _note_loss(self, reason: object) -> None:
        if reason and not self.condition and str(reason) != "End of stream":
            self._reason = str(reason)
        self.closed.set()

    async def connect(self) -> None:
        """Raises DeliveryError if the server does not accept the component within 10 s."""
        self._xmpp.connect()
        try:
            await self._wait_for(self._ready.wait(), CONNECT_SECONDS)
        except TimeoutError:
            raise DeliveryError(f"no answer from the XMPP server within {CONNECT_SECONDS:g} s") from None

    def message(self, to: str, sender: str, message_id: str, kind: str = "chat") -> Message:
        """An empty message for send(). Raises slixmpp.jid.InvalidJID."""
        message = Message(self._xmpp)
        message["to"], message["from"], message["id"], message["type"] = to, sender, message_id, kind
        return message

    def send(self, message: Message) -> None:
        """Sends the message, in order, without waiting. Raises DeliveryError."""
        self._raise_if_lost()
        self._xmpp.send(message)

    def _raise_if_lost(self) -> None:
        """Raises DeliveryError when the connection is lost: the library would keep stanzas for the next connection."""
        if self.closed.is_set():
            raise DeliveryError(self._reason)

    async def ping(self) -> None:
        """Returns once the server has received everything that was sent before. Raises DeliveryError.

        This is an XEP-0199 ping to the component itself: it goes through the server, which handles the stanzas of a
        component in order, and the server's own name need not be known.
        """
        self._raise_if_lost()
        iq = self._xmpp.make_iq_get(ito=self._component.jid, ifrom=self._component.jid)
        iq.append(ET.Element("{urn:xmpp:ping}ping"))
        try:
            await self._wait_for(iq.send(timeout=PING_SECONDS), PING_SECONDS)
        except (IqTimeout, TimeoutError):
            raise DeliveryError(f"no answer to a ping within {PING_SECONDS:g} s") from None
        except IqError as error:
            raise DeliveryError(f"a ping was answered with the error {error.condition}") from None

    async def _wait_for(self, awaitable: Any, seconds: float) -> None:
        """Waits. Raises DeliveryError when the connection is lost first, TimeoutError after this many seconds."""
        waiting = asyncio.ensure_future(awaitable)
        lost = asyncio.ensure_future(self.closed.wait())
        try:
            await asyncio.wait({waiting, lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
            elif lost.done():
                raise DeliveryError(self._reason)
            else:
                raise TimeoutError
        finally:
            for task in (waiting, lost):
                task.cancel()

    async def close(self) -> None:
        """Ends the stream properly, or aborts the connection after a second."""
        self._xmpp.cancel_connection_attempt()
        if self._xmpp.is_connected():
            self._xmpp.disconnect(wait=CLOSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.closed.wait(), 2 * CLOSE_SECONDS)
            self._xmpp.abort()
        self.closed.set()
        if self._xmpp._run_out_filters is not None:
            self._xmpp._run_out_filters.cancel()  # slixmpp keeps this task for a reconnect, which we never request
