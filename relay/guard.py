"""Connecting only to public addresses (protection against server-side request forgery).

A store chooses its webhook's URL, and the relay runs inside the private network, so it must not be led to hosts that
are reachable only from there. The name is resolved here, every address is checked, and the connection goes to the
very address that was checked: a name that resolves differently the second time (DNS rebinding) gains nothing. TLS
still verifies the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IPv6 addresses that are translated to an IPv4 address somewhere on the way: it is not known where they lead.
TRANSLATED = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]


def is_public(address: Address) -> bool:
    """Whether the address is globally reachable, and the same host from everywhere."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in TRANSLATED):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class GuardedNetwork(httpcore.AnyIOBackend):
    """httpcore's network backend, with its own name resolution and address check."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._lookups: dict[tuple[str, int], asyncio.Future[Any]] = {}  # on their way

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to the first address of the host that answers. Raises httpcore.ConnectError."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await self._addresses(host, port):
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = httpcore.ConnectError(f"cannot connect to {host}: {error or type(error).__name__}")
        raise failure

    def _look_up(self, host: str, port: int) -> asyncio.Future[Any]:
        """One look-up at a time per host: until the server answers, it occupies one of all channels' few threads."""
        if (host, port) not in self._lookups:
            self._lookups[host, port] = asyncio.ensure_future(self._resolve(host, port))
        return self._lookups[host, port]

    async def _resolve(self, host: str, port: int) -> Any:
        try:
            return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        finally:
            del self._lookups[host, port]

    async def _addresses(self, host: str, port: int) -> list[str]:
        """All addresses of the host. Raises ConnectError if one of them is private: such an answer may be an attack."""
        try:
            found = await asyncio.shield(self._look_up(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"cannot resolve {host}: {error}") from None
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._allow_private:
            for address in addresses:
                if not is_public(ipaddress.ip_address(address.partition("%")[0])):
                    raise httpcore.ConnectError(f"{host} is {address}, which is not a public address")
        return addresses
