"""What is measured. Each case asks one thing of the server many times; CPU is divided by the times.

A measurement begins with a server at rest and ends when it has come to rest again, so that work
which a server puts off until after its answer is counted too.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import quote

import orjson

from bench.people import Api, JsonObject, Person, at_once, device_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.servers import Server

PEOPLE = 101
LAZY = quote(
    orjson.dumps(
        {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 20}}}
    ).decode()
)
LITTLE = quote(orjson.dumps({"room": {"timeline": {"limit": 1}}}).decode())
SLIDING: JsonObject = {
    "lists": {
        "all": {
            "ranges": [[0, 19]],
            "timeline_limit": 1,
            "required_state": [
                ["m.room.create", ""],
                ["m.room.name", ""],
                ["m.room.encryption", ""],
                ["m.room.member", "$LAZY"],
                ["m.room.member", "$ME"],
            ],
        }
    },
    "extensions": {"e2ee": {"enabled": True}, "to_device": {"enabled": True}},
}
"""What Element X asks first."""

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Sample:
    """One measurement of one case: per operation, CPU of the server and latency at the driver."""

    cpu_ms: float
    per_s: float
    p50_ms: float
    p95_ms: float


@dataclass
class Stage:
    """A running server with its people; what several cases need is made once, unmeasured."""

    server: Server
    api: Api
    people: list[Person]
    quick: bool
    has_keys: bool = False
    rooms: dict[int, str] = field(default_factory=dict)

    def times(self, whole: int) -> int:
        return max(5, whole // 5) if self.quick else whole

    async def room_of(self, size: int) -> str:
        if size not in self.rooms:
            owner, *others = self.people[:size]
            self.rooms[size] = await self.api.create_public_room(owner, others)
        return self.rooms[size]

    async def upload_all_keys(self) -> None:
        if not self.has_keys:
            self.has_keys = True
            for person in self.people:
                await self.api.ask("POST", "/keys/upload", device_keys(person, 50), person)

    async def measure(
        self, calls: list[Callable[[], Awaitable[object]]], *, width: int = 1
    ) -> Sample:
        await self.server.settle()
        before = self.server.cpu_s()
        began = time.perf_counter()
        taken = await at_once(width, calls)
        wall = time.perf_counter() - began
        await self.server.settle()
        return summarise(self.server.cpu_s() - before, len(calls), wall, taken)


def summarise(cpu: float, operations: int, wall: float, taken: list[float]) -> Sample:
    ordered = sorted(taken)
    return Sample(
        cpu_ms=cpu * 1000 / operations,
        per_s=operations / wall,
        p50_ms=median(ordered) * 1000,
        p95_ms=ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1000,
    )


async def initial_sync(stage: Stage) -> Sample:
    owner = stage.people[0]
    # A new device each time: a server may keep the answer for one that asks again.
    devices = [await stage.api.log_in(owner) for _ in range(stage.times(10) + 1)]
    await stage.api.sync(devices.pop(), f"timeout=0&filter={LAZY}")
    return await stage.measure(
        [partial(stage.api.sync, device, f"timeout=0&filter={LAZY}") for device in devices]
    )


async def empty_sync(stage: Stage) -> Sample:
    person = stage.people[1]
    since = (await stage.api.sync(person, f"timeout=0&filter={LITTLE}"))["next_batch"]
    query = f"timeout=0&filter={LITTLE}&since={quote(since)}"
    return await stage.measure([lambda: stage.api.sync(person, query)] * stage.times(100))


async def send_by_1(stage: Stage) -> Sample:
    person, room = stage.people[0], await stage.room_of(1)
    await stage.api.send(person, room)
    return await stage.measure([lambda: stage.api.send(person, room)] * stage.times(200))


async def send_by_10(stage: Stage) -> Sample:
    room = await stage.room_of(10)
    people = stage.people[:10]
    return await stage.measure(
        [partial(stage.api.send, person, room) for person in people * stage.times(30)],
        width=10,
    )


async def joins(stage: Stage) -> Sample:
    owner, *others = stage.people
    room = await stage.api.create_public_room(owner, [])
    sample = await stage.measure(
        [partial(stage.api.join, person, room) for person in others], width=16
    )
    stage.rooms.setdefault(len(stage.people), room)
    return sample


async def fan_out(stage: Stage) -> Sample:
    """CPU per delivery: a hundred polls come and wait, one person sends, all are answered."""
    room = await stage.room_of(len(stage.people))
    sender, *readers = stage.people
    since: dict[str, str] = {}
    delivered: list[float] = []
    slowest: list[float] = []

    async def poll(person: Person, query: str) -> None:
        answer = await stage.api.sync(person, f"filter={LITTLE}&{query}")
        since[person.user_id] = answer["next_batch"]

    async def deliver() -> None:
        sent_at = 0.0

        async def wait(person: Person) -> None:
            await poll(person, f"timeout=60000&since={quote(since[person.user_id])}")
            delivered.append(time.perf_counter() - sent_at)

        async with asyncio.TaskGroup() as group:
            for person in readers:
                group.create_task(wait(person))
            await asyncio.sleep(0)
            await stage.server.settle()  # all of them wait now
            sent_at = time.perf_counter()
            await stage.api.send(sender, room)
        slowest.append(max(delivered[-len(readers) :]))

    await at_once(8, [partial(poll, person, "timeout=0") for person in readers])
    await deliver()
    delivered.clear()
    slowest.clear()
    await stage.server.settle()
    before = stage.server.cpu_s()
    for _ in range(stage.times(10)):
        await deliver()
    await stage.server.settle()
    cpu = stage.server.cpu_s() - before
    return summarise(cpu, len(delivered), sum(slowest), delivered)


async def log_in(stage: Stage) -> Sample:
    person = stage.people[2]
    await stage.api.log_in(person)
    return await stage.measure([lambda: stage.api.log_in(person)] * stage.times(10))


async def keys_upload(stage: Stage) -> Sample:
    stage.has_keys = True
    bodies = [(person, device_keys(person, 50)) for person in stage.people]
    return await stage.measure(
        [partial(stage.api.ask, "POST", "/keys/upload", body, person) for person, body in bodies]
    )


async def keys_query(stage: Stage) -> Sample:
    await stage.upload_all_keys()
    asker, *others = stage.people
    body: JsonObject = {"device_keys": {person.user_id: [] for person in others}}
    await stage.api.ask("POST", "/keys/query", body, asker)
    return await stage.measure(
        [lambda: stage.api.ask("POST", "/keys/query", body, asker)] * stage.times(60)
    )


async def keys_claim(stage: Stage) -> Sample:
    await stage.upload_all_keys()
    asker, *others = stage.people
    wanted = {person.user_id: {person.device_id: "signed_curve25519"} for person in others}
    body = {"one_time_keys": wanted}
    return await stage.measure(
        [lambda: stage.api.ask("POST", "/keys/claim", body, asker)] * stage.times(20)
    )


async def create_room(stage: Stage) -> Sample:
    owner = stage.people[3]
    body = {
        "preset": "private_chat",
        "invite": [person.user_id for person in stage.people[4:9]],
        "initial_state": [
            {
                "type": "m.room.encryption",
                "state_key": "",
                "content": {"algorithm": "m.megolm.v1.aes-sha2"},
            }
        ],
    }
    return await stage.measure(
        [lambda: stage.api.ask("POST", "/createRoom", body, owner)] * stage.times(15)
    )


async def messages_page(stage: Stage) -> Sample:
    person, room = stage.people[0], await stage.room_of(10)
    await at_once(10, [lambda: stage.api.send(person, room)] * 60)
    path = f"/rooms/{room}/messages?dir=b&limit=50"
    await stage.api.ask("GET", path, person=person)
    return await stage.measure(
        [lambda: stage.api.ask("GET", path, person=person)] * stage.times(120)
    )


async def sliding_sync(stage: Stage) -> Sample:
    owner = stage.people[0]
    devices = [await stage.api.log_in(owner) for _ in range(stage.times(10) + 1)]
    await stage.api.sliding_sync(devices.pop(), SLIDING)
    return await stage.measure(
        [partial(stage.api.sliding_sync, device, SLIDING) for device in devices]
    )


async def send_and_sync(stage: Stage) -> Sample:
    """One message, and the answer that brings it to somebody else."""
    room = await stage.room_of(10)
    sender, reader = stage.people[:2]
    since = (await stage.api.sync(reader, f"timeout=0&filter={LITTLE}"))["next_batch"]

    async def turn() -> None:
        nonlocal since
        await stage.api.send(sender, room)
        query = f"timeout=0&filter={LITTLE}&since={quote(since)}"
        since = (await stage.api.sync(reader, query))["next_batch"]

    await turn()
    return await stage.measure([turn] * stage.times(60))


async def members(stage: Stage) -> Sample:
    person, room = stage.people[0], await stage.room_of(len(stage.people))
    path = f"/rooms/{room}/members"
    await stage.api.ask("GET", path, person=person)
    return await stage.measure(
        [lambda: stage.api.ask("GET", path, person=person)] * stage.times(60)
    )


async def media_upload(stage: Stage) -> Sample:
    person = stage.people[0]
    # Each file is another one: a server may keep equal bytes once.
    files = [os.urandom(MEGABYTE) for _ in range(stage.times(30) + 1)]
    await stage.api.upload(person, files.pop())
    return await stage.measure([partial(stage.api.upload, person, file) for file in files])


async def media_download(stage: Stage) -> Sample:
    person = stage.people[0]
    uri = await stage.api.upload(person, os.urandom(MEGABYTE))
    await stage.api.download(person, uri)
    return await stage.measure([lambda: stage.api.download(person, uri)] * stage.times(60))


async def search(stage: Stage) -> Sample:
    """A word that one message in a room of ten holds, beside the many that do not."""
    person, room = stage.people[0], await stage.room_of(10)
    await stage.api.send(person, room, "the quarterly budget of the archive")
    body: JsonObject = {
        "search_categories": {
            "room_events": {
                "search_term": "archive",
                "order_by": "recent",
                "keys": ["content.body"],
            }
        }
    }
    for _ in range(300):
        if _found(await stage.api.ask("POST", "/search", body, person)):
            break
        await asyncio.sleep(0.1)  # an index may lag behind the answer to /send
    return await stage.measure(
        [lambda: stage.api.ask("POST", "/search", body, person)] * stage.times(60)
    )


def _found(answer: JsonObject) -> bool:
    return bool(answer["search_categories"]["room_events"]["results"])


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    run: Callable[[Stage], Awaitable[Sample]]
    times: float | None = None
    """How many times less CPU than the reference is demanded."""


CASES = (
    Case("initial_sync", "initial sync, 20 rooms of 10 with 20 messages, lazy", initial_sync),
    Case("empty_sync", "empty incremental sync", empty_sync),
    Case("send_by_1", "send, 1 user", send_by_1, times=8),
    Case("send_by_10", "send, 10 users in one room", send_by_10, times=8),
    Case("joins", "join, 100 users, 16 at once", joins),
    Case("fan_out", "one of 100 long polls: waiting, delivery", fan_out),
    Case("log_in", "login with password", log_in),
    Case("keys_upload", "keys/upload, device and 50 one-time keys", keys_upload),
    Case("keys_query", "keys/query, 100 users", keys_query),
    Case("keys_claim", "keys/claim, 100 keys", keys_claim),
    Case("create_room", "create encrypted room, 5 invites", create_room),
    Case("messages_page", "messages, page of 50", messages_page),
    Case("sliding_sync", "sliding sync, 20 of 20 rooms, first answer", sliding_sync),
    Case("send_and_sync", "send, and the sync that brings it", send_and_sync),
    Case("members", "members of a room of 101", members),
    Case("media_upload", "upload of 1 MB", media_upload),
    Case("media_download", "download of 1 MB", media_download),
    Case("search", "search for a word", search),
)


async def populate(api: Api) -> list[Person]:
    """Make the people, and the history that an initial sync brings."""
    people: list[Person] = []

    async def register(number: int) -> None:
        people.append(await api.register(f"person{number:03}"))

    await at_once(4, [partial(register, number) for number in range(PEOPLE)])
    people.sort(key=lambda person: person.user_id)
    owner, *members = people[:10]
    for _ in range(20):
        room = await api.create_public_room(owner, members)
        await at_once(10, [partial(api.send, person, room) for person in people[:10] * 2])
    return people
