"""Events that somebody has made up just now, and that are said to be of the past."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.peer_rooms import V1, PeerInRoom, path_of
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer


@pytest.mark.parametrize("way", ["live", "behind a gap"])
async def test_who_is_no_moderator_any_more_redacts_nothing_out_of_the_past(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, way: str
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="11")
    guest_id = f"@guest:{peer.name}"
    powers = {alice.user_id: 100, guest_id: 60}
    await alice.sets(room, "m.room.power_levels", {"users": powers})
    said = await alice.says(room, "stays")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    sent = guest.received()
    await alice.sets(room, "m.room.power_levels", {"users": {alice.user_id: 100}})

    async def is_told() -> None:
        assert [event for event in sent if event["type"] == "m.room.power_levels"]

    await until(alice, is_told)
    before = guest.last
    redaction = guest.builds("m.room.redaction", {"redacts": said})
    if way == "live":
        await guest.sends(redaction)
    else:
        guest.gives_state()
        after = guest.says("look", after=[*before, redaction])
        await guest.sends(after)
        await alice.get(path_of("/v3/rooms", room, "messages"), dir="b")
    shown = await alice.get(path_of("/v3/rooms", room, "event", said))
    assert shown["content"]["body"] == "stays"


async def test_who_is_no_moderator_any_more_redacts_nothing_that_is_yet_to_come(
    homeserver_of_both: HomeserverInProcess, peer: Peer, stranger: Peer
) -> None:
    homeserver = homeserver_of_both
    alice = await homeserver.person("alice")
    room = await alice.creates_room(preset="public_chat", room_version="11")
    guest_id = f"@guest:{peer.name}"
    powers = {alice.user_id: 100, guest_id: 60}
    await alice.sets(room, "m.room.power_levels", {"users": powers})
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.sets(room, "m.room.power_levels", {"users": {alice.user_id: 100}})
    other = await PeerInRoom.joins(stranger, homeserver, room, "other")
    said = other.says("stays")
    redaction = guest.builds("m.room.redaction", {"redacts": said.event_id})
    assert await guest.sends(redaction) == {redaction.event_id: {}}
    assert await other.sends(said) == {said.event_id: {}}
    shown = await alice.get(path_of("/v3/rooms", room, "event", said.event_id))
    assert shown["content"]["body"] == "stays"


def at_time(guest: PeerInRoom, pdu: Pdu, ts_ms: int) -> Pdu:
    """Return an event as if it had been sent at another time."""
    raw = {key: each for key, each in pdu.raw.items() if key not in ("hashes", "signatures")}
    raw["origin_server_ts"] = ts_ms
    raw = hash_and_sign_event(raw, guest.version, guest.peer.name, guest.peer.key)
    return parse_pdu(raw, guest.version)


async def test_an_event_that_only_its_own_server_knows_of_is_not_found_in_the_past(
    homeserver_of_both: HomeserverInProcess, peer: Peer, stranger: Peer
) -> None:
    homeserver = homeserver_of_both
    alice = await homeserver.person("alice")
    room = await alice.creates_room(preset="public_chat", room_version="11")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await PeerInRoom.joins(stranger, homeserver, room, "other")
    begun = guest.last
    await asyncio.sleep(0.02)  # what follows is of another millisecond
    lost, edge, between, last = (guest.says(text) for text in ("lost", "edge", "then", "last"))
    guest.gives_state()
    del peer.answers["GET", path_of(f"{V1}/event", lost.event_id)]
    guest.gives_missing(between)
    assert await guest.sends(last) == {last.event_id: {}}

    ts_ms = edge.origin_server_ts - 1
    slipped = at_time(guest, guest.says("made up", after=begun), ts_ms)
    answer = {"origin": peer.name, "origin_server_ts": 1, "pdus": [slipped.raw]}
    path = path_of(f"{V1}/event", slipped.event_id)
    peer.answers["GET", path] = answer

    async def found(told: str) -> str:
        answer = {"event_id": told, "origin_server_ts": ts_ms}
        peer.answers["GET", path_of(f"{V1}/timestamp_to_event", room)] = answer
        where = path_of("/v1/rooms", room, "timestamp_to_event")
        event_id: str = (await alice.get(where, ts=str(ts_ms), dir="b"))["event_id"]
        return event_id

    assert await found("$a\0b") != "$a\0b"
    assert await found(slipped.event_id) != slipped.event_id
    assert peer.count(path) == 1
    shown = await alice.refused("GET", path_of("/v3/rooms", room, "event", slipped.event_id))
    assert shown.status == 404

    stranger.answers["GET", path] = answer
    assert await found(slipped.event_id) == slipped.event_id
