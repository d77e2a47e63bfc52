"""A peer that sends ever more, or what refers to itself: it ends, and others notice nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web

from yizhan_server.protocol.event import parse_pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_server.rooms.incoming.gaps import MAX_MISSING
from yizhan_server.rooms.room import CACHED_MEMBERS
from yizhan_testing.peer_in_room import PeerInRoom, joined

if TYPE_CHECKING:
    from yizhan_server.protocol.event import Pdu
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

V1 = "/_matrix/federation/v1"
SECRET = "the wording of a message"
UNPLACEABLE = "events that it refers to could not be obtained"


@pytest_asyncio.fixture
async def room(alice: Person) -> str:
    return await alice.creates_room(preset="public_chat", room_version="11")


@pytest_asyncio.fixture
async def mallory(peer: Peer, homeserver: HomeserverInProcess, room: str) -> PeerInRoom:
    return await joined(peer, homeserver, room)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def refusals(logged: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the log says of events; nowhere does it say what is in them."""
    assert all(SECRET not in str(record.__dict__) for record in logged.records)
    assert all(record.levelno < logging.ERROR for record in logged.records)
    return [
        record
        for record in logged.records
        if record.name.startswith("yizhan_server") and record.message.startswith("event")
    ]


async def state_of(alice: Person, room: str) -> list[str]:
    state: Any = await alice.get(f"/v3/rooms/{quote(room, safe='')}/state")
    return sorted(event["event_id"] for event in state)


def circle(guest: PeerInRoom, size: int, key: str) -> list[dict[str, Any]]:
    """Return events of an old room each of which names the next in `key`, the last the first."""
    fields = {"auth_events": [*guest.state.values()], "prev_events": guest.last}
    ids = [EventID(f"$circle{size}{key}{number}:{guest.peer.name}") for number in range(size)]
    raws = []
    for number, event_id in enumerate(ids):
        raw = guest.event("m.room.message", {"body": SECRET}).raw
        named = [
            [pdu.event_id, {"sha256": "A" * 43}]
            for pdu in fields[key]
            if pdu.type != "m.room.member" or pdu.sender == guest.user_id
        ]
        following = [ids[(number + 1) % size], {"sha256": "A" * 43}]
        raw |= {"event_id": event_id, key: [*named, following]}
        raws.append(hash_and_sign_event(raw, guest.version, guest.peer.name, guest.peer.key))
    return raws


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("key", ["auth_events", "prev_events"])
async def test_events_that_refer_to_one_another_in_a_circle_are_refused_and_nothing_else_is(
    peer: Peer,
    homeserver: HomeserverInProcess,
    alice: Person,
    logged: pytest.LogCaptureFixture,
    version: str,
    key: str,
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version=version)
    guest = await joined(peer, homeserver, room)
    before = await state_of(alice, room)
    for size in (1, 2, 7):
        made = circle(guest, size, key)
        said = guest.event("m.room.message", {"msgtype": "m.text", "body": "x"})
        logged.clear()
        answer = await guest.sends(*made, said)
        ids = [raw["event_id"] for raw in made]
        assert answer.json["pdus"] == {
            **{event_id: {"error": UNPLACEABLE} for event_id in ids}, said.event_id: {}
        }  # fmt: skip
        guest.follows(said)
        assert sorted(getattr(each, "event_id", "") for each in refusals(logged)) == sorted(ids)
    assert await state_of(alice, room) == before
    assert await alice.says(room, "still here")


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_circle_in_an_auth_chain_that_is_fetched_authorises_nothing(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person, logged: pytest.LogCaptureFixture
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="2")
    guest = await joined(peer, homeserver, room)
    made = circle(guest, 3, "auth_events")
    guest.known |= {raw["event_id"]: parse_pdu(raw, guest.version) for raw in made}
    create = guest.state["m.room.create", ""]
    said = guest.event(
        "m.room.message", {"body": SECRET}, auth=[create.event_id, made[0]["event_id"]]
    )
    place = f"{quote(room, safe='')}/{quote(said.event_id, safe='')}"
    peer.answers["GET", f"{V1}/event_auth/{place}"] = {"auth_chain": [*made, create.raw]}
    answer = await guest.sends(said)
    assert answer.json == {"pdus": {said.event_id: {"error": UNPLACEABLE}}}
    assert [getattr(each, "event_id", "") for each in refusals(logged)] == [said.event_id]
    assert await alice.says(room, "still here")


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_ever_more_missing_events_are_asked_for_a_few_times_only(
    mallory: PeerInRoom, alice: Person, room: str, logged: pytest.LogCaptureFixture
) -> None:
    before = await state_of(alice, room)
    depth = 10_000

    def further(count: int, follows: EventID) -> tuple[list[Pdu], EventID]:
        """Return events, the first of which follows `follows`; and the last one's ID."""
        made: list[Pdu] = []
        for number in range(count):
            named = follows if not made else made[-1].event_id
            made.append(
                mallory.event("m.room.message", {"body": SECRET}, follows=[named], depth=5 + number)
            )
        return made, made[-1].event_id

    chains = {}
    last = EventID("$" + "A" * 43)
    for _ in range(30):
        made, last = further(20, last)
        chains[last] = made
    said = mallory.event("m.room.message", {"body": SECRET}, follows=[last], depth=depth)
    remaining = list(reversed(list(chains.values())))

    async def missing(request: web.BaseRequest) -> web.StreamResponse | dict[str, Any]:
        del request
        made = remaining.pop(0)
        return {"events": [pdu.raw for pdu in made]}

    path = f"{V1}/get_missing_events/{quote(room, safe='')}"
    mallory.peer.answers["POST", path] = missing
    answer = await mallory.sends(said)
    assert answer.json == {"pdus": {said.event_id: {"error": UNPLACEABLE}}}
    assert mallory.peer.count(path) <= 6
    assert len(mallory.peer.asked) < 20
    assert [getattr(each, "event_id", "") for each in refusals(logged)] == [said.event_id]
    assert await state_of(alice, room) == before


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_state_of_too_many_events_that_nobody_has_is_not_fetched(
    mallory: PeerInRoom, alice: Person, room: str, logged: pytest.LogCaptureFixture
) -> None:
    before = await state_of(alice, room)
    edge = mallory.event("m.room.message", {"body": SECRET})
    said = mallory.event("m.room.message", {"body": SECRET}, follows=[edge.event_id])
    place = quote(room, safe="")
    mallory.peer.answers["GET", f"{V1}/state_ids/{place}"] = {
        "pdu_ids": [f"${number:A<43}" for number in range(MAX_MISSING // 2)],
        "auth_chain_ids": [f"${number:B<43}" for number in range(MAX_MISSING // 2 + 1)],
    }
    mallory.peer.answers["GET", f"{V1}/event/{quote(edge.event_id, safe='')}"] = {
        "pdus": [edge.raw]
    }
    answer = await mallory.sends(said)
    assert answer.json == {"pdus": {said.event_id: {"error": UNPLACEABLE}}}
    assert mallory.peer.count(f"{V1}/state_ids/{place}") == 1
    assert mallory.peer.count(f"{V1}/state/{place}") == 0
    assert [getattr(each, "event_id", "") for each in refusals(logged)] == [said.event_id]
    assert await state_of(alice, room) == before


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_flood_of_ends_keeps_nobody_else_from_speaking(
    mallory: PeerInRoom, alice: Person, room: str, homeserver: HomeserverInProcess
) -> None:
    def joins(number: int) -> Pdu:
        user = f"@m{number}:{mallory.peer.name}"
        content = {"membership": "join", "displayname": str(number)}
        return mallory.event("m.room.member", content, user, sender=user)

    # Each beside all others, and each changes the state: whoever follows several merges them.
    forks = [joins(number) for number in range(150)]
    said = [await alice.says(room, "before")]
    for start in range(0, len(forks), 50):
        answer = await mallory.sends(*forks[start : start + 50])
        assert all(result == {} for result in answer.json["pdus"].values())
        found = await homeserver.parts.services.rooms.get(room)
        ends = {each.event_id for each in found.committed.extremities}
        assert len(ends) <= 10
        # The ends that the flood pushes out are its own.
        assert said[-1] in ends
        said.append(await alice.says(room, "in between"))
        assert len(found.committed.extremities) == 1
    page = await alice.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="500")
    shown = {event["event_id"] for event in page["chunk"]}
    assert shown >= {*said, *(fork.event_id for fork in forks)}


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_what_is_refused_is_said_to_its_server_and_logged_once(
    mallory: PeerInRoom, alice: Person, room: str, logged: pytest.LogCaptureFixture
) -> None:
    before = await state_of(alice, room)
    said = mallory.event("m.room.message", {"body": SECRET})
    forged = {**said.raw, "signatures": {mallory.peer.name: {"ed25519:p1": "A" * 86}}}
    assert (await mallory.sends(forged)).json == {
        "pdus": {said.event_id: {"error": "the signature of ed25519:p1 is wrong"}}
    }
    assert [each.message for each in refusals(logged)] == ["event dropped"]

    logged.clear()
    other = mallory.event("m.room.message", {"body": SECRET}, sender=alice.user_id)
    refused = (await mallory.sends(other)).json["pdus"][other.event_id]
    assert refused["error"]
    assert [each.message for each in refusals(logged)] == ["event dropped"]

    logged.clear()
    large = mallory.event("m.room.message", {"body": SECRET})
    # What is no event has no ID, by which to answer.
    large_raw = {**large.raw, "content": {"body": SECRET * 4000}}
    assert (await mallory.sends(large_raw)).json == {"pdus": {}}
    assert [each.message for each in refusals(logged)] == ["event dropped"]

    logged.clear()
    elsewhere = mallory.event("m.room.message", {"body": SECRET}, room_id="!other:elsewhere.test")
    assert (await mallory.sends(elsewhere)).json == {"pdus": {}}
    assert [each.message for each in refusals(logged)] == ["events of an unknown room"]
    assert await state_of(alice, room) == before


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_events_of_a_room_that_everybody_here_has_left_are_refused(
    mallory: PeerInRoom, alice: Person, room: str, logged: pytest.LogCaptureFixture
) -> None:
    await alice.leaves(room)
    said = mallory.event("m.room.message", {"body": SECRET})
    logged.clear()
    for _ in range(2):
        answer = await mallory.sends(said)
        assert answer.json == {"pdus": {said.event_id: {"error": "this server is not in the room"}}}
        assert [each.message for each in refusals(logged)] == [
            "event of a room that this server is not in"
        ]
        logged.clear()


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_replayed_transaction_changes_nothing_and_its_refusals_are_not_logged_again(
    mallory: PeerInRoom, alice: Person, room: str, logged: pytest.LogCaptureFixture
) -> None:
    said = mallory.event("m.room.message", {"msgtype": "m.text", "body": "once"})
    coup = mallory.event("m.room.power_levels", {"users": {mallory.user_id: 100}}, "")
    before = await state_of(alice, room)
    first = await mallory.sends(said, coup, txn_id="again")
    assert [each.message for each in refusals(logged)] == ["event rejected"]
    logged.clear()
    position = (await alice.syncs()).next_batch
    # Under the same number and another one, by its own server or by whoever caught it.
    for txn_id in ("again", "again", "another"):
        assert (await mallory.sends(said, coup, txn_id=txn_id)).json == first.json
    assert refusals(logged) == []
    assert (await alice.syncs(since=position)).timeline(room) == []
    assert await state_of(alice, room) == before


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_asking_for_ever_more_people_keeps_only_some_of_them_in_memory(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person, room: str
) -> None:
    for number in range(CACHED_MEMBERS + 50):
        user = quote(f"@m{number}:{peer.name}", safe="")
        uri = f"{V1}/make_join/{quote(room, safe='')}/{user}?ver=11"
        assert (await peer.asks(homeserver, "GET", uri)).status == 200
    found = await homeserver.parts.services.rooms.get(room)
    assert len(found._state) <= CACHED_MEMBERS
