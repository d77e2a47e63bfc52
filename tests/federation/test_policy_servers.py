"""Rooms whose events a policy server has to sign: `m.room.policy`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from yizhan_server.federation_client.connections import CONNECTIONS_PER_SERVER
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.hashes import event_id_of
from yizhan_server.protocol.signing import SigningKey
from yizhan_server.rooms.incoming import reception
from yizhan_testing.homeserver import (
    HomeserverInProcess,
    Person,
    homeserver_in_process,
)
from yizhan_testing.later_clock import LaterClock
from yizhan_testing.peer import Peer, federating, open_peer
from yizhan_testing.peer_in_room import joined
from yizhan_testing.peer_rooms import V1, V2, PeerInRoom, path_of
from yizhan_testing.policy_server import KEY_ID, PATH, PlayedPolicyServer
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.databases import Dialect

JsonObject = dict[str, Any]

POLICY = "m.room.policy"


@dataclass
class Scene:
    """A homeserver, the policy server, and a third server that is in the rooms."""

    homeserver: HomeserverInProcess
    judge: PlayedPolicyServer
    third: Peer
    clock: LaterClock

    async def room_of(self, person: Person, **wish: Any) -> str:
        """Return a public room of `person` that uses the policy server, which is in it."""
        room = await person.creates_room(preset="public_chat", **wish)
        await PeerInRoom.joins(self.judge.peer, self.homeserver, room, "judge")
        await person.sets(room, POLICY, self.judge.policy)
        return room

    async def guest_in(self, room: str) -> PeerInRoom:
        """Have somebody of the third server join, which the policy server agrees to."""
        guest = await PeerInRoom.joins(self.third, self.homeserver, room)
        self.judge.events.clear()
        return guest


@pytest_asyncio.fixture
async def scene(
    tmp_path: Path,
    dialect: Dialect,
    authority: CertificateAuthority,
    peer: Peer,
    clock: LaterClock,
) -> AsyncIterator[Scene]:
    async with (
        open_peer(authority) as judge,
        homeserver_in_process(
            tmp_path, dialect, 1, clock, **federating(authority, peer, judge)
        ) as homeserver,
    ):
        yield Scene(homeserver, PlayedPolicyServer(judge), peer, clock)


@pytest_asyncio.fixture
async def alice(scene: Scene) -> Person:
    return await scene.homeserver.person("alice")


async def texts(person: Person, room: str) -> list[str]:
    """Return the texts of all messages that a person is shown, the first one first."""
    page = await person.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="100")
    found = [event["content"].get("body", "") for event in reversed(page["chunk"])]
    return [each for each in found if each]


async def refused(person: Person, room: str, text: str, txn: str = "x") -> tuple[int, JsonObject]:
    """Say something that cannot be sent; returns status and body."""
    path = f"/v3/rooms/{quote(room)}/send/m.room.message/{txn}"
    answer = await person.refused("PUT", path, {"msgtype": "m.text", "body": text})
    return answer.status, answer.body


async def served_event(guest: PeerInRoom, event_id: str) -> Pdu:
    """Return an event as the homeserver gives it to another server."""
    path = path_of(f"{V1}/event", event_id)
    answer = await guest.peer.asks(guest.homeserver, "GET", path)
    return parse_pdu(answer.json["pdus"][0], guest.version)


def signed_by(judge: PlayedPolicyServer, event: JsonObject) -> bool:
    expected = judge.signature(event)[judge.peer.name]
    return bool(event["signatures"].get(judge.peer.name) == expected)


async def test_events_are_signed_by_the_policy_server_before_anybody_gets_them(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await scene.room_of(alice)
    guest = await scene.guest_in(room)
    received = guest.received()
    bob = await scene.homeserver.person("bob")
    said = await alice.says(room, "hello")
    await alice.sets(room, "m.room.topic", {"topic": "here"})
    await alice.sets(room, POLICY, {"of": "another key"}, "elsewhere")
    await alice.invites(room, bob)
    await bob.joins(room)
    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(said)}/r1", {})
    await bob.leaves(room)
    # What is so already is not asked about, nor what says who is asked.
    await alice.sets(room, "m.room.topic", {"topic": "here"})
    await alice.sets(room, POLICY, {**judge.policy, "note": 1})
    kinds = [
        "m.room.message", "m.room.topic", POLICY, "m.room.member", "m.room.member",
        "m.room.redaction", "m.room.member",
    ]  # fmt: skip
    assert judge.kinds == kinds

    async def all_arrive() -> None:
        assert [event["type"] for event in received] == [*kinds, POLICY]

    await until(alice, all_arrive)
    assert all(signed_by(judge, event) for event in received[:-1])
    assert judge.peer.name not in received[-1]["signatures"]
    # Each follows the one before: nothing has come between.
    ids = [event_id_of(event, guest.version) for event in received]
    assert [event["prev_events"] for event in received[1:]] == [[each] for each in ids[:-1]]


@pytest.mark.parametrize("version", ["1", "10"])
async def test_policy_servers_judge_rooms_of_every_version(
    scene: Scene, alice: Person, version: str
) -> None:
    judge = scene.judge
    room = await alice.creates_room(preset="public_chat", room_version=version)
    guest = await joined(judge.peer, scene.homeserver, room)
    judge.version = guest.version
    await alice.sets(room, POLICY, judge.policy)
    said = await alice.says(room, "old, but watched")
    path = path_of(f"{V1}/event", said)
    answer = await judge.peer.asks(scene.homeserver, "GET", path)
    assert signed_by(judge, answer.json["pdus"][0])
    guest.last = [parse_pdu(answer.json["pdus"][0], guest.version)]
    guest.known[guest.last[0].event_id] = guest.last[0]
    own = guest.event("m.room.message", {"body": "mine"})
    assert (await guest.sends(own)).json == {"pdus": {own.event_id: {}}}
    assert await texts(alice, room) == ["old, but watched", "mine"]


async def test_a_refusal_is_told_as_it_is_and_the_event_is_nowhere(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await scene.room_of(alice)
    guest = await scene.guest_in(room)
    received = guest.received()
    judge.forbidden.add("spam")
    assert await refused(alice, room, "spam") == judge.refusal
    judge.refusal = (429, {"errcode": "M_LIMIT_EXCEEDED", "error": "wait", "retry_after_ms": 77})
    assert await refused(alice, room, "spam") == judge.refusal
    # A refusal that would sign the person out, or lead the client astray, says only the reason.
    for status, errcode in ((401, "M_UNKNOWN_TOKEN"), (403, "M_USER_DEACTIVATED")):
        judge.refusal = (status, {"errcode": errcode, "error": "not like this"})
        told = (403, {"errcode": "M_FORBIDDEN", "error": "not like this"})
        assert await refused(alice, room, "spam") == told
    judge.forbidden.add("ban")
    ban = {"user_id": guest.user_id}
    answer = await alice.refused("POST", f"/v3/rooms/{quote(room)}/ban", ban)
    assert (answer.status, answer.body["error"]) == (403, "not like this")
    # The transaction id has not been used up.
    judge.forbidden.clear()
    path = f"/v3/rooms/{quote(room)}/send/m.room.message/x"
    sent = await alice.put(path, {"msgtype": "m.text", "body": "no spam"})
    asked = len(judge.events)
    assert await alice.put(path, {"msgtype": "m.text", "body": "no spam"}) == sent
    assert len(judge.events) == asked

    async def arrives() -> None:
        assert [event["content"].get("body") for event in received] == ["no spam"]

    await until(alice, arrives)
    assert await texts(alice, room) == ["no spam"]


async def test_a_policy_server_that_is_away_has_nothing_sent_and_can_be_dismissed(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room, other = await scene.room_of(alice), await scene.room_of(alice)
    judge.peer.is_down = True
    status, body = await refused(alice, room, "anybody there?")
    assert (status, body["errcode"]) == (502, "M_UNKNOWN")
    assert "policy server" in body["error"]
    asked = judge.peer.count(PATH)
    # It is not asked again at once, for whatever room.
    assert (await refused(alice, other, "and here?"))[0] == 502
    assert judge.peer.count(PATH) == asked
    # A change of name reaches the rooms that it can reach.
    free = await alice.creates_room()
    await alice.put(f"/v3/profile/{quote(alice.user_id)}/displayname", {"displayname": "Alice"})
    name = await alice.get(f"/v3/rooms/{quote(free)}/state/m.room.member/{quote(alice.user_id)}")
    assert name["displayname"] == "Alice"

    judge.peer.is_down = False
    scene.clock.later_ms = 11_000
    await alice.says(other, "there it is")
    judge.peer.is_down = True
    await alice.sets(room, POLICY, {})
    await alice.says(room, "nobody asks")
    assert await texts(alice, room) == ["nobody asks"]


async def test_a_signature_by_another_key_than_the_room_names_is_none(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await scene.room_of(alice)
    judge.signing_key = SigningKey.generate("policy_server")
    status, body = await refused(alice, room, "signed by whom?")
    assert (status, body["errcode"]) == (403, "M_FORBIDDEN")
    # The room learns of the new key.
    judge.key = judge.signing_key
    await alice.sets(room, POLICY, judge.policy)
    await alice.says(room, "signed")
    # A key that is none is a policy server all the same; it need not be asked.
    await alice.sets(room, POLICY, {**judge.policy, "public_keys": {"ed25519": "no key"}})
    judge.events.clear()
    assert (await refused(alice, room, "unsignable"))[0] == 403
    assert judge.events == []
    answers: list[JsonObject] = [
        {}, {judge.peer.name: {KEY_ID: 5}}, {judge.peer.name: []}, {"x.y": {KEY_ID: ""}}
    ]  # fmt: skip
    for answer in answers:
        await alice.sets(room, POLICY, {**judge.policy, "answer": str(answer)})
        judge.peer.answers["POST", PATH] = answer
        assert (await refused(alice, room, "with what signature?"))[0] == 403
    assert await texts(alice, room) == ["signed"]


async def test_only_a_server_in_the_room_that_the_room_names_rightly_is_asked(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await alice.creates_room(preset="public_chat")
    await alice.sets(room, POLICY, judge.policy)
    await alice.says(room, "it is not here")
    there = await PeerInRoom.joins(judge.peer, scene.homeserver, room, "judge")
    assert judge.events == []
    for content in (
        {"via": judge.peer.name},
        {"public_keys": judge.policy["public_keys"]},
        {**judge.policy, "via": [judge.peer.name]},
        {**judge.policy, "via": ""},
        {**judge.policy, "via": "\0"},
        {**judge.policy, "via": f"{judge.peer.name}\0"},
        {**judge.policy, "via": "x" * 5000},
        {**judge.policy, "public_keys": {"ed25519": 5}},
        {**judge.policy, "public_keys": ["ed25519"]},
    ):
        await alice.sets(room, POLICY, content)
        await alice.says(room, "not rightly named")
    assert judge.events == []
    await alice.sets(room, POLICY, judge.policy)
    await alice.says(room, "now it is asked")
    assert judge.texts == ["now it is asked"]
    # It can take leave by itself, and by its own consent only.
    leave = judge.signs(there.builds("m.room.member", {"membership": "leave"}, there.user_id).raw)
    path = path_of(f"{V2}/send_leave", room, event_id_of(leave, there.version))
    assert (await judge.peer.asks(scene.homeserver, "PUT", path, leave)).status == 200
    await alice.says(room, "it has left")
    assert judge.texts == ["now it is asked"]


async def test_an_event_of_another_server_needs_the_signature_as_well(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await scene.room_of(alice)
    guest = await scene.guest_in(room)
    signed = guest.says("signed")
    signed = parse_pdu(judge.signs(signed.raw), guest.version)
    unsigned = guest.says("unsigned")
    wrong = guest.says("wrongly signed")
    judge.signing_key = SigningKey.generate("policy_server")
    wrong = parse_pdu(judge.signs(wrong.raw), guest.version)
    judge.signing_key = None
    judge.forbidden.add("spam")
    spam, follows = guest.says("spam"), guest.says("follows spam")
    for sent in (signed, unsigned, wrong, spam, follows):
        assert await guest.sends(sent) == {sent.event_id: {}}
    assert judge.texts == ["unsigned", "wrongly signed", "spam", "follows spam"]
    assert await texts(alice, room) == ["signed", "unsigned", "wrongly signed", "follows spam"]
    # Who asks here need not ask there.
    for event in (signed, unsigned, wrong, follows):
        assert signed_by(judge, (await served_event(guest, event.event_id)).raw)
    # It stays so, however often it comes, and nothing of ours follows it.
    judge.forbidden.clear()
    await guest.sends(spam)
    said = await served_event(guest, await alice.says(room, "we go on"))
    assert said.prev_events == (follows.event_id,)
    assert "spam" not in await texts(alice, room)


async def test_what_others_said_apart_from_us_needs_the_signature_too(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await scene.room_of(alice)
    guest = await scene.guest_in(room)
    await alice.says(room, "ours")
    judge.events.clear()
    judge.forbidden.add("spam")
    first = guest.says("first")
    signed = [parse_pdu(judge.signs(guest.says("signed").raw), guest.version)]
    guest.last = signed[-1:]
    signed.append(parse_pdu(judge.signs(guest.says("also signed").raw), guest.version))
    guest.last = signed[-1:]
    spam, follows, last = guest.says("spam"), guest.says("follows spam"), guest.says("last")
    sent = [first, *signed, spam, follows, last]
    assert await guest.sends(*sent) == {event.event_id: {} for event in sent}
    assert sorted(judge.texts) == ["first", "follows spam", "last", "spam"]
    said = ["ours", "first", "signed", "also signed", "follows spam", "last"]
    assert await texts(alice, room) == said
    for event in (first, *signed, follows, last):
        assert signed_by(judge, (await served_event(guest, event.event_id)).raw)


async def test_what_changes_the_policy_counts_for_what_follows_it(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await scene.room_of(alice, power_level_content_override={"state_default": 0})
    guest = await scene.guest_in(room)
    judge.forbidden |= {"spam", "more spam"}
    early = guest.says("early")
    off = guest.builds(POLICY, {}, "")
    free = guest.says("spam")
    on = guest.builds(POLICY, judge.policy, "")
    caught, fine = guest.says("more spam"), guest.says("fine")
    await guest.sends(early, off, free, on, caught, fine)
    assert judge.texts == ["early", "more spam", "fine"]
    assert await texts(alice, room) == ["early", "spam", "fine"]


async def test_forbidden_state_does_not_become_the_rooms(scene: Scene, alice: Person) -> None:
    judge = scene.judge
    room = await scene.room_of(alice, power_level_content_override={"state_default": 0})
    guest = await scene.guest_in(room)
    judge.refusal = (404, {"errcode": "M_NOT_FOUND", "error": "Unknown room"})
    judge.forbidden.add("spam")
    name = guest.builds("m.room.name", {"name": "Casino", "body": "spam"}, "")
    assert await guest.sends(name) == {name.event_id: {}}
    assert (await alice.refused("GET", f"/v3/rooms/{quote(room)}/state/m.room.name/")).status == 404


async def test_what_nothing_permits_is_not_asked_about(scene: Scene, alice: Person) -> None:
    room = await scene.room_of(alice)
    guest = await scene.guest_in(room)
    forged = guest.says("by whom?", sender=f"@nobody:{guest.peer.name}")
    name = guest.builds("m.room.name", {"name": "without power"}, "", after=[guest.last[0]])
    await guest.sends(forged)
    await guest.sends(name)
    assert scene.judge.events == []


async def test_a_policy_server_that_hangs_holds_up_neither_the_room_nor_others(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room, free = await scene.room_of(alice), await alice.creates_room()
    guest = await scene.guest_in(room)
    judge.open.clear()
    events = [guest.says(f"{number}") for number in range(12)]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        sending = group.create_task(guest.sends(*events))
        group.create_task(alice.says(room, "between"))
        while judge.waiting < 6:
            await alice.says(free, "elsewhere")
        # Five questions at once about what others sent; our own people are not behind them.
        assert sorted(judge.texts) == ["0", "1", "2", "3", "4", "between"]
        await alice.sets(room, POLICY, {**judge.policy, "note": "the room itself goes on"})
        judge.open.set()
    assert sending.result() == {event.event_id: {} for event in events}
    assert judge.most_waiting == 6
    said = [each for each in await texts(alice, room) if each != "between"]
    assert said == [event.content["body"] for event in events]


async def test_what_a_policy_server_does_not_answer_in_time_is_not_shown(
    scene: Scene, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "POLICY_S", 0.2)
    judge = scene.judge
    room = await scene.room_of(alice)
    guest = await scene.guest_in(room)
    judge.open.clear()
    late = guest.says("late")
    assert await guest.sends(late) == {late.event_id: {}}
    judge.open.set()
    judge.peer.is_down = True
    unsigned = guest.says("nobody to ask")
    assert await guest.sends(unsigned) == {unsigned.event_id: {}}
    signed = parse_pdu(judge.signs(guest.says("asked before").raw), guest.version)
    assert await guest.sends(signed) == {signed.event_id: {}}
    assert await texts(alice, room) == ["asked before"]


async def test_many_who_speak_at_once_wait_for_their_own_signature_only(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room = await scene.room_of(alice)
    judge.open.clear()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        saying = [group.create_task(alice.says(room, f"{number}")) for number in range(12)]
        while judge.waiting < CONNECTIONS_PER_SERVER:
            await alice.get("/v3/account/whoami")
        judge.open.set()
    sent = [each.result() for each in saying]
    assert len(set(sent)) == 12
    assert sorted(await texts(alice, room), key=int) == [str(number) for number in range(12)]
    guest = await scene.guest_in(room)
    last = await served_event(guest, await alice.says(room, "after all that"))
    assert last.prev_events == (guest.last[0].event_id,)


async def test_an_invitation_needs_the_policy_servers_consent_first(
    scene: Scene, alice: Person
) -> None:
    judge, third = scene.judge, scene.third
    room = await scene.room_of(alice)
    invited: list[JsonObject] = []

    async def take(request: web.BaseRequest) -> JsonObject:
        event = orjson.loads(await request.read())["event"]
        invited.append(event)
        # It leaves out the other signatures.
        own = {alice.user_id.partition(":")[2]: event["signatures"][scene.homeserver.server_name]}
        return {"event": {**event, "signatures": own}}

    third.handlers_below[f"{V2}/invite/"] = take
    judge.forbidden.add("invite")
    target = f"@carol:{third.name}"
    path = f"/v3/rooms/{quote(room)}/invite"
    answer = await alice.refused("POST", path, {"user_id": target})
    assert (answer.status, answer.body) == judge.refusal
    assert invited == []
    judge.forbidden.clear()
    await alice.post(path, {"user_id": target})
    assert signed_by(judge, invited[0])
    guest = await PeerInRoom.joins(judge.peer, scene.homeserver, room, "other")
    assert signed_by(judge, guest.state["m.room.member", target].raw)


async def test_who_wants_in_or_out_from_elsewhere_needs_it_too(scene: Scene, alice: Person) -> None:
    judge, third = scene.judge, scene.third
    room = await scene.room_of(alice)
    judge.forbidden.add("join")
    user_id = f"@guest:{third.name}"
    make = path_of(f"{V1}/make_join", room, user_id) + "?ver=12"
    template = (await third.asks(scene.homeserver, "GET", make)).json["event"]
    assert judge.kinds == []
    newcomer = PeerInRoom(third, scene.homeserver, room, judge.version, user_id)
    join = newcomer.signs(template)
    path = path_of(f"{V2}/send_join", room, join.event_id)
    answer = await third.asks(scene.homeserver, "PUT", path, join.raw)
    assert (answer.status, answer.json) == judge.refusal
    members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
    assert user_id not in members["joined"]
    judge.forbidden.clear()
    answer = await third.asks(scene.homeserver, "PUT", path, join.raw)
    assert answer.status == 200
    assert signed_by(judge, answer.json["event"])


async def test_delayed_events_of_other_rooms_do_not_wait_for_a_policy_server(
    scene: Scene, alice: Person
) -> None:
    judge = scene.judge
    room, free = await scene.room_of(alice), await alice.creates_room()
    judge.open.clear()
    for place in (room, free):
        path = f"/v3/rooms/{quote(place)}/send/m.room.message/d?org.matrix.msc4140.delay=1"
        await alice.put(path, {"msgtype": "m.text", "body": "later"})

    async def is_free() -> None:
        assert await texts(alice, free) == ["later"]

    await until(alice, is_free)
    judge.refusal = (403, {"errcode": "M_FORBIDDEN", "error": "no"})
    judge.forbidden.add("later")
    judge.open.set()
    pending = "/unstable/org.matrix.msc4140/delayed_events"
    async with asyncio.timeout(20):
        while (await alice.get(pending))["delayed_events"]:
            pass
    assert await texts(alice, room) == []


async def test_an_event_that_is_full_has_no_room_for_another_signature(
    scene: Scene, alice: Person
) -> None:
    room = await scene.room_of(alice)
    guest = await scene.guest_in(room)
    first = await served_event(guest, await alice.says(room, "x"))
    left = 65_536 - len(encode_canonical(first.raw))
    await alice.says(room, "x" * (left - 10))
    # It would do without the second signature.
    status, body = await refused(alice, room, "x" * (left + 10))
    assert (status, body["errcode"]) == (413, "M_TOO_LARGE")
    assert len(scene.judge.texts) == 3


async def test_a_room_with_a_policy_server_can_be_replaced(scene: Scene, alice: Person) -> None:
    judge = scene.judge
    room = await scene.room_of(alice)
    judge.events.clear()
    path = f"/v3/rooms/{quote(room)}/upgrade"
    new = (await alice.post(path, {"new_version": "12"}))["replacement_room"]
    assert "m.room.tombstone" in judge.kinds
    tombstone = await alice.get(f"/v3/rooms/{quote(room)}/state/m.room.tombstone/")
    assert tombstone["replacement_room"] == new
    # The policy server is not in the new room yet.
    judge.events.clear()
    await alice.says(new, "moved")
    assert judge.events == []


async def test_a_program_of_the_same_name_may_be_the_policy_server(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    judge = PlayedPolicyServer(peer)
    settings = federating(authority, peer, server_name=peer.name)
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        alice = await homeserver.person("alice")
        # How the room begins is not for it to say.
        room = await alice.creates_room(
            initial_state=[{"type": POLICY, "state_key": "", "content": judge.policy}],
            name="begun", topic="well",
        )  # fmt: skip
        assert judge.events == []
        await alice.says(room, "asked for")
        assert judge.texts == ["asked for"]
        judge.forbidden.add("spam")
        assert await refused(alice, room, "spam") == judge.refusal


async def test_this_server_is_no_policy_server(scene: Scene, alice: Person) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(scene.third, scene.homeserver, room)
    answer = await scene.third.asks(scene.homeserver, "POST", PATH, guest.says("sign this").raw)
    assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")
