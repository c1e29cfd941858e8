"""A real XMPP server for one test, users on it with an independent client, and a connection that can be cut."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from slixmpp import ClientXMPP, Message
from slixmpp.xmlstream import ET
from slixmpp.xmlstream.handler import Callback
from slixmpp.xmlstream.matcher import MatchXPath

from tests.support.processes import Process, eventually, free_port

COMPONENT, SECRET = "chat.localhost", "p/w: 1"

CONFIG = """
run_as_root = true
pidfile = "{folder}/pid"
data_path = "{folder}/data"
interfaces = {{ "127.0.0.1" }}
component_interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {c2s} }}
component_ports = {{ {port} }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
modules_enabled = {{ "roster", "saslauth", "disco", "ping", "carbons", "presence", "message", "offline" }}
modules_disabled = {{ "s2s", "tls" }}
log = {{ {{ levels = {{ min = "info" }}, to = "console" }} }}
{more}
VirtualHost "localhost"
Component "{component}"
  component_secret = "{secret}"
"""


class Prosody:
    """The server. It can be killed and started again; it keeps its users and their offline messages."""

    def __init__(self, folder: Path, more: str = "") -> None:
        program = shutil.which("prosody")
        if program is None:
            if os.environ.get("CI"):
                pytest.fail("prosody is not installed")
            pytest.skip("prosody is not installed")
        self._program, self._folder = program, folder
        self.c2s, self.port = free_port(), free_port()
        config = CONFIG.format(
            folder=folder, c2s=self.c2s, port=self.port, component=COMPONENT, secret=SECRET, more=more
        )
        (folder / "prosody.cfg.lua").write_text(config)
        (folder / "data" / "localhost" / "accounts").mkdir(parents=True)
        (folder / "certs").mkdir()
        for name in ("ann", "olga", "mallory", "j%c3%bcrgen"):
            account = folder / "data" / "localhost" / "accounts" / f"{name}.dat"
            account.write_text('return { ["password"] = "secret" };\n')

    def start(self) -> None:
        command = [self._program, "--config", str(self._folder / "prosody.cfg.lua"), "-F"]
        self.process = Process(command, {})
        eventually(lambda: accepts(self.port) and accepts(self.c2s))

    def kill(self) -> None:
        self.process.popen.kill()
        self.process.popen.wait()

    def setting(self, port: int | None = None) -> str:
        """XMPP_COMPONENT, with another port if one is given."""
        return f"xmpp://{COMPONENT}:p%2Fw%3A%201@127.0.0.1:{port or self.port}"


def accepts(port: int) -> bool:
    """Whether a server accepts connections at the port."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return True
    time.sleep(0.02)
    return False


class User:
    """A user with an ordinary client, in a thread of its own."""

    def __init__(self, prosody: Prosody, jid: str) -> None:
        self.got: list[Message] = []  # messages with a body, except errors, in the order of arrival
        self.errors: list[Message] = []
        self.receipts: list[str] = []  # the ids of the messages that they acknowledge
        self.carbons: list[str] = []  # bodies of the messages that the user's other devices have sent
        self.answers_receipts = True
        self._prosody, self._jid = prosody, jid
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._connect())

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _connect(self) -> None:
        self._xmpp = xmpp = ClientXMPP(self._jid, "secret")
        xmpp.enable_starttls = xmpp.enable_direct_tls = False
        xmpp.enable_plaintext = True
        mechanisms = xmpp.plugin["feature_mechanisms"]
        mechanisms.unencrypted_plain = mechanisms.unencrypted_scram = True
        xmpp.register_plugin("xep_0280")
        xmpp.register_handler(Callback("all", MatchXPath("{jabber:client}message"), self._take))
        here = asyncio.get_running_loop().create_future()
        xmpp.add_event_handler("session_start", lambda _: here.done() or here.set_result(None))
        xmpp.add_event_handler("carbon_sent", lambda message: self._note(message["carbon_sent"]))
        xmpp.connect("127.0.0.1", self._prosody.c2s)
        await asyncio.wait_for(here, 20)
        await xmpp.plugin["xep_0280"].enable()
        xmpp.send_presence()

    def _note(self, message: Message) -> None:
        if message["body"]:
            self.carbons.append(message["body"])

    def _take(self, message: Message) -> None:
        received = message.xml.find("{urn:xmpp:receipts}received")
        if message["type"] == "error":
            self.errors.append(message)
        elif received is not None:
            self.receipts.append(received.get("id", ""))
        elif message["body"]:
            self.got.append(message)
            if self.answers_receipts and message.xml.find("{urn:xmpp:receipts}request") is not None:
                self._send_now(message["from"], None, ("{urn:xmpp:receipts}received", {"id": message["id"]}))

    def _send_now(self, to: Any, body: str | None, *children: tuple[str, dict[str, str]], **attributes: str) -> None:
        message = self._xmpp.make_message(mto=to, mtype="chat")
        if body is not None:
            message["body"] = body
        for name, value in attributes.items():
            message.xml.set(name, value)
        for tag, values in children:
            ET.SubElement(message.xml, tag, values)
        self._xmpp.send(message)

    def send(self, to: Any, body: str | None, *children: tuple[str, dict[str, str]], **attributes: str) -> None:
        """Sends a message to an address, or to a conversation by its id."""
        address = f"conversation-{to}@{COMPONENT}" if isinstance(to, int) else to

        async def send() -> None:
            self._send_now(address, body, *children, **attributes)

        self._do(send())

    def close(self) -> None:
        async def close() -> None:
            await asyncio.wait_for(self._xmpp.disconnect(wait=2, ignore_send_queue=True), 10)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def bodies(self) -> list[str]:
        return [message["body"] for message in self.got]

    def check(self, conversations: dict[int, int]) -> None:
        """Asserts that each conversation has all its chats (the text is the seq); a repeat has the same id and text."""
        order: dict[str, list[int]] = defaultdict(list)
        by_id: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for message in list(self.got):
            address, seq = message["from"].bare, int(message["body"])
            by_id[message["id"]].add((address, message["body"]))
            if seq > max(order[address], default=0):
                order[address].append(seq)
        wanted = {f"conversation-{c}@{COMPONENT}": list(range(1, last + 1)) for c, last in conversations.items()}
        assert order == wanted
        assert all(len(content) == 1 for content in by_id.values())
        assert len(by_id) == sum(conversations.values())

    def has_all(self, conversations: dict[int, int]) -> bool:
        return len({message["id"] for message in list(self.got)}) == sum(conversations.values())


class Cutter:
    """A proxy to a port. It cuts each of the first connections after the given number of bytes from the relay."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._port, self.cuts, self.connections = port, list(cuts), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            left = self.cuts.pop(0) if self.cuts else 10**12
            outer = socket.create_connection(("127.0.0.1", self._port))
            threading.Thread(target=self._pump, args=(inner, outer, left), daemon=True).start()
            threading.Thread(target=self._pump, args=(outer, inner, 10**12), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, left: int) -> None:
        try:
            while left > 0 and (data := source.recv(min(left, 65536))):
                sink.sendall(data)
                left -= len(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def close(self) -> None:
        self._listener.close()
