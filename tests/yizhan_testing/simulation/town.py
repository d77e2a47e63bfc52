"""Five homeservers with two people on each, ready to be simulated.

Accounts are made once and copied for each simulation: passwords are expensive on purpose.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast

import aiohttp

from yizhan_config.settings import Settings
from yizhan_database import Database, open_database
from yizhan_server.app import MIGRATIONS, assembled
from yizhan_testing.databases import EmbeddedPostgres
from yizhan_testing.homeserver import HomeserverInProcess, Person, settings_for
from yizhan_testing.simulation.inline_writer import freeze
from yizhan_testing.simulation.network import ClientLine, Network, serving
from yizhan_testing.simulation.virtual_time import VirtualClock

SERVERS = 5
NAMES = [f"192.0.2.{number}:8448" for number in range(1, SERVERS + 1)]
"""Names that are addresses are not looked up."""

PEOPLE = ("ann", "ben")


class Server:
    """One of them. It can be ended, also by force, and started again on what its disk has."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        network: Network,
        clock: VirtualClock,
        restless: Random | None = None,
    ) -> None:
        self.server_name = settings.server_name
        self.people: list[Person] = []
        self._settings = settings
        self._url = url
        self._network = network
        self._clock = clock
        self._restless = restless
        self._db: Database | None = None
        self._running: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def db(self) -> Database:
        """Its database, while it runs."""
        assert self._db is not None, "it does not run"
        return self._db

    async def start(self) -> None:
        """Start it."""
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        # A task of its own: whatever the server does in the background bears its name.
        self._running = loop.create_task(self._run(started))
        await asyncio.wait([started, self._running], return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            self._running.result()

    async def _run(self, started: asyncio.Future[None]) -> None:
        serving.set(self.server_name)
        self._db = await open_database(self._url, MIGRATIONS, restless=self._restless)
        self._ended.clear()
        try:
            async with assembled(self._settings, self._db, self._clock) as parts:
                self.homeserver = HomeserverInProcess(
                    f"http://{self.server_name}", self._settings, self.http, parts
                )
                requests = parts.federation_client.requests
                self._network.connect(self.server_name, parts.wrapper, requests)
                started.set_result(None)
                await self._ended.wait()
        finally:
            await self._db.close()
            self._db = None

    @property
    def http(self) -> aiohttp.ClientSession:
        """How people reach it."""
        return cast("aiohttp.ClientSession", ClientLine(self._network))

    async def end(self, *, by_force: bool = False) -> None:
        """End it: nobody reaches it, and its memory is lost.

        By force, nothing of it happens any more, and what is not durable is lost as well.
        """
        if self._running is None:
            return
        if by_force:
            freeze(self.db)
        else:
            self.homeserver.parts.stream.close()
        await self._network.disconnect(self.server_name, patience_s=0 if by_force else 10)
        self._ended.set()
        await self._running
        self._running = None


class Town:
    """Keeps databases with accounts in them: in `folder`, or in a PostgreSQL server."""

    def __init__(self, folder: Path, postgres: EmbeddedPostgres | None = None) -> None:
        self._folder = folder
        self._postgres = postgres
        self._people: dict[str, list[Person]] = {}

    async def build(self, clock: VirtualClock) -> None:
        """Make the accounts."""
        for name in NAMES:
            settings = _settings(self._folder / "template", name)
            url = await self._url(settings, "town", "template1")
            server = Server(settings, url, Network(Random(0)), clock)
            await server.start()
            self._people[name] = [await server.homeserver.person(each) for each in PEOPLE]
            await server.end()

    @asynccontextmanager
    async def opened(
        self, seed: int, network: Network, clock: VirtualClock
    ) -> AsyncIterator[list[Server]]:
        """Run copies of all servers."""
        folder = self._folder / str(seed)
        shutil.copytree(self._folder / "template", folder)
        servers = []
        try:
            for name in NAMES:
                settings = _settings(folder, name)
                url = await self._url(settings, f"seed{seed}", "town")
                server = Server(settings, url, network, clock, Random(f"{seed} {name}"))
                await server.start()
                server.people = [replace(each, http=server.http) for each in self._people[name]]
                servers.append(server)
            yield servers
        finally:
            for server in servers:
                await server.end()
                if self._postgres is not None:
                    await self._postgres.drop(_database(f"seed{seed}", server.server_name))
            shutil.rmtree(folder)

    async def _url(self, settings: Settings, which: str, template: str) -> str:
        """Return the URL of a server's database."""
        if self._postgres is None:
            return f"sqlite://{settings.data / 'test.db'}"
        if template == "town":
            template = _database(template, settings.server_name)
        return await self._postgres.copy(template, _database(which, settings.server_name))


def _database(which: str, server_name: str) -> str:
    number = server_name.partition(":")[0].rpartition(".")[2]
    return f"{which}_{number}"


def _settings(folder: Path, name: str) -> Settings:
    own = folder / name.partition(":")[0]
    settings = settings_for(
        own,
        **{
            "server_name": name,
            "federation.allow": [other for other in NAMES if other != name],
            "federation.verify_tls": False,
            "public.client_baseurl": f"http://{name}",
        },
    )
    key = b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()
    settings.signing_key_file.write_text(f"ed25519 test {key}\n")
    return settings
