"""From which address a request really comes, when reverse proxies stand before us."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from aiohttp import web

UNKNOWN = "-"


class ClientAddresses:
    """Believes `X-Forwarded-For` of the configured proxies, and of nobody else."""

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in trusted_proxies]

    def of(self, request: web.BaseRequest) -> str:
        """Return the client's address, `-` where there is none (a Unix socket)."""
        peer = request.remote
        if peer is None:
            return UNKNOWN
        if not self._trusted or not self._is_trusted(peer):
            return peer
        # The proxies append: the last address that is not a proxy of ours is the client.
        named = request.headers.get("X-Forwarded-For", "")
        for address in reversed([each.strip() for each in named.split(",")]):
            if address and not self._is_trusted(address):
                return peer if _parse(address) is None else address
        return peer

    def limited(self, request: web.BaseRequest) -> str:
        """Return what the requests of this client are counted by.

        Whoever has one IPv6 address has 2^64 of them: their network is one client.
        """
        address = self.of(request)
        parsed = _parse(address)
        if not isinstance(parsed, ipaddress.IPv6Address) or parsed.ipv4_mapped is not None:
            return address
        return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"

    def _is_trusted(self, address: str) -> bool:
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._trusted)


@lru_cache(1024)
def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    # Kept: each request asks, and most come from few addresses.
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
