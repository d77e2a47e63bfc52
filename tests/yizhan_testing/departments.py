"""Several homeservers in the test's own loop that federate with one another over real TLS.

    async with departments(folder, dialect, 2) as (a, b):
        alice, bob = await a.person("alice"), await b.person("bob")

Each is named by an address and a port, so that it is found without names being looked up. All are
in one process: an event that one of them acknowledges reaches the others over HTTP all the same.
"""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from yizhan_server.app import MIGRATIONS, assembled
from yizhan_server.clock import Clock, SystemClock
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect, opened_fresh
from yizhan_testing.homeserver import HomeserverInProcess, settings_for


def free_sockets(count: int) -> list[socket.socket]:
    """Return sockets bound to free ports of the loopback, which nobody else gets meanwhile."""
    sockets = []
    for _ in range(count):
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
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
) -> AsyncIterator[HomeserverInProcess]:
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
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            context = authority.server_context("127.0.0.1")
            await web.SockSite(runner, bound, ssl_context=context).start()
            yield HomeserverInProcess(f"http://{host}:{port}", settings, http, parts)
        finally:
            parts.stream.close()
            await runner.cleanup()
