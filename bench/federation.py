"""Two servers of a kind that federate over TLS: joining a large room, events, catching up.

Both are named by an address and a port of the loopback, with certificates by an authority made for
the run. CPU is that of both together; that of each side stands in a row of its own.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from typing_extensions import override

from bench.cases import LITTLE, Sample
from bench.people import Api, Person, at_once
from bench.servers import Cores, Kind, Server, SynapseKind, Template, YizhanKind
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.synapse import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bench.report import Results

EVENTS, PACE_S = 100, 0.1
"""Far enough apart that no server puts two into a transaction."""
LATENCIES = 20
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
    return Prepared((first, second), (first.keep(), second.keep()), owner, guest, room)


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


async def measure(
    label: str, pair: Prepared, results: Results, *, missed: int, quick: bool
) -> None:
    """One round of all cases; each goes on where the one before has ended.

    `missed`: events that are sent while the second server is away; 0 leaves that case out.
    """
    here, there = pair.servers
    async with both(pair) as running:
        await _join(label, pair, running, results)
        await _events(label, pair, running, results, EVENTS // 5 if quick else EVENTS)
    if not missed:
        return
    # The data stays; now the second server is away for a while.
    count = missed // 5 if quick else missed
    async with here.running(), Api(here.base_url) as api:
        for number in range(count):
            await api.send(pair.owner, pair.room, f"missed {number}.")
        await here.settle(REST_S)
        async with there.running(), Api(there.base_url) as far_api:
            await _catch_up(label, pair, Running(here, there, api, far_api), results, count)


async def _join(label: str, pair: Prepared, running: Running, results: Results) -> None:
    print(f"  {label}: a join through another server", file=sys.stderr)
    before, began = await running.rest(), time.perf_counter()
    via = quote(str(running.here.kind.server_name))
    path = f"/join/{quote(pair.room)}?via={via}&server_name={via}"
    await running.far_api.ask("POST", path, {}, pair.guest)
    taken = time.perf_counter() - began
    _add(label, "join", results, before, await running.rest(), 1, [taken])


async def _events(
    label: str, pair: Prepared, running: Running, results: Results, count: int
) -> None:
    print(f"  {label}: events from server to server", file=sys.stderr)
    latencies = await _latencies(pair, running)
    before = await running.rest()
    for _ in range(count):
        await running.api.send(pair.owner, pair.room)
        await asyncio.sleep(PACE_S)
    after = await running.rest()
    await _until_read(pair, running)
    _add(label, "event", results, before, after, count, latencies)


async def _latencies(pair: Prepared, running: Running) -> list[float]:
    """Return how long events took from the request to send them to the answer of a long poll."""
    filtered = f"filter={LITTLE}"
    since = (await running.far_api.sync(pair.guest, f"timeout=0&{filtered}"))["next_batch"]
    latencies = []
    for number in range(LATENCIES):
        text = f"now {number}."

        async def awaited(text: str = text) -> None:
            nonlocal since
            while True:
                query = f"timeout=30000&{filtered}&since={quote(since)}"
                answer = await running.far_api.sync(pair.guest, query)
                since = answer["next_batch"]
                if text in str(answer.get("rooms", {})):
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(awaited())
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            await running.api.send(pair.owner, pair.room, text)
        latencies.append(time.perf_counter() - began)
    return latencies


async def _until_read(pair: Prepared, running: Running) -> None:
    """Return once the other side has what was said last; else the events were never measured."""
    await running.api.send(pair.owner, pair.room, "the last one")
    async with asyncio.timeout(60):
        while True:
            if "the last one" in str(await _page(pair, running, "limit=5")):
                return
            await asyncio.sleep(0.1)


async def _catch_up(
    label: str, pair: Prepared, running: Running, results: Results, count: int
) -> None:
    """Say something from the side that was away, then read all that it has missed."""
    print(f"  {label}: what a server has missed", file=sys.stderr)
    before, began = await running.rest(), time.perf_counter()
    await running.far_api.send(pair.guest, pair.room, "back again")
    wanted = {f"missed {number}." for number in range(count)}
    async with asyncio.timeout(600):
        while missing := wanted - await _read(pair, running, count):
            print(f"    {len(missing)} are missing yet", file=sys.stderr)
            await asyncio.sleep(2)
    taken = time.perf_counter() - began
    _add(label, "catch_up", results, before, await running.rest(), count, [taken])


async def _read(pair: Prepared, running: Running, count: int) -> set[str]:
    """Return what somebody on the far side finds by paging back, as far as that leads."""
    found: set[str] = set()
    query = "limit=100"
    for _ in range(count // 50 + 2):
        page = await _page(pair, running, query)
        for event in page["chunk"]:
            found.add(str(event["content"].get("body", "")).rpartition(": ")[2])
        if "end" not in page:
            break
        query = f"limit=100&from={quote(page['end'])}"
    return found


async def _page(pair: Prepared, running: Running, query: str) -> dict[str, Any]:
    path = f"/rooms/{quote(pair.room)}/messages?dir=b&{query}"
    return await running.far_api.ask("GET", path, person=pair.guest)


def _add(
    label: str,
    case: str,
    results: Results,
    before: tuple[float, float],
    after: tuple[float, float],
    count: int,
    taken: list[float],
) -> None:
    here_ms, there_ms = (
        (end - start) * 1000 / count for start, end in zip(before, after, strict=True)
    )
    ordered = sorted(taken)
    sample = Sample(
        cpu_ms=here_ms + there_ms,
        per_s=count / sum(taken),
        p50_ms=median(ordered) * 1000,
        p95_ms=ordered[int((len(ordered) - 1) * 0.95)] * 1000,
    )
    results.add(label, f"federation_{case}", sample.cpu_ms, sample)
    results.add(label, f"federation_{case}_here", here_ms)
    results.add(label, f"federation_{case}_there", there_ms)
