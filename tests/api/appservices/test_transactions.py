"""What an application service is sent: everything that concerns it, once, in order."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from yizhan_server.app import MIGRATIONS
from yizhan_testing.appservice import HS_TOKEN, Bridge, running_bridge
from yizhan_testing.databases import opened_fresh
from yizhan_testing.homeserver import served, settings_for

from .conftest import Scene, bridged

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess

JsonObject = dict[str, Any]


async def room_with_bot(scene: Scene) -> str:
    room = await scene.alice.creates_room(invite=[scene.bot], name="大厅")
    await scene.bot.joins(room)
    return room


async def test_a_bridge_hears_its_rooms_in_order_and_no_others(scene: Scene) -> None:
    private = await scene.alice.creates_room()
    unheard = await scene.alice.says(private, "not for the bridge")
    room = await room_with_bot(scene)
    said = [await scene.alice.says(room, f"line {number}") for number in range(5)]
    await scene.bot.says(room, "answered")
    event = await scene.bridge.hears(said[-1])

    assert event["content"]["body"] == "line 4"
    assert event["room_id"] == room
    assert event["sender"] == scene.alice.user_id
    assert event["unsigned"]["age"] >= 0
    heard = scene.bridge.event_ids()
    assert [each for each in heard if each in said] == said
    assert unheard not in heard
    assert len(heard) == len(set(heard))
    taken = scene.bridge.arrived
    assert [int(each.txn_id) for each in taken] == list(range(1, len(taken) + 1))
    assert all(each.headers["Authorization"] == f"Bearer {HS_TOKEN}" for each in taken)
    assert all("access_token" not in str(each.headers) for each in taken)


async def test_an_invitation_of_a_user_of_the_bridge_is_heard(scene: Scene) -> None:
    await scene.bridge.registers(scene.homeserver, "_bridge_li")
    ghost = scene.bridge.ghost(scene.homeserver, "_bridge_li")
    before = await scene.alice.creates_room()
    await scene.alice.invites(before, ghost)
    await scene.bridge.until(
        lambda: any(each["state_key"] == ghost.user_id for each in scene.bridge.parts("events"))
    )
    (member,) = scene.bridge.parts("events")
    assert (member["type"], member["content"]["membership"]) == ("m.room.member", "invite")


async def test_state_events_say_what_they_replaced(scene: Scene) -> None:
    room = await room_with_bot(scene)
    renamed = await scene.alice.sets(room, "m.room.name", {"name": "小厅"})
    event = await scene.bridge.hears(renamed)
    assert event["unsigned"]["prev_content"] == {"name": "大厅"}
    assert event["unsigned"]["prev_sender"] == scene.alice.user_id


async def test_rooms_are_heard_by_their_id_and_by_their_alias(
    tmp_path: Path, dialect: Dialect
) -> None:
    namespaces = {
        "users": [], "rooms": [{"regex": ".*", "exclusive": False}], "aliases": [],
    }  # fmt: skip
    async with bridged(tmp_path, dialect, namespaces=namespaces) as scene:
        room = await scene.alice.creates_room()
        await scene.bridge.hears(await scene.alice.says(room, "by id"))
    second = tmp_path / "second"
    second.mkdir()
    namespaces["rooms"] = []
    namespaces["aliases"] = [{"regex": "#open_", "exclusive": False}]
    async with bridged(second, dialect, namespaces=namespaces) as scene:
        await scene.alice.creates_room(room_alias_name="closed")
        room = await scene.alice.creates_room(room_alias_name="open_hall")
        await scene.bridge.hears(await scene.alice.says(room, "by alias"))
        assert {each["room_id"] for each in scene.bridge.parts("events")} == {room}


async def test_a_refused_transaction_is_repeated_byte_for_byte_before_the_next(
    scene: Scene,
) -> None:
    room = await room_with_bot(scene)
    await scene.bridge.hears(await scene.alice.says(room, "before"))
    count = len(scene.bridge.arrived)
    scene.bridge.refusals += [500, 429]
    first = await scene.alice.says(room, "in bad times")
    await scene.bridge.until(lambda: len(scene.bridge.arrived) > count)
    second = await scene.alice.says(room, "meanwhile")
    await scene.bridge.hears(second)

    refused, again, taken, following = scene.bridge.arrived[count:]
    assert refused.txn_id == again.txn_id == taken.txn_id
    assert refused.raw == again.raw == taken.raw
    assert [each["event_id"] for each in taken.body["events"]] == [first]
    assert int(following.txn_id) == int(taken.txn_id) + 1
    assert [each["event_id"] for each in following.body["events"]] == [second]


async def test_a_ping_ends_the_wait_of_a_service_that_is_back(scene: Scene) -> None:
    room = await room_with_bot(scene)
    await scene.bridge.hears(await scene.alice.says(room, "before"))
    # After four failures the next attempt is eight seconds away.
    scene.bridge.answers_with("/ping", {})
    scene.bridge.refusals += [500, 500, 500]
    arrived = len(scene.bridge.arrived)
    said = await scene.alice.says(room, "while away")
    for attempts in (1, 2, 3):
        await scene.bridge.until(partial(scene.bridge.has_taken, arrived + attempts))
        await scene.bot.post("/v1/appservice/bridge/ping", {})
    await scene.bridge.hears(said)


async def test_a_crash_between_sending_and_noting_repeats_the_same_transaction(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with running_bridge() as bridge:
        file = bridge.writes_registration(tmp_path)
        settings = settings_for(tmp_path, **{"appservices.registrations": [str(file)]})
        async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as db:
            async with served(settings, db) as homeserver:
                alice, bot = await homeserver.person("alice"), bridge.bot(homeserver)
                room = await alice.creates_room(invite=[bot])
                await bot.joins(room)
                await bridge.hears(await alice.says(room, "before"))
                # It takes the next one, but its answer never arrives.
                bridge.hold = asyncio.Event()
                said = await alice.says(room, "taken, and not known to be")
                await bridge.hears(said)
                count = len(bridge.arrived)
                later = await alice.says(room, "behind it")
            bridge.hold.set()
            bridge.hold = None
            async with served(settings, db):
                await bridge.until(lambda: len(bridge.arrived) >= count + 2)

    sent, again, following = bridge.arrived[count - 1 : count + 2]
    assert [each["event_id"] for each in sent.body["events"]] == [said]
    assert (again.txn_id, again.raw) == (sent.txn_id, sent.raw)
    assert int(following.txn_id) == int(sent.txn_id) + 1
    assert [each["event_id"] for each in following.body["events"]] == [later]


async def test_what_happened_while_the_bridge_was_down_comes_when_it_is_back(
    tmp_path: Path, dialect: Dialect
) -> None:
    """Also of a room that its user has left since, up to the departure and no further."""
    bridge = Bridge()
    async with running_bridge(bridge):
        file = bridge.writes_registration(tmp_path)
    # Nobody listens there now.
    settings = settings_for(tmp_path, **{"appservices.registrations": [str(file)]})
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as db:
        async with served(settings, db) as homeserver:
            alice, bot = await homeserver.person("alice"), bridge.bot(homeserver)
            room = await alice.creates_room(invite=[bot])
            unheard = [await alice.says(room, "before it came")]
            await bot.joins(room)
            heard = [await alice.says(room, f"line {number}") for number in range(130)]
            await bot.leaves(room)
            unheard.append(await alice.says(room, "after it left"))
        file.unlink()
        async with running_bridge(bridge):
            bridge.writes_registration(tmp_path)
            async with served(settings, db) as homeserver:
                other = await alice_again(homeserver, bridge)
                await bridge.hears(other)
    ids = bridge.event_ids()
    assert [each for each in ids if each in heard] == heard
    assert not set(ids) & set(unheard)
    assert len(ids) == len(set(ids))
    assert len(bridge.arrived) > 1


async def alice_again(homeserver: HomeserverInProcess, bridge: Bridge) -> str:
    """Say something more where the bridge listens; returns the event's id."""
    alice, bot = await homeserver.signs_in("alice"), bridge.bot(homeserver)
    room = await alice.creates_room(invite=[bot])
    await bot.joins(room)
    return await alice.says(room, "now")


async def test_a_service_of_before_v1_is_called_by_the_old_paths(scene: Scene) -> None:
    scene.bridge.legacy = True
    room = await room_with_bot(scene)
    event = await scene.bridge.hears(await scene.alice.says(room, "old friend"))
    assert event["content"]["body"] == "old friend"


async def test_ephemeral_events_come_where_the_bridge_wants_them(full_scene: Scene) -> None:
    scene = full_scene
    room = await room_with_bot(scene)
    private = await scene.alice.creates_room()
    said = await scene.bot.says(room, "read me")
    own = await scene.alice.says(private, "mine")
    await scene.alice.put(f"/v3/rooms/{quote(private)}/typing/{scene.alice.user_id}", TYPING)
    await scene.alice.put(f"/v3/rooms/{quote(room)}/typing/{scene.alice.user_id}", TYPING)
    await scene.alice.post(f"/v3/rooms/{quote(private)}/receipt/m.read/{quote(own)}", {})
    await scene.alice.post(f"/v3/rooms/{quote(room)}/receipt/m.read.private/{quote(said)}", {})
    await scene.alice.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(said)}", {})
    await scene.bot.post(f"/v3/rooms/{quote(room)}/receipt/m.read.private/{quote(said)}", {})
    await scene.alice.put(
        f"/v3/presence/{scene.alice.user_id}/status", {"presence": "online", "status_msg": "忙"}
    )

    def ephemeral(kind: str) -> list[JsonObject]:
        return [each for each in scene.bridge.parts("ephemeral") if each["type"] == kind]

    def readers(receipt_type: str) -> set[str]:
        return {
            user
            for each in ephemeral("m.receipt")
            for user in each["content"][said].get(receipt_type, {})
        }

    await scene.bridge.until(
        lambda: (
            bool(ephemeral("m.typing"))
            and any(each["content"].get("status_msg") == "忙" for each in ephemeral("m.presence"))
            and scene.bot.user_id in readers("m.read.private")
        )
    )
    assert {each["room_id"] for each in ephemeral("m.typing")} == {room}
    assert ephemeral("m.typing")[0]["content"] == {"user_ids": [scene.alice.user_id]}
    assert {each["room_id"] for each in ephemeral("m.receipt")} == {room}
    assert readers("m.read.private") == {scene.bot.user_id}
    assert readers("m.read") == {scene.alice.user_id}
    assert all("room_id" not in each for each in ephemeral("m.presence"))


TYPING = {"typing": True, "timeout": 30000}


async def test_a_bridge_that_does_not_want_ephemeral_events_gets_none(scene: Scene) -> None:
    room = await room_with_bot(scene)
    await scene.alice.put(f"/v3/rooms/{quote(room)}/typing/{scene.alice.user_id}", TYPING)
    said = await scene.alice.says(room, "typed")
    await scene.alice.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(said)}", {})
    await scene.bridge.hears(await scene.alice.says(room, "and more"))
    assert all(set(each.body) == {"events"} for each in scene.bridge.arrived)


async def test_to_device_messages_key_counts_and_device_lists_come_along(
    full_scene: Scene,
) -> None:
    scene = full_scene
    ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
    await ghost.put("/v3/devices/BRIDGE", {"display_name": "bridge"})
    ghost.device_id = "BRIDGE"
    await ghost.post("/v3/keys/upload", upload(ghost.user_id, "BRIDGE"))
    room = await scene.alice.creates_room(invite=[ghost])
    await ghost.joins(room)
    claim = {"one_time_keys": {ghost.user_id: {"BRIDGE": "signed_curve25519"}}}
    assert (await scene.alice.post("/v3/keys/claim", claim))["one_time_keys"]
    await scene.alice.put(
        "/v3/sendToDevice/m.test/1", {"messages": {ghost.user_id: {"BRIDGE": {"n": 1}}}}
    )
    await scene.alice.put(
        "/v3/sendToDevice/m.test/2", {"messages": {scene.alice.user_id: {"*": {"n": 2}}}}
    )
    await scene.alice.post("/v3/keys/upload", upload(scene.alice.user_id, scene.alice.device_id))

    name = "org.matrix.msc3202.device_lists"
    messages = "de.sorunome.msc2409.to_device"
    await scene.bridge.until(
        lambda: (
            bool(scene.bridge.parts(messages))
            and any(scene.alice.user_id in each["changed"] for each in scene.bridge.parts(name))
        )
    )
    assert scene.bridge.parts(messages) == [
        {
            "type": "m.test", "sender": scene.alice.user_id, "content": {"n": 1},
            "to_user_id": ghost.user_id, "to_device_id": "BRIDGE",
        }
    ]  # fmt: skip
    with_message = next(each for each in scene.bridge.arrived if each.body.get(messages))
    counts = with_message.body["org.matrix.msc3202.device_one_time_keys_count"]
    assert counts[ghost.user_id]["BRIDGE"] == {"signed_curve25519": 1}
    fallback = with_message.body["org.matrix.msc3202.device_unused_fallback_key_types"]
    assert fallback[ghost.user_id]["BRIDGE"] == []

    # The bridge has it: nobody else is to get it again.
    await scene.bridge.hears(await scene.alice.says(room, "done"))
    assert "to_device" not in (await ghost.syncs()).body
    assert (await scene.alice.syncs()).body["to_device"]["events"][0]["content"] == {"n": 2}

    await scene.alice.leaves(room)
    await scene.bridge.until(
        lambda: any(scene.alice.user_id in each["left"] for each in scene.bridge.parts(name))
    )


@pytest.mark.parametrize("depth", [252, 253])
async def test_a_message_that_is_nested_as_deeply_as_can_be_stops_no_bridge(
    full_scene: Scene, depth: int
) -> None:
    scene = full_scene
    ghost = await scene.bridge.registers(scene.homeserver, "_bridge_li")
    await ghost.put("/v3/devices/BRIDGE", {"display_name": "bridge"})
    room = await room_with_bot(scene)
    content: dict[str, Any] = {}
    for _ in range(depth - 1):
        content = {"a": content}
    messages = {ghost.user_id: {"BRIDGE": content}}
    await scene.alice.put("/v3/sendToDevice/m.test/1", {"messages": messages})
    await scene.bridge.hears(await scene.alice.says(room, "go on"))
    assert scene.bridge.parts("de.sorunome.msc2409.to_device")[0]["content"] == content


def upload(user_id: str, device_id: str) -> dict[str, object]:
    """Return keys; the server does not judge signatures of devices."""
    return {
        "device_keys": {
            "user_id": user_id, "device_id": device_id, "algorithms": [],
            "keys": {f"curve25519:{device_id}": "c", f"ed25519:{device_id}": "e"},
            "signatures": {},
        },
        "one_time_keys": {
            "signed_curve25519:A": {"key": "a", "signatures": {}},
            "signed_curve25519:B": {"key": "b", "signatures": {}},
        },
    }  # fmt: skip
