"""What a sync says when somebody, or oneself, has just come into a room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from yizhan_testing.homeserver import JsonObject, Person, SyncAnswer


def presence_of(answer: SyncAnswer) -> dict[str, Any]:
    events: list[JsonObject] = answer.body.get("presence", {}).get("events", [])
    return {event["sender"]: event["content"]["presence"] for event in events}


async def test_newcomers_learn_the_presence_of_members_and_members_that_of_newcomers(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await alice.syncs()
    await alice.syncs()
    await bob.syncs()
    await bob.joins(room)

    assert presence_of(await bob.syncs())[alice.user_id] == "online"
    assert presence_of(await alice.syncs()) == {bob.user_id: "online"}
    assert presence_of(await bob.syncs()) == presence_of(await alice.syncs()) == {}


async def test_a_room_entered_anew_begins_with_a_gap(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat")
    await alice.says(room, "一")
    await bob.syncs()
    await bob.joins(room)
    section = (await bob.syncs()).room(room)
    assert section["timeline"]["limited"] is True
    await alice.says(room, "二")
    assert (await bob.syncs()).room(room)["timeline"]["limited"] is False


async def test_a_stay_between_two_syncs_is_told_with_the_state(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(name="局务会", invite=[bob])
    await bob.syncs()
    await bob.joins(room)
    await bob.leaves(room)
    no_timeline = '{"room": {"include_leave": true, "timeline": {"types": []}}}'
    left = await bob.syncs(filter=no_timeline)
    events = left.room(room, "leave")["state"]["events"]
    assert {"m.room.create", "m.room.name"} <= {event["type"] for event in events}


async def test_who_comes_back_sees_the_state_that_was_set_meanwhile(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await alice.sets(room, "m.room.history_visibility", {"history_visibility": "joined"})
    await bob.syncs()
    await bob.leaves(room)
    await alice.sets(room, "m.room.topic", {"topic": "旧"})
    await alice.says(room, "between us")
    await alice.sets(room, "m.room.topic", {"topic": "新"})
    await bob.joins(room)

    answer = await bob.syncs()
    topics = [e["content"] for e in answer.timeline(room) if e["type"] == "m.room.topic"]
    assert [topic["topic"] for topic in topics] == ["新"]
    assert answer.texts(room) == []


async def test_history_is_read_forward_from_a_sync(alice: Person) -> None:
    room = await alice.creates_room()
    await alice.says(room, "一")
    token = (await alice.syncs()).next_batch
    await alice.says(room, "二")
    await alice.says(room, "三")
    page = await alice.get(f"/v3/rooms/{quote(room)}/messages", dir="f", **{"from": token})
    assert [event["content"]["body"] for event in page["chunk"]] == ["二", "三"]


async def test_a_filter_may_ask_for_events_as_servers_exchange_them(alice: Person) -> None:
    room = await alice.creates_room()
    said = await alice.says(room, "一")
    gone = await alice.says(room, "二")
    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(gone)}/1", {})
    answer = await alice.syncs(filter='{"event_format": "federation"}')
    events = {event["event_id"]: event for event in answer.timeline(room)}
    assert events[said]["content"]["body"] == "一"
    assert events[gone]["content"] == {}
    wanted = {"prev_events", "auth_events", "depth", "hashes", "signatures", "room_id", "sender"}
    assert all(wanted <= event.keys() for event in events.values())
