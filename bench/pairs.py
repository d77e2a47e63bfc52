"""Two servers of a kind that federate over TLS, with a large room on the first of them.

Both are named by an address and a port of the loopback, with certificates by an authority made for
the run.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from bench.people import Api, Person, at_once
from bench.servers import Cores, Kind, Server, SynapseKind, Template, YizhanKind
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.synapse import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SENDERS = 16
REST_S = 120


@dataclass(frozen=True)
class Place:
    """Where a server is for the other one."""

    port: int
    other_port: int
    authority: CertificateAuthority

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def other(self) -> str:
        return f"127.0.0.1:{self.other_port}"


class FederatingSynapse(SynapseKind):
    """Synapse with a port for servers; its people's passwords are hashed cheaply."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.server_name = place.name

    @override
    def options(self, port: int) -> dict[str, Any]:
        certificate, key = self._place.authority.issue("127.0.0.1")
        listener = {"type": "http", "bind_addresses": ["127.0.0.1"]}
        return super().options(port) | {
            "listeners": [
                {**listener, "port": port, "resources": [{"names": ["client"]}]},
                {
                    **listener,
                    "port": self._place.port,
                    "tls": True,
                    "resources": [{"names": ["federation"]}],
                },
            ],
            "tls_certificate_path": str(certificate),
            "tls_private_key_path": str(key),
            "federation_custom_ca_list": [str(self._place.authority.file)],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "federation_domain_whitelist": [self._place.other],
            "rc_federation": {"sleep_limit": 1_000_000, "reject_limit": 1_000_000},
            "bcrypt_rounds": 4,
        }


class FederatingYizhan(YizhanKind):
    """Yizhan with a port for servers."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.server_name = place.name

    @override
    def settings(self, port: int) -> tuple[str, ...]:
        place = self._place
        certificate, key = place.authority.issue("127.0.0.1")
        return (
            *super().settings(port),
            f'listen.tls="{place.name}"',
            f'tls.certificate="{certificate}"',
            f'tls.key="{key}"',
            f'federation.allow=["{place.other}"]',
            'federation.private_addresses=["127.0.0.1"]',
            f'federation.trusted_ca_files=["{place.authority.file}"]',
        )


KINDS: dict[str, type[FederatingSynapse | FederatingYizhan]] = {
    FederatingSynapse.name: FederatingSynapse,
    FederatingYizhan.name: FederatingYizhan,
}


@dataclass(frozen=True)
class Prepared:
    """A pair as it is before each round: a room of many on the first, a person on the second."""

    servers: tuple[Server, Server]
    templates: tuple[Template, Template]
    owner: Person
    senders: list[Person]
    """Members who send at once, the owner among them; fewer than `SENDERS` in a small room."""
    guest: Person
    room: str


@dataclass(frozen=True)
class Running:
    """The two while they run."""

    here: Server
    there: Server
    api: Api
    far_api: Api

    async def rest(self) -> tuple[float, float]:
        """Wait until both are at rest; returns the CPU that each has used."""
        for _ in range(2):  # what one does at last may wake the other
            for server in (self.here, self.there):
                await server.settle(REST_S)
        return self.here.cpu_s(), self.there.cpu_s()


async def prepare(name: str, label: str, folder: Path, cores: Cores, members: int) -> Prepared:
    """Install two servers of a kind, and fill a room of the first."""
    authority = CertificateAuthority(folder)
    ports = free_port(), free_port()
    servers = []
    for number in range(2):
        kind: Kind = KINDS[name](Place(ports[number], ports[1 - number], authority))
        server = Server(kind, f"{label} {'AB'[number]}", folder / str(number), cores)
        server.make_new()
        servers.append(server)
    first, second = servers
    async with first.running(), second.running(), Api(first.base_url) as api:
        owner = await api.register("owner")
        people: list[Person] = []

        async def register(number: int) -> None:
            people.append(await api.register(f"member{number}"))

        await at_once(8, [partial(register, number) for number in range(members - 1)])
        room = await api.create_public_room(owner, people)
        async with Api(second.base_url) as far_api:
            guest = await far_api.register("guest")
    templates = first.keep(), second.keep()
    return Prepared((first, second), templates, owner, [owner, *people][:SENDERS], guest, room)


@asynccontextmanager
async def both(pair: Prepared) -> AsyncIterator[Running]:
    """Run the pair on copies of its data."""
    for server, template in zip(pair.servers, pair.templates, strict=True):
        server.restore(template)
    here, there = pair.servers
    async with (
        here.running(),
        there.running(),
        Api(here.base_url) as api,
        Api(there.base_url) as far_api,
    ):
        yield Running(here, there, api, far_api)
