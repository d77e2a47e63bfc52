"""Rooms replaced by rooms of another version."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from yizhan_testing.homeserver import JsonObject, Person


async def upgrade(person: Person, room: str, version: str, **more: object) -> str:
    answer = await person.post(f"/v3/rooms/{quote(room)}/upgrade", {"new_version": version, **more})
    new: str = answer["replacement_room"]
    return new


async def state(person: Person, room: str, kind: str, key: str = "") -> JsonObject:
    return await person.get(f"/v3/rooms/{quote(room)}/state/{kind}/{quote(key)}")


@pytest.mark.parametrize(("old_version", "new_version"), [("1", "2"), ("10", "11"), ("11", "12")])
async def test_the_new_room_continues_the_old_one(
    alice: Person, bob: Person, old_version: str, new_version: str
) -> None:
    old = await alice.creates_room(
        room_version=old_version, preset="public_chat", visibility="public", name="局务会",
        topic="旧", room_alias_name="meeting", creation_content={"m.federate": False},
        invite=[bob],
    )  # fmt: skip
    await alice.sets(old, "m.room.canonical_alias", {"alias": "#meeting:test.example"})
    await alice.sets(old, "m.room.avatar", {"url": "mxc://test.example/logo"})
    await alice.post(f"/v3/rooms/{quote(old)}/ban", {"user_id": "@spam:elsewhere.example"})
    levels = await state(alice, old, "m.room.power_levels")
    levels["users"] |= {bob.user_id: 55, "@other:elsewhere.example": 100}
    levels["events"]["m.room.topic"] = 80
    await alice.sets(old, "m.room.power_levels", levels)

    new = await upgrade(alice, old, new_version)

    create = await state(alice, new, "m.room.create")
    assert create["room_version"] == new_version
    assert create["m.federate"] is False
    tombstone = await alice.get(f"/v3/rooms/{quote(old)}/state/m.room.tombstone/?format=event")
    assert tombstone["content"]["replacement_room"] == new
    predecessor = {"room_id": old, "event_id": tombstone["event_id"]}
    if new_version == "12":
        del predecessor["event_id"]
        assert levels["users"].pop(alice.user_id) == 100
    assert create["predecessor"] == predecessor
    assert await state(alice, new, "m.room.power_levels") == levels
    assert await state(alice, new, "m.room.name") == {"name": "局务会"}
    assert await state(alice, new, "m.room.avatar") == {"url": "mxc://test.example/logo"}
    assert await state(alice, new, "m.room.join_rules") == {"join_rule": "public"}
    ban = await state(alice, new, "m.room.member", "@spam:elsewhere.example")
    assert ban["membership"] == "ban"

    alias = quote("#meeting:test.example", safe="")
    assert (await alice.get(f"/v3/directory/room/{alias}"))["room_id"] == new
    assert await state(alice, old, "m.room.canonical_alias") == {}
    assert await state(alice, new, "m.room.canonical_alias") == {"alias": "#meeting:test.example"}
    listed = (await bob.get("/v3/publicRooms"))["chunk"]
    assert [room["room_id"] for room in listed] == [new]
    closed = await state(alice, old, "m.room.power_levels")
    assert (closed["events_default"], closed["invite"]) == (50, 50)
    await bob.joins(new)


async def test_the_old_room_is_closed_above_the_usual_level(alice: Person) -> None:
    old = await alice.creates_room(
        room_version="10", power_level_content_override={"users_default": 80}
    )
    new = await upgrade(alice, old, "11")
    closed = await state(alice, old, "m.room.power_levels")
    assert (closed["events_default"], closed["invite"]) == (81, 81)
    assert (await state(alice, new, "m.room.power_levels"))["events_default"] == 0


async def test_who_lacked_power_over_some_state_still_carries_it_over(
    alice: Person, bob: Person
) -> None:
    old = await alice.creates_room(room_version="10", invite=[bob])
    await bob.joins(old)
    levels = await state(alice, old, "m.room.power_levels")
    levels["users"] = {alice.user_id: 200, bob.user_id: 50}
    levels["events"] = {"m.room.topic": 180, "m.room.tombstone": 50}
    await alice.sets(old, "m.room.topic", {"topic": "重要"})
    # One cannot give oneself more power; another room starts with it.
    strong = await alice.creates_room(
        room_version="10", power_level_content_override=levels, topic="重要", invite=[bob]
    )
    await bob.joins(strong)

    new = await upgrade(bob, strong, "11")

    assert await state(bob, new, "m.room.power_levels") == levels
    assert (await state(bob, new, "m.room.topic"))["topic"] == "重要"
    refused = await bob.refused(
        "PUT", f"/v3/rooms/{quote(new)}/state/m.room.topic/", {"topic": "轻"}
    )
    assert refused.errcode == "M_FORBIDDEN"


async def test_creators_are_named_anew(alice: Person, bob: Person) -> None:
    old = await alice.creates_room(room_version="12", preset="trusted_private_chat", invite=[bob])
    assert (await state(alice, old, "m.room.create"))["additional_creators"] == [bob.user_id]
    alone = await upgrade(alice, old, "12")
    assert "additional_creators" not in await state(alice, alone, "m.room.create")

    again = await upgrade(alice, alone, "12", additional_creators=[bob.user_id, alice.user_id])
    assert (await state(alice, again, "m.room.create"))["additional_creators"] == [bob.user_id]

    # Back to where creators are ordinary: they get the highest level.
    back = await upgrade(alice, again, "11")
    users = (await state(alice, back, "m.room.power_levels"))["users"]
    assert users[alice.user_id] == users[bob.user_id] >= 100
    refused = await alice.refused(
        "POST", f"/v3/rooms/{quote(back)}/upgrade",
        {"new_version": "12", "additional_creators": ["nobody"]},
    )  # fmt: skip
    assert refused.errcode == "M_INVALID_PARAM"


async def test_a_space_keeps_its_children(alice: Person) -> None:
    space = await alice.creates_room(room_version="10", creation_content={"type": "m.space"})
    child = await alice.creates_room()
    await alice.sets(space, "m.space.child", {"via": ["test.example"]}, child)

    new = await upgrade(alice, space, "12")

    assert (await state(alice, new, "m.room.create"))["type"] == "m.space"
    assert await state(alice, new, "m.space.child", child) == {"via": ["test.example"]}


async def test_personal_settings_follow_into_the_new_room(alice: Person, bob: Person) -> None:
    old = await alice.creates_room(room_version="10", preset="public_chat")
    await bob.joins(old)
    for person in (alice, bob):
        user = f"/v3/user/{quote(person.user_id)}"
        await person.put(f"{user}/rooms/{quote(old)}/tags/m.favourite", {"order": 0.5})
        await person.put(f"{user}/account_data/m.direct", {bob.user_id: [old]})
        await person.put(f"/v3/pushrules/global/room/{quote(old)}", {"actions": []})

    new = await upgrade(alice, old, "12")
    await bob.joins(new)

    for person in (alice, bob):
        user = f"/v3/user/{quote(person.user_id)}"
        tags = await person.get(f"{user}/rooms/{quote(new)}/tags")
        assert tags == {"tags": {"m.favourite": {"order": 0.5}}}
        assert await person.get(f"{user}/account_data/m.direct") == {bob.user_id: [old, new]}
        rule = await person.get(f"/v3/pushrules/global/room/{quote(new)}")
        assert rule["actions"] == []


async def test_a_false_successor_gets_nobodys_settings(alice: Person, bob: Person) -> None:
    old = await alice.creates_room(preset="public_chat")
    await alice.put(
        f"/v3/user/{quote(alice.user_id)}/rooms/{quote(old)}/tags/m.favourite", {"order": 0.5}
    )
    trap = await bob.creates_room(
        preset="public_chat", creation_content={"predecessor": {"room_id": old}}
    )
    await alice.joins(trap)
    tags = await alice.get(f"/v3/user/{quote(alice.user_id)}/rooms/{quote(trap)}/tags")
    assert tags == {"tags": {}}


async def test_upgrades_that_are_refused_change_nothing(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="11")
    await bob.joins(room)
    path = f"/v3/rooms/{quote(room)}/upgrade"

    refused = await bob.refused("POST", path, {"new_version": "12"})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    refused = await alice.refused("POST", path, {"new_version": "my_bad_version"})
    assert (refused.status, refused.errcode) == (400, "M_UNSUPPORTED_ROOM_VERSION")
    assert (await alice.refused("POST", path, {})).errcode == "M_BAD_JSON"
    refused = await alice.refused(
        "POST", "/v3/rooms/!no:test.example/upgrade", {"new_version": "12"}
    )
    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    refused = await alice.refused(
        "PUT", f"/v3/rooms/{quote(room)}/state/m.room.tombstone/", {"replacement_room": room}
    )
    assert refused.status == 400
    refused = await alice.refused("GET", f"/v3/rooms/{quote(room)}/state/m.room.tombstone/")
    assert refused.errcode == "M_NOT_FOUND"


async def test_the_new_room_says_that_guests_stay_outside_where_the_old_one_was_silent(
    alice: Person,
) -> None:
    old = await alice.creates_room(preset="public_chat")
    answer = await alice.post(f"/v3/rooms/{quote(old)}/upgrade", {"new_version": "11"})
    guests = await state(alice, answer["replacement_room"], "m.room.guest_access")
    assert guests == {"guest_access": "forbidden"}
