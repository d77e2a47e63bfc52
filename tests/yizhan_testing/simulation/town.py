"""Five homeservers with two people on each, ready to be simulated.

Accounts are made once and copied for each simulation: passwords are expensive on purpose.
"""

from __future__ import annotations

import hashlib
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import cast

import aiohttp

from yizhan_config.settings import Settings
from yizhan_database import Database, open_database
from yizhan_server.app import MIGRATIONS, Homeserver, assembled
from yizhan_testing.homeserver import HomeserverInProcess, Person, settings_for
from yizhan_testing.simulation.network import ClientLine, Network
from yizhan_testing.simulation.virtual_time import VirtualClock

SERVERS = 5
NAMES = [f"192.0.2.{number}:8448" for number in range(1, SERVERS + 1)]
"""Names that are addresses are not looked up."""

PEOPLE = ("ann", "ben")


class Server(HomeserverInProcess):
    """One of them."""

    def __init__(self, settings: Settings, network: Network, parts: Homeserver, db: Database):
        line = cast("aiohttp.ClientSession", ClientLine(network))
        super().__init__(f"http://{settings.server_name}", settings, line, parts)
        self.db = db
        self.people: list[Person] = []


class Town:
    """Keeps databases with accounts in them in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._people: dict[str, list[Person]] = {}

    async def build(self, clock: VirtualClock) -> None:
        """Make the accounts."""
        for name in NAMES:
            network = Network(Random(0))
            async with self._server(self._folder / "template", name, network, clock) as server:
                self._people[name] = [await server.person(each) for each in PEOPLE]

    @asynccontextmanager
    async def opened(
        self, seed: int, network: Network, clock: VirtualClock
    ) -> AsyncIterator[list[Server]]:
        """Run copies of all servers."""
        folder = self._folder / str(seed)
        shutil.copytree(self._folder / "template", folder)
        try:
            async with AsyncExitStack() as stack:
                servers = []
                for name in NAMES:
                    restless = Random(f"{seed} {name}")
                    opening = self._server(folder, name, network, clock, restless)
                    server = await stack.enter_async_context(opening)
                    server.people = [
                        replace(person, http=server.http) for person in self._people[name]
                    ]
                    servers.append(server)
                yield servers
        finally:
            shutil.rmtree(folder)

    @asynccontextmanager
    async def _server(
        self,
        folder: Path,
        name: str,
        network: Network,
        clock: VirtualClock,
        restless: Random | None = None,
    ) -> AsyncIterator[Server]:
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
        db = await open_database(f"sqlite://{own / 'test.db'}", MIGRATIONS, restless=restless)
        try:
            async with assembled(settings, db, clock) as parts:
                requests = parts.federation_client.requests
                network.connect(name, parts.wrapper, requests)
                yield Server(settings, network, parts, db)
        finally:
            await db.close()
