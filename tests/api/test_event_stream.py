"""The event stream from before /sync, as old clients and those who only look in use it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from yizhan_testing.homeserver import JsonObject, Person


def texts(chunk: list[JsonObject]) -> list[str]:
    return [e["content"]["body"] for e in chunk if e["type"] == "m.room.message"]


def of_type(chunk: list[JsonObject], kind: str) -> list[JsonObject]:
    return [event for event in chunk if event["type"] == kind]


async def events(person: Person, start: str | None, **params: Any) -> JsonObject:
    if start is not None:
        params["from"] = start
    return await person.get("/v3/events", **{name: str(value) for name, value in params.items()})


async def test_events_arrive_in_order_and_a_limit_leaves_none_out(
    alice: Person, bob: Person
) -> None:
    first, second = await alice.creates_room(invite=[bob]), await alice.creates_room(invite=[bob])
    for room in (first, second):
        await bob.joins(room)
    token = (await events(bob, None, timeout=0))["end"]
    for number in range(10):
        await alice.says((first, second)[number % 2], str(number))

    seen: list[str] = []
    for _ in range(4):
        answer = await events(bob, token, timeout=0, limit=3)
        assert len([event for event in answer["chunk"] if "event_id" in event]) <= 3
        seen += texts(answer["chunk"])
        token = answer["end"]

    assert seen == [str(number) for number in range(10)]


async def test_a_wait_ends_with_what_happens(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    token = (await events(bob, None, timeout=0))["end"]

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(events(bob, token, timeout=20_000))
        await asyncio.sleep(0)
        said = await alice.says(room, "醒醒")
    assert texts(waiting.result()["chunk"]) == ["醒醒"]

    token = waiting.result()["end"]
    await alice.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(said)}", {})
    await alice.put(
        f"/v3/rooms/{quote(room)}/typing/{alice.user_id}", {"typing": True, "timeout": 20_000}
    )
    await bob.put(f"/v3/user/{bob.user_id}/account_data/org.example.a", {"n": 1})
    await bob.put(f"/v3/user/{bob.user_id}/rooms/{quote(room)}/account_data/org.example.b", {})
    chunk = (await events(bob, token, timeout=0))["chunk"]
    (receipt,) = of_type(chunk, "m.receipt")
    assert receipt["room_id"] == room
    assert alice.user_id in receipt["content"][said]["m.read"]
    (typing,) = of_type(chunk, "m.typing")
    assert typing["content"] == {"user_ids": [alice.user_id]}
    assert of_type(chunk, "org.example.a") == [{"type": "org.example.a", "content": {"n": 1}}]
    assert of_type(chunk, "org.example.b")[0]["room_id"] == room


async def test_an_invitation_and_the_way_out_are_events(alice: Person, bob: Person) -> None:
    room = await alice.creates_room()
    await alice.says(room, "before")
    token = (await events(bob, None, timeout=0))["end"]
    await alice.invites(room, bob)
    answer = await events(bob, token, timeout=0)
    (invite,) = of_type(answer["chunk"], "m.room.member")
    assert invite["content"]["membership"] == "invite"

    await bob.joins(room)
    await alice.says(room, "welcome")
    await bob.leaves(room)
    await alice.says(room, "after")
    chunk = (await events(bob, answer["end"], timeout=0))["chunk"]
    assert texts(chunk) == ["welcome"]
    memberships = [e["content"]["membership"] for e in of_type(chunk, "m.room.member")]
    assert memberships == ["join", "leave"]


async def test_somebody_outside_follows_a_world_readable_room_only(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    path = f"/v3/rooms/{quote(room)}/initialSync"
    for refused in (
        await bob.refused("GET", path),
        await bob.refused("GET", f"/v3/events?timeout=0&room_id={quote(room, safe='')}"),
    ):
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")

    await alice.sets(room, "m.room.history_visibility", {"history_visibility": "world_readable"})
    await alice.says(room, "公开")
    section = await bob.get(path)
    assert texts(section["messages"]["chunk"]) == ["公开"]
    assert "membership" not in section
    assert {event["type"] for event in section["state"]} >= {"m.room.create", "m.room.member"}

    token = (await events(bob, None, timeout=0, room_id=room))["end"]
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(events(bob, token, timeout=20_000, room_id=room))
        await asyncio.sleep(0)
        await alice.says(room, "又一句")
    assert texts(waiting.result()["chunk"]) == ["又一句"]
    assert texts((await events(bob, token, timeout=0))["chunk"]) == []


async def test_initial_sync_shows_rooms_joined_invited_and_left(alice: Person, bob: Person) -> None:
    joined = await alice.creates_room(invite=[bob], name="局务会")
    invited = await alice.creates_room(invite=[bob])
    left = await alice.creates_room(invite=[bob])
    for room in (joined, left):
        await bob.joins(room)
    for number in range(5):
        await alice.says(joined, str(number))
    await alice.says(left, "before")
    await bob.leaves(left)
    await alice.says(left, "after")

    answer = await bob.get("/v3/initialSync", limit="3")
    rooms = {room["room_id"]: room for room in answer["rooms"]}
    assert set(rooms) == {joined, invited}
    assert texts(rooms[joined]["messages"]["chunk"]) == ["2", "3", "4"]
    assert rooms[joined]["visibility"] == "private"
    assert rooms[invited]["invite"]["content"]["membership"] == "invite"
    earlier = await bob.get(
        f"/v3/rooms/{quote(joined)}/messages",
        dir="b",
        limit="2",
        **{"from": rooms[joined]["messages"]["start"]},
    )
    assert texts(earlier["chunk"]) == ["1", "0"]
    await alice.says(joined, "5")
    assert texts((await events(bob, answer["end"], timeout=0))["chunk"]) == ["5"]

    archived = await bob.get("/v3/initialSync", limit="3", archived="true")
    (gone,) = [room for room in archived["rooms"] if room["room_id"] == left]
    assert gone["membership"] == "leave"
    assert texts(gone["messages"]["chunk"]) == ["before"]
    assert not (await bob.get(f"/v3/rooms/{quote(left)}/initialSync"))["presence"]


@pytest.mark.parametrize("limit", ["0", "-2", "many"])
async def test_a_limit_must_be_a_number_above_zero(alice: Person, limit: str) -> None:
    assert (await alice.refused("GET", f"/v3/events?limit={limit}")).status == 400


async def test_an_event_is_found_by_its_id_alone(alice: Person, bob: Person) -> None:
    room = await alice.creates_room()
    said = await alice.says(room, "一")
    assert (await alice.get(f"/v3/events/{quote(said)}"))["content"]["body"] == "一"
    assert (await bob.refused("GET", f"/v3/events/{quote(said)}")).errcode == "M_NOT_FOUND"
