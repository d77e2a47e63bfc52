"""Other homeservers as the federation client meets them: names, addresses, TLS, answers.

    async with open_network(folder) as network:
        there = await network.serves("a.test")            # at an address of its own, port 8448
        there.answers("GET", "/_matrix/federation/v1/version", {"server": {}})
        await network.client.queries.version(ServerName("a.test"))
        assert there.seen[0].host == "a.test"

Each server has an address of 127.0.0.0/8 to itself, so that all can use the port that the
specification names.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from yizhan_config.settings import Federation
from yizhan_config.tasks import Background
from yizhan_database import Database
from yizhan_server.app import MIGRATIONS
from yizhan_server.federation_client.client import (
    FederationClient,
    NameService,
    open_federation_client,
)
from yizhan_server.federation_client.srv import SrvLookup
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.signing import SigningKey
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect, opened_fresh
from yizhan_testing.name_server import Addresses, DnsServer

JsonObject = dict[str, Any]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

OWN = ServerName("own.test")
WELL_KNOWN = "/.well-known/matrix/server"
WELL_KNOWN_PORT = 8443
"""443 is for root."""


class ManualClock:
    """Stands still unless a test moves it."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now = now_ms

    def now_ms(self) -> int:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


@dataclass(frozen=True)
class Seen:
    """A request as a server has received it."""

    method: str
    uri: str
    host: str
    sni: str | None
    authorization: str
    body: bytes


@dataclass
class RemoteServer:
    """One listener, what it answers, and what it was asked."""

    address: str
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    _handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)

    @property
    def requests(self) -> list[str]:
        """Method and target of what was asked so far."""
        return [f"{each.method} {each.uri}" for each in self.seen]

    def answers(
        self,
        method: str,
        path: str,
        content: JsonObject | list[Any] | bytes,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Answer a method and path (as sent, without query) from now on."""
        body = content if isinstance(content, bytes) else orjson.dumps(content)

        async def handler(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(
                body=body,
                status=status,
                headers={"Content-Type": "application/json"} | (headers or {}),
            )

        self.handles(method, path, handler)

    def handles(self, method: str, path: str, handler: Handler) -> None:
        """Let `handler` answer a method and path."""
        self._handlers[method, path] = handler

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record and answer a request."""
        assert request.transport is not None
        connection = request.transport.get_extra_info("ssl_object")
        self.seen.append(
            Seen(
                request.method,
                request.raw_path,
                request.headers.get("Host", ""),
                getattr(connection.context, "sni", {}).get(id(connection), None)
                if connection is not None
                else None,
                request.headers.get("Authorization", ""),
                await request.read(),
            )
        )
        handler = self._handlers.get((request.method, request.raw_path.partition("?")[0]))
        if handler is not None:
            return await handler(request)
        error = {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}
        return web.json_response(error, status=404)


@dataclass
class Network:
    """Servers, the names that lead to them, and our client in their midst."""

    authority: CertificateAuthority
    addresses: Addresses
    dns: DnsServer
    clock: ManualClock
    db: Database
    background: Background
    key: SigningKey
    client: FederationClient
    _opened: AsyncExitStack

    async def serves(
        self,
        *names: str,
        address: str | None = None,
        port: int = 8448,
        context: ssl.SSLContext | None = None,
    ) -> RemoteServer:
        """Start a server whose certificate is for `names`; they lead to its address."""
        address = address or free_address()
        for name in names:
            self.addresses.zone.setdefault(name, [address])
        server = RemoteServer(address)
        context = context or self.authority.server_context(*names)
        await self._listen(server, port, context)
        server.answers("GET", "/_matrix/federation/v1/version", {"server": {"name": names[0]}})
        return server

    async def serves_well_known(
        self, name: str, content: JsonObject | bytes, **options: Any
    ) -> RemoteServer:
        """Start the web server of a domain, which says where its Matrix server is."""
        server = await self.serves(name, port=WELL_KNOWN_PORT)
        server.answers("GET", WELL_KNOWN, content, **options)
        return server

    async def asks(self, name: str) -> str:
        """Ask a server for its version; returns its name for itself."""
        return str((await self.client.queries.version(ServerName(name)))["server"]["name"])

    async def background_work(self) -> None:
        """Wait until what the client has started in the background is done."""
        while self.background.names:  # noqa: ASYNC110 (nobody else is told)
            await asyncio.sleep(0)

    async def _listen(self, server: RemoteServer, port: int, context: ssl.SSLContext) -> None:
        names: dict[int, str | None] = {}

        def remember(
            connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: object
        ) -> None:
            names[id(connection)] = name

        context.sni_callback = remember
        context.sni = names  # type: ignore[attr-defined]
        runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        self._opened.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, server.address, port, ssl_context=context).start()


def free_address() -> str:
    """Return an address of the loopback that most probably nobody else uses."""
    return ".".join(("127", *(str(random.randint(1, 254)) for _ in range(3))))


@asynccontextmanager
async def open_network(
    folder: Path, dialect: Dialect = "sqlite", **settings: Any
) -> AsyncIterator[Network]:
    """Open a network without servers; `settings` are those of `[federation]`."""
    authority = CertificateAuthority(folder)
    addresses, clock = Addresses(), ManualClock()
    chosen: dict[str, Any] = {
        "allow": ("*",),
        "private_addresses": ("127.0.0.0/8", "::1"),
        "trusted_ca_files": (authority.file,),
        "timeout_seconds": 10,
        **settings,
    }
    key = SigningKey.generate("test")
    async with AsyncExitStack() as stack:
        dns = await stack.enter_async_context(DnsServer.open())
        db = await stack.enter_async_context(opened_fresh(dialect, MIGRATIONS, folder))
        background = await stack.enter_async_context(Background())
        client = await stack.enter_async_context(
            open_federation_client(
                Federation(**chosen),
                OWN,
                key,
                db,
                clock,
                background,
                NameService(addresses, SrvLookup(dns.resolver()), WELL_KNOWN_PORT),
            )
        )
        opened = await stack.enter_async_context(AsyncExitStack())
        yield Network(authority, addresses, dns, clock, db, background, key, client, opened)
