"""What is made of the events that another server sends, and does not send."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from yizhan_server.protocol.event import parse_pdu
from yizhan_server.protocol.hashes import event_id_of
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.rooms import serving_events
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.peer import Peer, federating
from yizhan_testing.peer_rooms import V1, V2, PeerInRoom, path_of
from yizhan_testing.polling import until

JsonObject = dict[str, Any]


async def timeline(person: Person, room: str) -> list[str]:
    """Return the IDs of all events that a person is shown."""
    page = await person.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="100")
    return [event["event_id"] for event in page["chunk"]]


async def test_an_old_server_joins_and_leaves(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room, send_join=f"{V1}/send_join")
    members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
    assert set(members["joined"]) == {alice.user_id, guest.user_id}

    received = guest.received()
    leave = guest.builds("m.room.member", {"membership": "leave"}, guest.user_id)
    path = path_of(f"{V1}/send_leave", room, leave.event_id)
    answered = await peer.asks(homeserver, "PUT", path, leave.raw)
    assert (answered.status, answered.json) == (200, [200, {}])
    # Nor does it get its own leave back, of a room that it has left.
    other = await PeerInRoom.joins(peer, homeserver, await alice.creates_room(preset="public_chat"))
    said = await alice.says(other.room, "for those who are here")

    async def arrives() -> None:
        assert said in [event_id_of(event, other.version) for event in received]

    await until(alice, arrives)
    assert {event["room_id"] for event in received} == {other.room}


async def test_an_old_server_invites(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room, event_id, sender = f"!old:{peer.name}", f"$1:{peer.name}", f"@boss:{peer.name}"
    raw: JsonObject = {
        "room_id": room, "type": "m.room.member", "sender": sender,
        "state_key": alice.user_id, "content": {"membership": "invite"}, "depth": 5,
        "prev_events": [], "auth_events": [], "event_id": event_id, "origin": peer.name,
    }  # fmt: skip
    boss = PeerInRoom(peer, homeserver, room, ROOM_VERSIONS["1"], sender)
    invite = boss.signs(raw)
    path = path_of(f"{V1}/invite", room, event_id)
    answered = await peer.asks(homeserver, "PUT", path, invite.raw)
    assert answered.status == 200
    assert answered.json[0] == 200
    assert set(answered.json[1]["event"]["signatures"]) == {peer.name, homeserver.server_name}
    assert (await alice.syncs()).room(room, "invite") != {}


async def test_a_rejected_event_is_dealt_with_and_never_seen(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    rejected = guest.says("from nobody", sender=f"@stranger:{peer.name}")
    follows = guest.says("from a guest")
    assert await guest.sends(rejected) == {rejected.event_id: {}}
    assert await guest.sends(follows) == {follows.event_id: {}}
    shown = await timeline(alice, room)
    assert follows.event_id in shown
    assert rejected.event_id not in shown
    for kind in ("state", "state_ids"):
        path = path_of(f"{V1}/{kind}", room) + f"?event_id={quote(rejected.event_id)}"
        answered = await peer.asks(homeserver, "GET", path)
        assert (answered.status, answered.errcode) == (404, "M_NOT_FOUND")


async def test_nobody_is_led_through_rejected_events_without_end(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    for name in "abcde":
        await guest.sends(guest.builds("m.room.name", {"name": name}, ""))
    path = f"{path_of(f'{V1}/backfill', room)}?v={quote(guest.last[0].event_id)}&limit=1"
    (last,) = (await peer.asks(homeserver, "GET", path)).json["pdus"]
    assert last["state_key"] == guest.user_id
    monkeypatch.setattr(serving_events, "MAX_WALKED", 4)
    assert (await peer.asks(homeserver, "GET", path)).json["pdus"] == []


async def test_an_auth_event_of_another_room_authorises_nothing(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    first = await alice.creates_room(preset="public_chat")
    second = await alice.creates_room(preset="public_chat")
    there = await PeerInRoom.joins(peer, homeserver, first)
    guest = await PeerInRoom.joins(peer, homeserver, second)
    borrowed = there.state["m.room.member", guest.user_id]
    auth = [guest.state["m.room.power_levels", ""], borrowed]
    wrong = guest.says("by what authority?", auth=auth)
    right = guest.says("by my own", after=[guest.state["m.room.member", guest.user_id]])
    assert await guest.sends(wrong, right) == {wrong.event_id: {}, right.event_id: {}}
    shown = await timeline(alice, second)
    assert right.event_id in shown
    assert wrong.event_id not in shown


async def test_what_follows_events_that_its_server_withholds_is_not_taken(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    withheld = guest.says("you will never see this")
    sent = guest.says("but this")
    guest.gives_missing()
    guest.gives_state()
    assert list((await guest.sends(sent))[sent.event_id]) == ["error"]
    assert peer.count(path_of(f"{V1}/state_ids", room)) == 0

    guest.gives_missing(withheld)
    assert await guest.sends(sent) == {sent.event_id: {}}
    assert {withheld.event_id, sent.event_id} <= set(await timeline(alice, room))


async def test_what_follows_a_rejected_event_behind_a_gap_is_taken(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    edge = guest.builds("m.room.topic", {"topic": "no power for this"}, "")
    between = guest.says("between")
    sent = guest.says("sent")
    guest.gives_missing(between)
    guest.gives_state()
    assert await guest.sends(sent) == {sent.event_id: {}}
    shown = await timeline(alice, room)
    assert {between.event_id, sent.event_id} <= set(shown)
    assert edge.event_id not in shown
    refused = await alice.refused("GET", f"/v3/rooms/{quote(room)}/state/m.room.topic/")
    assert refused.status == 404


async def test_a_rejected_event_in_the_state_behind_a_gap_leaves_what_it_would_replace(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="10")
    levels = {"users": {alice.user_id: 100, f"@guest:{peer.name}": 100}}
    await alice.sets(room, "m.room.power_levels", levels)
    guest = await PeerInRoom.joins(peer, homeserver, room)
    key, last = ("m.room.power_levels", ""), guest.last
    true_levels = guest.state[key]
    # Nobody takes the power of an equal: both are rejected, and the second names the first.
    vain = []
    for users in ({}, {alice.user_id: 0}):
        content = {"users": {guest.user_id: 100, **users}}
        guest.state[key] = guest.builds(key[0], content, "", after=last)
        vain.append(guest.state[key])
    guest.state[key] = true_levels
    guest.builds("m.room.topic", {"topic": "by whoever has power"}, "", after=last)
    between = guest.says("between")
    sent = guest.says("sent")
    guest.gives_missing(between)
    guest.gives_state()
    named = {**guest.state, key: vain[1]}
    told = [each.event_id for each in named.values()]
    peer.answers["GET", path_of(f"{V1}/state_ids", room)] = {
        "pdu_ids": told, "auth_chain_ids": [*told, vain[0].event_id, true_levels.event_id],
    }  # fmt: skip
    assert await guest.sends(sent) == {sent.event_id: {}}

    state = f"/v3/rooms/{quote(room)}/state"
    assert (await alice.get(f"{state}/m.room.power_levels/"))["users"] == levels["users"]
    assert (await alice.get(f"{state}/m.room.topic/"))["topic"] == "by whoever has power"


async def test_a_state_that_names_what_can_be_no_event_leaves_the_gap(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    guest.says("not to be had")
    between = guest.says("between")
    sent = guest.says("sent")
    guest.gives_missing(between)
    guest.gives_state()
    state_ids = "GET", path_of(f"{V1}/state_ids", room)
    given = peer.answers[state_ids]
    peer.answers[state_ids] = {"pdu_ids": ["$a\0b"], "auth_chain_ids": []}
    for _ in range(2):
        results = await guest.sends(sent)
        assert results[sent.event_id]["error"] != "internal error"
    peer.answers[state_ids] = given
    assert await guest.sends(sent) == {sent.event_id: {}}
    assert {between.event_id, sent.event_id} <= set(await timeline(alice, room))


async def test_a_redaction_that_nothing_permits_is_not_shown(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="10")
    said = await alice.says(room, "stays")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    redaction = guest.builds("m.room.redaction", {}, redacts=said)
    follows = guest.says("anything gone?")
    assert await guest.sends(redaction, follows) == {redaction.event_id: {}, follows.event_id: {}}
    shown = await timeline(alice, room)
    assert follows.event_id in shown
    assert redaction.event_id not in shown
    event = await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(said)}")
    assert event["content"]["body"] == "stays"


async def test_nobody_is_let_into_a_room_that_everybody_has_left(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    path = path_of(f"{V1}/make_join", room, f"@guest:{peer.name}") + "?ver=12"
    assert (await peer.asks(homeserver, "GET", path)).status == 200
    await alice.leaves(room)
    answered = await peer.asks(homeserver, "GET", path)
    assert (answered.status, answered.errcode) == (404, "M_NOT_FOUND")


async def test_a_server_that_is_shut_out_learns_nothing_of_who_is_here(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.sets(room, "m.room.server_acl", {"allow": ["*"], "deny": ["127.0.0.1*"]})
    nobody = f"@nobody:{homeserver.server_name}"
    invite = guest.builds("m.room.member", {"membership": "invite"}, nobody)
    content = {"event": invite.raw, "room_version": "12", "invite_room_state": []}
    path = path_of(f"{V2}/invite", room, invite.event_id)
    answered = await peer.asks(homeserver, "PUT", path, content)
    assert (answered.status, answered.errcode) == (403, "M_FORBIDDEN")


async def test_after_an_erasure_no_server_is_given_what_was_said(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    said = await alice.says(room, "forget me")
    await PeerInRoom.joins(peer, homeserver, room)
    heard = await alice.says(room, "you heard me")

    async def body(event_id: str) -> str | None:
        answered = await peer.asks(homeserver, "GET", path_of(f"{V1}/event", event_id))
        content: JsonObject = answered.json["pdus"][0]["content"]
        return content.get("body")

    assert [await body(said), await body(heard)] == ["forget me", "you heard me"]
    erasure = {
        "erase": True,
        "auth": {
            "type": "m.login.password", "password": alice.password,
            "identifier": {"type": "m.id.user", "user": alice.user_id},
        },
    }  # fmt: skip
    await alice.post("/v3/account/deactivate", erasure)

    assert [await body(said), await body(heard)] == [None, None]


async def test_guests_go_when_another_server_says_that_none_are_admitted(
    tmp_path: Path, authority: CertificateAuthority, peer: Peer
) -> None:
    settings = federating(authority, peer, **{"registration.guests": True})
    async with homeserver_in_process(tmp_path, "sqlite", **settings) as homeserver:
        alice = await homeserver.person("alice")
        open_to_guests = {
            "type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "can_join"}
        }  # fmt: skip
        room = await alice.creates_room(
            preset="public_chat", initial_state=[open_to_guests],
            power_level_content_override={"users": {alice.user_id: 100, f"@guest:{peer.name}": 50}},
            room_version="10",
        )  # fmt: skip
        made = await alice.call("POST", "/v3/register", {}, params={"kind": "guest"})
        visitor = Person(
            alice.http, alice.base_url, made["user_id"], made["device_id"], made["access_token"], ""
        )
        await visitor.joins(room)
        guest = await PeerInRoom.joins(peer, homeserver, room)
        closed = guest.builds("m.room.guest_access", {"guest_access": "forbidden"}, "")
        assert await guest.sends(closed) == {closed.event_id: {}}
        members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
        assert set(members["joined"]) == {alice.user_id, guest.user_id}


async def test_nobody_is_invited_into_a_room_that_is_blocked(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    admin = await homeserver.person("admin", admin=True)
    room = await alice.creates_room(preset="public_chat", room_version="10")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await admin.delete(f"/_synapse/admin/v1/rooms/{quote(room)}", {"block": True, "purge": False})
    invite = guest.builds("m.room.member", {"membership": "invite"}, alice.user_id)
    content = {"event": invite.raw, "room_version": "10", "invite_room_state": []}
    path = path_of(f"{V2}/invite", room, invite.event_id)
    answered = await peer.asks(homeserver, "PUT", path, content)
    assert (answered.status, answered.errcode) == (403, "M_FORBIDDEN")


async def test_what_is_given_beyond_the_gap_is_left_alone(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    before = list(guest.state.values())  # back to the event that made the room
    between, sent = guest.says("between"), guest.says("sent")
    guest.gives_missing(*before, between)
    assert await guest.sends(sent) == {sent.event_id: {}}
    assert {between.event_id, sent.event_id} <= set(await timeline(alice, room))


async def test_an_event_that_claims_to_begin_a_room_is_refused(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    said = guest.says("as it should be")
    claim = guest.signs({**said.raw, "prev_events": [], "depth": 1})
    results = await guest.sends(claim, said)
    assert list(results[claim.event_id]) == ["error"]
    assert results[said.event_id] == {}


async def test_who_is_banned_redacts_nothing_out_of_the_past(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="11")
    mallory = f"@mallory:{peer.name}"
    powers = {alice.user_id: 100, mallory: 60}
    await alice.sets(room, "m.room.power_levels", {"users": powers})
    said = await alice.says(room, "stays")
    banned = await PeerInRoom.joins(peer, homeserver, room, "mallory")
    accomplice = await PeerInRoom.joins(peer, homeserver, room, "oscar")
    sent = accomplice.received()
    await alice.post(path_of("/v3/rooms", room, "ban"), {"user_id": mallory})

    async def is_told() -> None:
        assert [event for event in sent if event.get("state_key") == mallory]

    await until(alice, is_told)
    # As if it had been before the ban, behind a gap.
    redaction = banned.builds("m.room.redaction", {"redacts": said})
    banned.gives_state()
    ban = parse_pdu(sent[-1], accomplice.version)
    after = accomplice.says("look", after=[ban, redaction])
    assert await accomplice.sends(after) == {after.event_id: {}}
    shown = await alice.get(path_of("/v3/rooms", room, "event", said))
    assert shown["content"]["body"] == "stays"
