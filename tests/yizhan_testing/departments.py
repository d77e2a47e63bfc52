"""Several homeservers in the test's own loop that federate with one another over real TLS.

    async with departments(folder, dialect, 2) as (a, b):
        alice, bob = await a.person("alice"), await b.person("bob")

Each is named by an address and a port, so that it is found without names being looked up. All are
in one process: an event that one of them acknowledges reaches the others over HTTP all the same.
"""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from yizhan_config.settings import Settings
from yizhan_server.app import MIGRATIONS, assembled
from yizhan_server.app import Homeserver as Parts
from yizhan_server.clock import Clock, SystemClock
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect, opened_fresh
from yizhan_testing.homeserver import HomeserverInProcess, settings_for


class Door:
    """Where other servers come in; it can be closed and opened again, as by a broken line."""

    def __init__(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        bound: socket.socket,
        context: ssl.SSLContext,
    ) -> None:
        self._answer = answer
        self._bound: socket.socket | None = bound
        self._address = bound.getsockname()
        self._context = context
        self._runner: web.ServerRunner | None = None
        self.asked: list[str] = []
        """The paths that other servers have asked for."""

    async def opens(self) -> None:
        bound, self._bound = self._bound, None
        if bound is None:
            bound = socket.socket()
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(self._address)
        self._runner = web.ServerRunner(web.Server(self._let_in), shutdown_timeout=1)
        await self._runner.setup()
        await web.SockSite(self._runner, bound, ssl_context=self._context).start()

    async def closes(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _let_in(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        return await self._answer(request)


class Department(HomeserverInProcess):
    """One of several homeservers."""

    def __init__(
        self,
        base_url: str,
        settings: Settings,
        http: aiohttp.ClientSession,
        parts: Parts,
        door: Door,
    ) -> None:
        super().__init__(base_url, settings, http, parts)
        self.door = door


def free_sockets(count: int) -> list[socket.socket]:
    """Return sockets bound to free ports of the loopback, which nobody else gets meanwhile."""
    sockets = []
    for _ in range(count):
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        # Connections inherit it; those that have not ended yet would keep the port from `Door`.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sockets.append(bound)
    return sockets


@asynccontextmanager
async def departments(
    folder: Path,
    dialect: Dialect = "sqlite",
    count: int = 2,
    /,
    clock: Clock | None = None,
    **overrides: object,
) -> AsyncIterator[list[HomeserverInProcess]]:
    """Run homeservers that list one another, until the block ends."""
    async with departments_with_doors(folder, dialect, count, clock, **overrides) as servers:
        yield list(servers)


@asynccontextmanager
async def departments_with_doors(
    folder: Path,
    dialect: Dialect = "sqlite",
    count: int = 2,
    /,
    clock: Clock | None = None,
    **overrides: object,
) -> AsyncIterator[list[Department]]:
    """Run homeservers that list one another and whose doors can be closed."""
    authority = CertificateAuthority(folder)
    sockets = free_sockets(count)
    names = [f"127.0.0.1:{bound.getsockname()[1]}" for bound in sockets]
    async with AsyncExitStack() as stack:
        servers = []
        for number, (name, bound) in enumerate(zip(names, sockets, strict=True)):
            own = folder / f"department-{number}"
            own.mkdir()
            server = department(
                own, dialect, name, bound, authority, names, clock or SystemClock(), overrides
            )
            servers.append(await stack.enter_async_context(server))
        yield servers


@asynccontextmanager
async def department(
    folder: Path,
    dialect: Dialect,
    name: str,
    bound: socket.socket,
    authority: CertificateAuthority,
    names: list[str],
    clock: Clock,
    overrides: dict[str, object],
) -> AsyncIterator[Department]:
    """Run one homeserver on its socket."""
    settings = settings_for(
        folder,
        **{
            "server_name": name,
            "federation.allow": [other for other in names if other != name],
            "federation.private_addresses": ["127.0.0.1"],
            "federation.trusted_ca_files": [str(authority.file)],
            **overrides,
        },
    )
    async with (
        opened_fresh(dialect, MIGRATIONS, folder, random.Random(name)) as db,
        assembled(settings, db, clock) as parts,
        aiohttp.ClientSession() as http,
    ):
        runner = web.ServerRunner(web.Server(parts.wrapper), shutdown_timeout=1)
        door = Door(parts.wrapper, bound, authority.server_context("127.0.0.1"))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            await door.opens()
            yield Department(f"http://{host}:{port}", settings, http, parts, door)
        finally:
            parts.stream.close()
            await door.closes()
            await runner.cleanup()
