"""One connection to an XMPP server as its component (XEP-0114): it is made once, and once it is lost it is over."""

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

from relay.channels import Trouble
from sql.settings import XmppComponent

CONNECT_SECONDS = 10.0
PING_SECONDS = 15.0
CLOSE_SECONDS = 1.0

logging.getLogger("slixmpp").setLevel(logging.CRITICAL)  # what goes wrong there is logged by the channel, in one line


class Link:
    """The connection. `take` is called for each message that comes, in order."""

    def __init__(self, component: XmppComponent, take: Callable[[Any], None]) -> None:
        self._component = component
        self.gone = asyncio.Event()
        self.condition = ""  # what the server's last word was, if it had one: a stream error's name
        self._reason = "the connection was lost"
        self._ready = asyncio.Event()
        self._xmpp = ComponentXMPP(component.jid, component.secret, component.host, component.port, fix_error_ns=True)
        self._xmpp.remove_handler("Presence")  # we keep no roster, and so nothing that strangers fill
        self._xmpp.register_plugin("xep_0030")  # it says what it is, and answers pings
        self._xmpp.register_plugin("xep_0199")
        self._xmpp.register_handler(Callback("message", MatchXPath(f"{{{self._xmpp.default_ns}}}message"), take))
        self._xmpp.add_event_handler("session_start", lambda _: self._ready.set())
        self._xmpp.add_event_handler("stream_error", self._noted)
        self._xmpp.add_event_handler("disconnected", self._lost)
        self._xmpp.add_event_handler("connection_failed", self._lost)

    def _noted(self, error: Any) -> None:
        self.condition = error["condition"]
        self._reason = f"the server says {self.condition} {error['text']}".strip()

    def _lost(self, reason: object) -> None:
        if reason and not self.condition and str(reason) != "End of stream":
            self._reason = str(reason)
        self.gone.set()

    async def up(self) -> None:
        """Connects. Raises Trouble."""
        self._xmpp.connect()
        try:
            await self._or_gone(self._ready.wait(), CONNECT_SECONDS)
        except TimeoutError:
            raise Trouble(f"no answer from the XMPP server within {CONNECT_SECONDS:g} s") from None

    def message(self, to: str, sender: str, message_id: str, kind: str = "chat") -> Message:
        """A message to be filled and given to send(). Raises slixmpp.jid.InvalidJID."""
        message = Message(self._xmpp)
        message["to"], message["from"], message["id"], message["type"] = to, sender, message_id, kind
        return message

    def send(self, message: Message) -> None:
        """Gives it to the connection, at once and in order. Raises Trouble."""
        self._insist()
        self._xmpp.send(message)

    def _insist(self) -> None:
        """Raises Trouble when the connection is lost: the library would keep what is sent, for another one."""
        if self.gone.is_set():
            raise Trouble(self._reason)

    async def ping(self) -> None:
        """Returns once the server has taken all that was sent before. Raises Trouble.

        By an XEP-0199 ping to the component itself: it goes by way of the server, which takes what a component sends
        one after the other, whatever its own name is.
        """
        self._insist()
        iq = self._xmpp.make_iq_get(ito=self._component.jid, ifrom=self._component.jid)
        iq.append(ET.Element("{urn:xmpp:ping}ping"))
        try:
            await self._or_gone(iq.send(timeout=PING_SECONDS), PING_SECONDS)
        except (IqTimeout, TimeoutError):
            raise Trouble(f"no answer to a ping within {PING_SECONDS:g} s") from None
        except IqError as error:
            raise Trouble(f"a ping was answered {error.condition}") from None

    async def _or_gone(self, wanted: Any, seconds: float) -> None:
        """Waits for what is wanted. Raises Trouble when the connection is lost first, TimeoutError after so long."""
        waiting = asyncio.ensure_future(wanted)
        lost = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait({waiting, lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
            elif lost.done():
                raise Trouble(self._reason)
            else:
                raise TimeoutError
        finally:
            for task in (waiting, lost):
                task.cancel()

    async def close(self) -> None:
        """Ends the stream as it should be ended, or after a second as it can."""
        self._xmpp.cancel_connection_attempt()
        if self._xmpp.is_connected():
            self._xmpp.disconnect(wait=CLOSE_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gone.wait(), 2 * CLOSE_SECONDS)
            self._xmpp.abort()
        self.gone.set()
        if self._xmpp._run_out_filters is not None:
            self._xmpp._run_out_filters.cancel()  # slixmpp keeps it for a reconnect, which we never ask for
