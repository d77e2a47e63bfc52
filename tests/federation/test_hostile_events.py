"""A server in a room that sends what it should not: refused, told so, and nothing is changed."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from yizhan_server.protocol.canonical_json import encode_lenient
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.identifiers import EventID, RoomID
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.peer_in_room import PeerInRoom, joined

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

SECRET = "the wording of a message"


@pytest_asyncio.fixture
async def room(alice: Person) -> str:
    return await alice.creates_room(preset="public_chat", room_version="11")


@pytest_asyncio.fixture
async def mallory(peer: Peer, homeserver: HomeserverInProcess, room: str) -> PeerInRoom:
    return await joined(peer, homeserver, room)


async def everything(alice: Person, room: str) -> tuple[Any, Any]:
    """Return the state and the timeline that alice is shown."""
    path = f"/v3/rooms/{quote(room, safe='')}"
    state: Any = await alice.get(f"{path}/state")
    page = await alice.get(f"{path}/messages", dir="b", limit="100")
    return sorted(event["event_id"] for event in state), [e["event_id"] for e in page["chunk"]]


async def test_events_of_a_peer_are_shown(mallory: PeerInRoom, alice: Person, room: str) -> None:
    said = mallory.event("m.room.message", {"msgtype": "m.text", "body": SECRET})
    answer = await mallory.sends(said)
    assert answer.json == {"pdus": {said.event_id: {}}}
    assert (await everything(alice, room))[1][0] == said.event_id


async def test_an_event_that_follows_nothing_is_refused(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    before = await everything(alice, room)
    stray = mallory.event("m.room.message", {"body": SECRET}, follows=[])
    answer = await mallory.sends(stray)
    assert answer.status == 200
    assert "error" in answer.json["pdus"][stray.event_id]
    create = mallory.state["m.room.create", ""]
    assert (await mallory.sends(create)).status == 200
    assert await everything(alice, room) == before


@pytest.mark.parametrize("version", ["1", "2"])
async def test_people_speak_at_once_in_a_room_whose_references_carry_hashes(
    alice: Person, version: str
) -> None:
    room = await alice.creates_room(room_version=version)
    await asyncio.gather(*(alice.says(room, str(number)) for number in range(10)))
    assert len((await everything(alice, room))[1]) >= 10


async def test_a_forged_signature_is_refused_and_logged_without_content(
    mallory: PeerInRoom, alice: Person, room: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = await everything(alice, room)
    said = mallory.event("m.room.message", {"body": SECRET})
    signature = said.raw["signatures"][mallory.peer.name]["ed25519:p1"]
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    raw = {**said.raw, "signatures": {mallory.peer.name: {"ed25519:p1": flipped}}}
    assert (await mallory.sends(raw)).status == 200
    assert await everything(alice, room) == before
    dropped = [record for record in caplog.records if record.message == "event dropped"]
    assert len(dropped) == 1
    assert all(SECRET not in str(record.__dict__) for record in caplog.records)


async def test_an_event_in_the_name_of_another_server_is_refused(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    before = await everything(alice, room)
    forged = mallory.event("m.room.message", {"body": SECRET}, sender=alice.user_id)
    assert (await mallory.sends(forged)).status == 200
    assert await everything(alice, room) == before


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_an_invitation_that_is_by_address_until_it_is_redacted_needs_its_senders_signature(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person, version: str
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version=version)
    mallory = await joined(peer, homeserver, room)
    friend = f"@friend:{peer.name}"
    # What comes by address another server may send; what is left when its hash is wrong may not.
    content = {"membership": "invite", "third_party_invite": 1}
    forged = mallory.event("m.room.member", content, friend, sender=alice.user_id)
    raw = {**forged.raw, "content": {**content, "reason": "another"}}
    await mallory.sends(raw)
    state: Any = await alice.get(f"/v3/rooms/{quote(room, safe='')}/state")
    assert friend not in [event["state_key"] for event in state]


async def test_a_changed_content_is_shown_as_redacted(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    said = mallory.event("m.room.message", {"body": "one thing"})
    await mallory.sends({**said.raw, "content": {"body": SECRET}})
    path = f"/v3/rooms/{quote(room, safe='')}/event/{quote(said.event_id, safe='')}"
    assert (await alice.get(path))["content"] == {}


async def test_an_event_that_is_too_large_is_refused(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    before = await everything(alice, room)
    said = mallory.event("m.room.message", {"body": "x"})
    large = {**said.raw, "content": {"body": "x" * 70_000}}
    assert (await mallory.sends(large)).status == 200
    assert await everything(alice, room) == before


async def test_more_events_than_a_transaction_may_hold_are_refused(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    before = await everything(alice, room)
    said = mallory.event("m.room.message", {"body": "x"})
    answer = await mallory.sends(*[said] * 51)
    assert (answer.status, answer.errcode) == (400, "M_BAD_JSON")
    assert await everything(alice, room) == before


async def test_an_event_that_the_room_does_not_permit_changes_nothing(
    mallory: PeerInRoom, alice: Person, room: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = await everything(alice, room)
    levels = {"users": {mallory.user_id: 100}}
    coup = mallory.event("m.room.power_levels", levels, "")
    assert (await mallory.sends(coup)).status == 200
    assert await everything(alice, room) == before
    # Again, it is known; and what follows it, as if it were permitted, is judged without it.
    await mallory.sends(coup)
    mallory.follows(coup)
    name = mallory.event("m.room.name", {"name": SECRET}, "")
    assert (await mallory.sends(name)).status == 200
    assert await everything(alice, room) == before
    refused = [r for r in caplog.records if getattr(r, "event_id", "") == coup.event_id]
    assert len(refused) == 1
    assert all(SECRET not in str(record.__dict__) for record in caplog.records)


async def test_auth_events_that_nobody_has_do_not_authorise(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    before = await everything(alice, room)
    named = [EventID("$" + "A" * 43)]
    said = mallory.event("m.room.message", {"body": SECRET}, auth=named)
    answer = await mallory.sends(said)
    assert "error" in answer.json["pdus"][said.event_id]
    assert await everything(alice, room) == before


@pytest.mark.slow
async def test_a_gigantic_auth_chain_ends_somewhere(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    before = await everything(alice, room)
    create = mallory.state["m.room.create", ""]
    chain = [mallory.event("m.room.member", {"membership": "join"}, mallory.user_id, depth=3)]
    for _ in range(3000):
        chain.append(
            mallory.event(
                "m.room.member", {"membership": "join"}, mallory.user_id,
                auth=[create.event_id, chain[-1].event_id], depth=3,
            )
        )  # fmt: skip
    said = mallory.event(
        "m.room.message", {"body": SECRET}, auth=[create.event_id, chain[-1].event_id]
    )
    path = f"/_matrix/federation/v1/event_auth/{quote(room, safe='')}/"
    mallory.peer.answers["GET", path + quote(said.event_id, safe="")] = {
        "auth_chain": [event.raw for event in chain[:-1]]
    }
    answer = await mallory.sends(said)
    assert "error" in answer.json["pdus"][said.event_id]
    assert await everything(alice, room) == before


async def test_events_of_a_room_that_is_not_here_are_left_alone(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    before = await everything(alice, room)
    other = mallory.event("m.room.message", {"body": SECRET}, room_id="!other:elsewhere.test")
    assert (await mallory.sends(other)).json == {"pdus": {}}
    assert await everything(alice, room) == before


async def test_a_transaction_that_comes_twice_shows_its_events_once(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    said = mallory.event("m.room.message", {"body": "once"})
    answers = await asyncio.gather(
        *(mallory.sends(said, txn_id="again") for _ in range(3)), mallory.sends(said)
    )
    answers.append(await mallory.sends(said, txn_id="again"))
    assert all(answer.json == {"pdus": {said.event_id: {}}} for answer in answers)
    assert (await everything(alice, room))[1].count(said.event_id) == 1


async def test_a_flood_of_forks_does_not_pile_up(
    mallory: PeerInRoom, alice: Person, room: str, homeserver: HomeserverInProcess
) -> None:
    forks = [mallory.event("m.room.message", {"body": str(number)}) for number in range(100)]
    for start in range(0, 100, 50):
        assert (await mallory.sends(*forks[start : start + 50])).status == 200
    found = await homeserver.parts.services.rooms.get(room)
    assert len(found.committed.extremities) <= 10
    last = await alice.says(room, "together")
    assert (await everything(alice, room))[1].count(last) == 1
    assert len(found.committed.extremities) == 1


async def test_a_nul_character_spoils_no_other_event_of_its_transaction(
    mallory: PeerInRoom, alice: Person, room: str
) -> None:
    # A server sends a transaction again until it is taken: refused as a whole, one message with
    # such a character would end all that this server says to us.
    quoted = mallory.event("m.room.message", {"msgtype": "m.text", "body": "a\0b"})
    mallory.follows(quoted)
    nameless = mallory.event("some\0type", {"body": "x"})
    said = mallory.event("m.room.message", {"msgtype": "m.text", "body": "c"})
    answer = await mallory.sends(quoted, nameless, said)
    assert answer.json == {"pdus": {quoted.event_id: {}, said.event_id: {}}}
    seen = (await everything(alice, room))[1]
    assert seen[:2] == [said.event_id, quoted.event_id]


async def test_an_old_room_keeps_numbers_of_any_size_as_they_were_signed(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="5")
    guest = await joined(peer, homeserver, room)
    numbers = {"up": 2**70, "down": -(2**63) - 1, "near": 2**63 - 1, "float": 1e22}
    said = guest.event("m.room.message", {"body": "x", "numbers": numbers})
    body = {
        "origin": peer.name, "origin_server_ts": 1, "pdus": [said.raw], "edus": []
    }  # fmt: skip
    uri = "/_matrix/federation/v1/send/huge"
    answer = await peer.asks(homeserver, "PUT", uri, body, body=encode_lenient(body))
    assert answer.json == {"pdus": {said.event_id: {}}}
    assert (await everything(alice, room))[1][0] == said.event_id
    served = await peer.asks(
        homeserver, "GET", f"/_matrix/federation/v1/event/{quote(said.event_id, safe='')}"
    )
    (raw,) = json.loads(served.content)["pdus"]
    raw.pop("unsigned", None)
    assert raw == said.raw


async def test_a_fault_of_ours_over_one_thing_stops_nothing_else_of_the_transaction(
    mallory: PeerInRoom, alice: Person, room: str, homeserver: HomeserverInProcess
) -> None:
    async def fail(origin: str, content: dict[str, Any]) -> None:
        raise RuntimeError("a fault of the test")

    transactions = homeserver.parts.services.federation_transactions
    transactions._edus = {**transactions._edus, "test.faulty": fail}
    said = mallory.event("m.room.message", {"msgtype": "m.text", "body": "x"})
    answer = await mallory.sends(said, edus=({"edu_type": "test.faulty", "content": {}},))
    assert answer.json == {"pdus": {said.event_id: {}}}
    assert (await everything(alice, room))[1][0] == said.event_id


@pytest.mark.parametrize("depth", [150, 300, 600, 900])
async def test_what_is_nested_beyond_reason_stops_nothing_else_of_the_transaction(
    peer: Peer, alice: Person, homeserver: HomeserverInProcess, depth: int
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="5")
    mallory = await joined(peer, homeserver, room)
    deep: Any = 1
    for number in range(depth):
        deep = {"a": deep} if number % 2 else [deep]
    said = mallory.event("m.room.message", {"msgtype": "m.text", "body": "x"})
    kinds = (
        "m.typing", "m.presence", "m.receipt", "m.direct_to_device", "m.device_list_update",
        "m.signing_key_update",
    )  # fmt: skip
    content = dict.fromkeys(
        ("user_id", "push", "sender", "messages", "keys", "master_key", "!room:a.test"), deep
    )
    # As a server makes it that does not look: a state event, which every answer shows again.
    raw = {**mallory.event("m.room.member", {"membership": "join"}, mallory.user_id).raw}
    raw["content"] = {**raw["content"], "deep": deep}
    joining = hash_and_sign_event(raw, mallory.version, peer.name, peer.key)
    body = {
        "origin": peer.name,
        "origin_server_ts": 1,
        "pdus": [{"room_id": room, "x": deep}, {"room_id": "!x:a.test", "x": deep},
                 joining, said.raw],
        "edus": [{"edu_type": kind, "content": content} for kind in kinds],
    }  # fmt: skip
    uri = f"/_matrix/federation/v1/send/deep{depth}"
    answer = await peer.asks(homeserver, "PUT", uri, body, body=encode_lenient(body))
    assert answer.status == 200, answer.content
    assert said.event_id in (await everything(alice, room))[1]
    path = f"/v3/rooms/{quote(room, safe='')}"
    await alice.post(f"{path}/kick", {"user_id": mallory.user_id})
    await everything(alice, room)
    await alice.syncs()


async def test_a_number_larger_than_any_float_is_read_past_in_an_old_room(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="5")
    guest = await joined(peer, homeserver, room)
    huge = 10**400
    me = {"membership": "join", "displayname": "Mallory", "x": huge}
    member = guest.event("m.room.member", me, guest.user_id)
    guest.follows(member)
    again = guest.follows(guest.event("m.room.member", {**me, "y": 1}, guest.user_id))
    mentions = {"user_ids": [alice.user_id]}
    said = guest.event("m.room.message", {"body": "vast", "m.mentions": mentions, "x": huge})
    guest.follows(said)
    thread = {"rel_type": "m.thread", "event_id": said.event_id}
    reply = guest.event("m.room.message", {"body": "vast", "m.relates_to": thread, "x": huge})
    guest.follows(reply)
    gone = guest.follows(guest.event("m.room.message", {"body": "gone", "x": huge}))
    redaction = guest.event("m.room.redaction", {"redacts": gone.event_id, "x": huge})
    sent = [member, again, said, reply, gone, redaction]
    body = {
        "origin": peer.name, "origin_server_ts": 1, "pdus": [e.raw for e in sent], "edus": []
    }  # fmt: skip
    uri = "/_matrix/federation/v1/send/vast"
    answer = await peer.asks(homeserver, "PUT", uri, body, body=encode_lenient(body))
    assert answer.json == {"pdus": {each.event_id: {} for each in sent}}

    path = f"/v3/rooms/{quote(room, safe='')}"
    state, seen = await everything(alice, room)
    assert again.event_id in state
    assert said.event_id in seen
    await alice.syncs()
    only_files = json.dumps({"room": {"timeline": {"contains_url": True}}})
    await alice.get("/v3/sync", filter=only_files)
    await alice.get("/v3/sync", filter=json.dumps({"event_format": "federation"}))
    await alice.get(f"{path}/state/m.room.member/{quote(guest.user_id, safe='')}")
    await alice.get(f"{path}/members")
    await alice.get(f"{path}/joined_members")
    assert (await alice.get("/v3/notifications"))["notifications"]
    await alice.get(f"/v1/rooms/{quote(room, safe='')}/threads")
    await alice.get(f"{path}/context/{quote(said.event_id, safe='')}")
    wanted = {"search_categories": {"room_events": {"search_term": "vast"}}}
    found = (await alice.post("/v3/search", wanted))["search_categories"]["room_events"]
    assert found["count"] == 2
    await alice.says(room, "after")
    await joined(peer, homeserver, room, "oscar")


async def test_what_no_column_can_hold_is_no_fault_of_ours(
    mallory: PeerInRoom, alice: Person, room: str, homeserver: HomeserverInProcess
) -> None:
    friend, token = f"@friend:{mallory.peer.name}", "a\0b"
    signed = {"token": token, "mxid": friend, "signatures": {}}
    invite = {"membership": "invite", "third_party_invite": {"signed": signed}}
    by_address = mallory.event("m.room.member", invite, friend)
    join = {
        "membership": "join",
        "join_authorised_via_users_server": f"@{token}:{mallory.peer.name}",
    }
    again = mallory.event("m.room.member", join, mallory.user_id)
    for rejected in (by_address, again):
        assert (await mallory.sends(rejected)).json == {"pdus": {rejected.event_id: {}}}
    place = quote(room, safe="")
    event = {
        "type": "m.room.member", "room_id": room, "sender": alice.user_id, "state_key": friend,
        "content": invite,
    }  # fmt: skip
    uri = f"/_matrix/federation/v1/exchange_third_party_invite/{place}"
    assert (await mallory.peer.asks(homeserver, "PUT", uri, event)).status == 403
    uri = f"/_matrix/federation/v1/backfill/{place}?v=%00&limit=1"
    assert (await mallory.peer.asks(homeserver, "GET", uri)).status == 400


def renamed(mallory: PeerInRoom, event: Pdu, event_id: EventID) -> Pdu:
    """Return an event of an old room under another ID."""
    left = {key: part for key, part in event.raw.items() if key not in ("hashes", "signatures")}
    raw = {**left, "event_id": event_id, "origin": mallory.peer.name}
    peer, version = mallory.peer, mallory.version
    pdu = parse_pdu(hash_and_sign_event(raw, version, peer.name, peer.key), version)
    mallory.known[event_id] = pdu
    return pdu


async def test_an_event_with_the_id_of_one_in_another_old_room_stops_nothing_else(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    rooms = [await alice.creates_room(preset="public_chat", room_version="1") for _ in range(2)]
    there, here = [await joined(peer, homeserver, room) for room in rooms]
    said = there.event("m.room.message", {"body": "there"})
    assert (await there.sends(said)).json["pdus"] == {said.event_id: {}}
    again = renamed(here, here.event("m.room.message", {"body": "here"}), said.event_id)
    other = here.event("m.room.message", {"body": "and this"})
    results = (await here.sends(again, other)).json["pdus"]
    assert (set(results[again.event_id]), results[other.event_id]) == ({"error"}, {})
    shown = (await everything(alice, rooms[1]))[1]
    assert other.event_id in shown
    assert said.event_id not in shown


async def test_an_event_of_another_old_room_is_no_part_of_a_state_that_names_its_id(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="1")
    there = await joined(peer, homeserver, room)
    member = {"membership": "join", "displayname": SECRET}
    named = there.follows(there.event("m.room.member", member, there.user_id))
    assert (await there.sends(named)).json["pdus"] == {named.event_id: {}}

    owner = there.user_id
    room_id = RoomID(f"!theirs:{peer.name}")
    here = PeerInRoom(peer, homeserver, room_id, there.version, owner)
    here.follows(here.event("m.room.create", {"creator": owner}, "", follows=[]))
    here.follows(here.event("m.room.member", {"membership": "join"}, owner))
    here.follows(here.event("m.room.join_rules", {"join_rule": "public"}, ""))
    topic = here.event("m.room.topic", {"topic": "theirs"}, "")
    here.follows(renamed(here, topic, named.event_id))
    join = {"membership": "join"}
    template = here.event("m.room.member", join, alice.user_id, sender=alice.user_id).raw
    state = [event.raw for event in here.state.values()]

    async def make_join(_: object) -> Any:
        return {"room_version": "1", "event": template}

    async def send_join(_: object) -> Any:
        return {"origin": peer.name, "state": state, "auth_chain": []}

    peer.handlers_below["/_matrix/federation/v1/make_join/"] = make_join
    peer.handlers_below["/_matrix/federation/v2/send_join/"] = send_join
    await alice.call("POST", f"/v3/join/{quote(room_id)}", {}, params={"via": peer.name})
    told: Any = await alice.get(f"/v3/rooms/{quote(room_id, safe='')}/state")
    shown = {(each["type"], each["room_id"], each["state_key"]) for each in told}
    assert shown == {(kind, room_id, key) for kind, key in here.state if kind != "m.room.topic"} | {
        ("m.room.member", room_id, alice.user_id)
    }


async def test_an_invitation_with_the_id_of_an_event_in_another_old_room_is_refused(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="1")
    there = await joined(peer, homeserver, room)
    said = there.event("m.room.message", {"body": "there"})
    assert (await there.sends(said)).status == 200
    room_id = RoomID(f"!theirs:{peer.name}")
    here = PeerInRoom(peer, homeserver, room_id, there.version, there.user_id)
    event = here.event("m.room.member", {"membership": "invite"}, alice.user_id, follows=[])
    path = f"/_matrix/federation/v2/invite/{quote(room_id, safe='')}/{quote(said.event_id)}"
    body = {
        "room_version": "1",
        "event": renamed(here, event, said.event_id).raw,
        "invite_room_state": [],
    }
    answer = await peer.asks(homeserver, "PUT", path, body)
    assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")
    again = renamed(here, event, EventID(f"$fresh:{peer.name}"))
    path = path.replace(quote(said.event_id), quote(again.event_id))
    answer = await peer.asks(homeserver, "PUT", path, {**body, "event": again.raw})
    assert answer.status == 200, answer.content


@pytest.mark.parametrize("version", ["10", "11"])  # which look for it in different places
async def test_a_redaction_of_what_can_be_no_event_does_not_end_the_search(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, version: str
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version=version)
    said = await alice.says(room, "the grain is stored")
    guest = await joined(peer, homeserver, room)
    strange = guest.follows(guest.event("m.room.redaction", {"redacts": "$a\0b"}))
    assert (await guest.sends(strange)).status == 200
    of_rooms = {"room_events": {"search_term": "grain", "keys": ["content.body"]}}
    found = (await alice.post("/v3/search", {"search_categories": of_rooms}))["search_categories"]
    assert [each["result"]["event_id"] for each in found["room_events"]["results"]] == [said]


async def test_rooms_that_can_be_none_are_named_in_vain(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="10")
    levels = {"users": {alice.user_id: 100, f"@mallory:{peer.name}": 100}}
    await alice.sets(room, "m.room.power_levels", levels)
    guest = await joined(peer, homeserver, room)
    nowhere = "!a\0b:nowhere.test"
    rule = {
        "join_rule": "restricted",
        "allow": [{"type": "m.room_membership", "room_id": nowhere}],
    }
    tombstone = {"body": "moved", "replacement_room": nowhere}
    for kind, content in (("m.room.join_rules", rule), ("m.room.tombstone", tombstone)):
        strange = guest.follows(guest.event(kind, content, ""))
        assert (await guest.sends(strange)).json["pdus"] == {strange.event_id: {}}
    path = quote(room, safe="")
    assert (await bob.refused("POST", f"/v3/join/{path}", {})).status < 500
    for looked in (f"/v1/room_summary/{path}", f"/v1/rooms/{path}/hierarchy"):
        assert (await bob.refused("GET", looked)).status < 500
