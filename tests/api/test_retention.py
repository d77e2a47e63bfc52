"""Old messages are erased; what holds the room together stays."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

from yizhan_config.settings import Retention as RetentionSettings
from yizhan_server.clock import SystemClock
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.retention import DAY_MS, Retention
from yizhan_server.rooms.self_destruction import SelfDestruction
from yizhan_server.rooms.writer import Draft
from yizhan_testing.homeserver import homeserver_in_process
from yizhan_testing.later_clock import LaterClock

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person


async def erase(homeserver: HomeserverInProcess, days: int, settings: RetentionSettings) -> None:
    services = homeserver.parts.services
    await Retention(services.db, LaterClock(days * DAY_MS), services.rooms, settings).erase_due()


async def texts(person: Person, room: str) -> list[str | None]:
    page = await person.get(f"/v3/rooms/{quote(room)}/messages", dir="f", limit="100")
    return [e["content"].get("body") for e in page["chunk"] if e["type"] == "m.room.message"]


async def test_messages_are_erased_when_their_room_says_so(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    short = await alice.creates_room(name="临时")
    kept = await alice.creates_room(name="长期")
    await alice.sets(short, "m.room.retention", {"max_lifetime": 3 * DAY_MS})
    for room in (short, kept):
        for number in range(3):
            await alice.says(room, f"消息{number}")
    settings = RetentionSettings(enabled=True)

    await erase(homeserver, 2, settings)
    assert await texts(alice, short) == ["消息0", "消息1", "消息2"]
    await erase(homeserver, 4, settings)
    assert await texts(alice, short) == [None] * 3
    assert await texts(alice, kept) == ["消息0", "消息1", "消息2"]
    assert (await alice.get(f"/v3/rooms/{quote(short)}/state/m.room.name")) == {"name": "临时"}
    assert (await alice.syncs()).texts(short) == [""] * 3
    found = await alice.post(
        "/v3/search", {"search_categories": {"room_events": {"search_term": "消息1"}}}
    )
    results = found["search_categories"]["room_events"]["results"]
    assert [each["result"]["room_id"] for each in results] == [kept]
    # The room goes on; nothing is erased twice, and what is new stays.
    await alice.says(short, "新")
    await erase(homeserver, 2, settings)
    assert (await texts(alice, short))[-1] == "新"


async def test_the_administrator_bounds_what_rooms_ask_for(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    rooms = {}
    for name, content in (
        ("nothing", {}), ("too short", {"max_lifetime": 1}), ("nonsense", {"max_lifetime": "1"}),
        ("too long", {"max_lifetime": 1000 * DAY_MS}),
    ):  # fmt: skip
        rooms[name] = await alice.creates_room()
        await alice.sets(rooms[name], "m.room.retention", content)
        await alice.says(rooms[name], "x")
    settings = RetentionSettings(enabled=True, default_days=10, shortest_days=5, longest_days=20)

    for days, left in ((4, 4), (6, 3), (11, 1), (21, 0)):
        await erase(homeserver, days, settings)
        found = [await texts(alice, room) for room in rooms.values()]
        assert sum(each == ["x"] for each in found) == left, days


async def test_a_batch_ends_between_two_moments(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room()
    await homeserver.parts.services.writer.write(
        await homeserver.parts.services.rooms.get(room),
        [_message(alice, number) for number in range(450)],
    )
    await erase(homeserver, 2, RetentionSettings(enabled=True, default_days=1))
    page = await alice.get(f"/v3/rooms/{quote(room)}/messages", dir="f", limit="1000")
    messages = [e["content"] for e in page["chunk"] if e["type"] == "m.room.message"]
    assert messages == [{}] * 450


def _message(person: Person, number: int) -> Draft:
    return Draft(UserID(person.user_id), "m.room.message", {"body": str(number)})


async def test_a_message_is_erased_at_the_time_that_its_sender_named(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    now_ms = SystemClock().now_ms()
    for name, due in (("soon", DAY_MS), ("later", 3 * DAY_MS)):
        await alice.says(room, name, **{"org.matrix.self_destruct_after": now_ms + due})
    await alice.says(room, "never", **{"org.matrix.self_destruct_after": "soon"})
    parts = homeserver.parts
    for days, left in ((0, ["soon", "later", "never"]), (2, [None, "later", "never"])):
        clock, services = LaterClock(days * DAY_MS), parts.services
        destruction = SelfDestruction(services.db, parts.stream, clock, services.rooms)
        await destruction.catch_up()
        await destruction.erase_due()
        assert await texts(bob, room) == left
    # Also to whoever reads it from the recent events in memory.
    assert (await bob.syncs()).texts(room) == ["", "later", "never"]


async def test_the_server_erases_by_itself_where_that_is_switched_on(
    tmp_path: Path, dialect: Dialect
) -> None:
    switch = {"retention.self_destruction": True}
    async with homeserver_in_process(tmp_path, dialect, 1, **switch) as homeserver:
        alice = await homeserver.person("alice")
        room = await alice.creates_room()
        moment = SystemClock().now_ms() + 200
        await alice.says(room, "gone", **{"org.matrix.self_destruct_after": moment})
        async with asyncio.timeout(10):
            while await texts(alice, room) != [None]:
                assert await texts(alice, room) in (["gone"], [None])
