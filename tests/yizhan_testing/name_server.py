"""Name servers of a test: addresses for the HTTP client, SRV records over real DNS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override


class Addresses(AbstractResolver):
    """Answers with the addresses that a test has given to names."""

    def __init__(self) -> None:
        self.zone: dict[str, list[str]] = {}
        self.asked: list[str] = []

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if host not in self.zone:
            raise OSError("no such name")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in self.zone[host]
        ]

    @override
    async def close(self) -> None:
        pass


class DnsServer(asyncio.DatagramProtocol):
    """Serves SRV records on a free UDP port of the loopback."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        """By name: `PRIORITY WEIGHT PORT TARGET.`, as a zone file has it."""
        self.ttl = 300
        self.failing = False
        self.asked: list[str] = []
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[DnsServer]:
        """Serve until the block ends."""
        loop = asyncio.get_running_loop()
        transport, server = await loop.create_datagram_endpoint(cls, local_addr=("127.0.0.1", 0))
        server.port = transport.get_extra_info("sockname")[1]
        try:
            yield server
        finally:
            transport.close()

    def resolver(self) -> dns.asyncresolver.Resolver:
        """Return a resolver that asks this server and nobody else."""
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self.port
        return resolver

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own are not all instances of the class that its documentation names.
        self._transport = cast("asyncio.DatagramTransport", transport)

    @override
    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        name = query.question[0].name
        self.asked.append(name.to_text(omit_final_dot=True))
        records = self.records.get(self.asked[-1])
        if self.failing:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif records is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            answer.answer.append(
                dns.rrset.from_text(name, self.ttl, "IN", dns.rdatatype.SRV, *records)
            )
        self._transport.sendto(answer.to_wire(), addr)
