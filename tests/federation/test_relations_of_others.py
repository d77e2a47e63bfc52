"""Threads and related events of a room whose history is on other servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio

from yizhan_testing.departments import departments
from yizhan_testing.peer_rooms import V1, PeerInRoom, path_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_server.protocol.event import Pdu
    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2) as servers:
        yield servers


async def in_thread(person: Person, room: str, root: str, text: str) -> str:
    relation = {"rel_type": "m.thread", "event_id": root}
    return await person.says(room, text, **{"m.relates_to": relation})


async def ids_of(person: Person, path: str, **query: str) -> list[str]:
    answer = await person.get(path, **query)
    return [event["event_id"] for event in answer["chunk"]]


def relations_of(room: str, event_id: str) -> str:
    return f"/v1/rooms/{quote(room, safe='')}/relations/{quote(event_id, safe='')}"


async def test_threads_from_before_one_joined_are_there_with_their_replies(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    roots = [await alice.says(room, text) for text in ("one", "two")]
    replies = [await in_thread(alice, room, roots[0], f"reply {number}") for number in range(3)]
    await in_thread(alice, room, roots[1], "late reply")
    path = f"/v3/join/{quote(room, safe='')}"
    await bob.call("POST", path, {}, params={"via": a.server_name})
    # Nobody has paged back.
    assert await ids_of(bob, f"/v1/rooms/{quote(room, safe='')}/threads") == roots[::-1]
    related = relations_of(room, roots[0])
    assert await ids_of(bob, related) == replies[::-1]
    assert await ids_of(bob, related, dir="f", limit="2") == replies[:2]
    first = await bob.get(related, limit="2")
    assert [event["event_id"] for event in first["chunk"]] == replies[:0:-1]
    assert await ids_of(bob, related, **{"from": first["next_batch"]}) == replies[:1]
    event = await bob.get(f"/v3/rooms/{quote(room, safe='')}/event/{quote(roots[0], safe='')}")
    assert event["unsigned"]["m.relations"]["m.thread"]["count"] == 3
    # And so it goes on.
    here = await in_thread(bob, room, roots[0], "after joining")
    assert await ids_of(bob, related) == [here, *replies[::-1]]


async def test_replies_in_a_gap_are_asked_for(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    root = guest.says("root")
    assert await guest.sends(root) == {root.event_id: {}}
    relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": root.event_id}}
    reply = guest.builds("m.room.message", {"body": "in the gap", **relation})
    edge, between, last = guest.says("edge"), guest.says("between"), guest.says("last")
    guest.gives_missing(between)
    guest.gives_state()
    assert await guest.sends(last) == {last.event_id: {}}

    def gives(*pdus: Pdu) -> None:
        answer = {"origin": peer.name, "origin_server_ts": 1, "pdus": [pdu.raw for pdu in pdus]}
        peer.answers["GET", path_of(f"{V1}/backfill", room)] = answer

    gives(reply)
    assert edge.prev_events == (reply.event_id,)
    stranger = await homeserver.person("stranger")
    refused = await stranger.refused("GET", relations_of(room, root.event_id))
    assert refused.status == 404
    assert peer.count(path_of(f"{V1}/backfill", room)) == 0
    assert await ids_of(alice, relations_of(room, root.event_id)) == [reply.event_id]
    assert await ids_of(alice, relations_of(room, last.event_id)) == []
    assert peer.count(path_of(f"{V1}/backfill", room)) == 1
