"""Branches of a room: what others say one after another, unaware of what was said here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from yizhan_database import DatabaseUnavailable
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.rooms.recording import Recorder
from yizhan_testing.peer_in_room import joined
from yizhan_testing.peer_rooms import V1, PeerInRoom, path_of

if TYPE_CHECKING:
    from yizhan_server.protocol.room_version import RoomVersion
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import FederatingServer, Peer

Json = dict[str, Any]


async def shown(person: Person, room: str) -> list[str]:
    """Return the IDs of all events that a person is shown as news, the first one first."""
    answer = await person.syncs(since="", filter='{"room":{"timeline":{"limit":200}}}')
    return [event["event_id"] for event in answer.timeline(room)]


async def served(peer: Peer, server: FederatingServer, event_id: str, version: RoomVersion) -> Pdu:
    """Return an event as the homeserver gives it to another server."""
    answer = await peer.asks(server, "GET", path_of(f"{V1}/event", event_id))
    return parse_pdu(answer.json["pdus"][0], version)


async def ends(guest: PeerInRoom, person: Person) -> set[str]:
    """Return the events that the homeserver's next one follows."""
    said = await person.says(guest.room, "what is there to follow?")
    return set((await served(guest.peer, guest.homeserver, said, guest.version)).prev_events)


async def state_answer(guest: PeerInRoom, event: Pdu) -> int:
    """Return the status for who asks for the state before an event."""
    path = path_of(f"{V1}/state_ids", guest.room) + f"?event_id={quote(event.event_id)}"
    return (await guest.peer.asks(guest.homeserver, "GET", path)).status


async def content_of(person: Person, room: str, event: Pdu) -> Json:
    """Return the content that a person is shown of an event."""
    path = f"/v3/rooms/{quote(room)}/event/{quote(event.event_id)}"
    content: Json = (await person.get(path))["content"]
    return content


def counted_jobs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have each job that shows events add how many those are."""
    jobs: list[int] = []
    submit = Recorder.submit

    def counted(self: Recorder, batch: Any, *args: Any) -> Any:
        jobs.append(len(batch.written))
        return submit(self, batch, *args)

    monkeypatch.setattr(Recorder, "submit", counted)
    return jobs


@pytest.mark.parametrize("version", ["2", "12"])
async def test_a_branch_is_shown_in_order_and_its_last_message_ends_it(
    homeserver: HomeserverInProcess,
    peer: Peer,
    alice: Person,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version=version)
    guest = await joined(peer, homeserver, room)
    ours = await alice.says(room, "nobody there has heard this")
    branch = [
        guest.follows(guest.event("m.room.message", {"msgtype": "m.text", "body": f"{number}"}))
        for number in range(30)
    ]
    ids = [event.event_id for event in branch]
    jobs = counted_jobs(monkeypatch)
    answer = await guest.sends(*branch)
    assert answer.json["pdus"] == {event_id: {} for event_id in ids}
    # The first follows what is no end any more; all others need not come one by one.
    assert jobs == [1, 29]
    # One that comes again, with what follows it, is not shown again.
    more = guest.follows(guest.event("m.room.message", {"msgtype": "m.text", "body": "more"}))
    await guest.sends(branch[-1], more)
    assert (await shown(alice, room))[-32:] == [ours, *ids, more.event_id]
    said = await alice.says(room, "now it is one again")
    last = await served(peer, homeserver, said, guest.version)
    assert set(last.prev_events) == {ours, more.event_id}
    assert (await shown(alice, room))[-2:] == [more.event_id, said]


async def test_two_branches_of_one_transaction_both_go_on(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    start = guest.last
    ours = await alice.says(room, "apart")
    left, right = [guest.says("left", after=start)], [guest.says("right", after=start)]
    await guest.sends(*left, *right)
    for number in range(5):
        left.append(guest.says(f"left {number}", after=left[-1:]))
        right.append(guest.says(f"right {number}", after=right[-1:]))
    joint = guest.says("both", after=[left[-1], right[-1]])
    jobs = counted_jobs(monkeypatch)
    await guest.sends(*left[1:], *right[1:], joint)
    assert jobs == [11]
    order = await shown(alice, room)
    assert {each.event_id for each in (*left, *right)} < set(order)
    for side in (left, right):
        places = [order.index(each.event_id) for each in (*side, joint)]
        assert places == sorted(places)
    assert await ends(guest, alice) == {ours, joint.event_id}


async def test_state_set_in_a_branch_counts_for_what_follows_it(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    levels = {"users": {alice.user_id: 100, f"@guest:{peer.name}": 50}, "state_default": 50}
    room = await alice.creates_room(
        preset="public_chat", room_version="10", power_level_content_override=levels
    )
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.says(room, "apart")
    talk = [guest.says("before")]
    talk.append(guest.builds("m.room.topic", {"topic": "theirs"}, ""))
    talk.append(guest.says("between"))
    other = f"@other:{peer.name}"
    talk.append(guest.builds("m.room.member", {"membership": "join"}, other, sender=other))
    guest.state["m.room.member", other] = talk[-1]
    talk += [guest.says("I have just come", sender=other), guest.says("welcome")]
    ids = [event.event_id for event in talk]
    assert await guest.sends(*talk) == {event_id: {} for event_id in ids}
    assert [each for each in await shown(alice, room) if each in ids] == ids
    topic = await alice.get(f"/v3/rooms/{quote(room)}/state/m.room.topic/")
    assert topic == {"topic": "theirs"}
    members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
    assert other in members["joined"]


async def test_who_is_banned_here_is_not_heard_in_a_branch_and_others_are(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    banned = await PeerInRoom.joins(peer, homeserver, room, "banned")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.post(f"/v3/rooms/{quote(room)}/ban", {"user_id": banned.user_id})
    ours = await alice.says(room, "good riddance")
    before = [guest.says("one"), guest.says("two")]
    evading = banned.says("not I", after=before[-1:])
    after = [guest.says("three", after=[evading]), guest.says("four")]
    sent = [*before, evading, *after]
    assert await guest.sends(*sent) == {event.event_id: {} for event in sent}
    ids = [event.event_id for event in (*before, *after)]
    assert (await shown(alice, room))[-5:] == [ours, *ids]
    # Kept, unlike what is rejected: whoever follows it can have it.
    assert await state_answer(guest, evading) == 200
    assert await ends(guest, alice) == {ours, after[-1].event_id}


async def test_what_the_state_of_its_branch_forbids_is_rejected_though_it_is_permitted_here(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    levels: Json = {"users": {alice.user_id: 100, f"@guest:{peer.name}": 90}, "events": {}}
    room = await alice.creates_room(
        preset="public_chat", room_version="10", power_level_content_override=levels
    )
    other = await PeerInRoom.joins(peer, homeserver, room, "other")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    # Here the guest has lost its power, so that what it makes of it is not resolved to be true.
    demotion = await alice.sets(room, "m.room.power_levels", {"users": {alice.user_id: 100}})
    ours = await alice.says(room, "apart")
    silence = guest.builds("m.room.power_levels", {**levels, "events_default": 50}, "")
    guest.state[silence.key] = other.state[silence.key] = silence
    before = guest.says("silence!")
    forbidden = other.says("must I be silent?", after=[before])
    # Nor does it help to name what permits it elsewhere.
    path = f"/v3/rooms/{quote(room)}/state/m.room.power_levels/"
    permits = await served(peer, homeserver, demotion, guest.version)
    member = other.state["m.room.member", other.user_id]
    auth = [other.state["m.room.create", ""], permits, member]
    evading = other.says("who says so?", after=[before], auth=auth)
    after = [guest.says("we do", after=[before]), guest.says("better so")]
    sent = [silence, before, forbidden, evading, *after]
    assert await guest.sends(*sent) == {event.event_id: {} for event in sent}
    told = await shown(alice, room)
    assert not {forbidden.event_id, evading.event_id} & set(told)
    assert [each.event_id for each in (before, *after)] == told[-3:]
    assert [await state_answer(guest, each) for each in (forbidden, evading)] == [404, 404]
    assert await ends(guest, alice) == {ours, after[-1].event_id}
    assert await alice.get(path) == {"users": {alice.user_id: 100}}


async def test_by_what_authority_something_is_said_is_asked_in_a_branch_too(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.says(room, "apart")
    own = [guest.state["m.room.power_levels", ""], guest.state["m.room.member", guest.user_id]]
    first = guest.says("rightly")
    doubled = guest.says("twice", auth=[*own, own[1]])
    lacking = guest.says("without", auth=own[:1], after=[first])
    right = guest.says("rightly again", after=[first])
    sent = [first, doubled, lacking, right]
    assert await guest.sends(*sent) == {event.event_id: {} for event in sent}
    told = await shown(alice, room)
    assert told[-2:] == [first.event_id, right.event_id]
    assert not {doubled.event_id, lacking.event_id} & set(told)


@pytest.mark.parametrize("is_apart", [False, True])
async def test_what_is_redacted_in_the_transaction_that_brings_it_stays_redacted(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, *, is_apart: bool
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="12")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    if is_apart:
        await alice.says(room, "apart")
        await guest.sends(guest.says("a branch"))
    said, more = guest.says("regretted"), guest.says("and more")
    redaction = guest.builds("m.room.redaction", {"redacts": said.event_id})
    last = guest.says("enough")
    sent = [said, more, redaction, last]
    assert await guest.sends(*sent) == {event.event_id: {} for event in sent}
    assert await content_of(alice, room, said) == {}
    assert await content_of(alice, room, more) == more.content
    assert (await shown(alice, room))[-4:] == [event.event_id for event in sent]


async def test_a_redaction_that_comes_before_its_target_in_another_branch_waits_for_it(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="12")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    start = guest.last
    await alice.says(room, "apart")
    left, right = guest.says("left", after=start), guest.says("right", after=start)
    await guest.sends(left, right)
    regretted = guest.says("regretted", after=[right])
    redaction = guest.builds("m.room.redaction", {"redacts": regretted.event_id}, after=[left])
    sent = [redaction, regretted]
    assert await guest.sends(*sent) == {event.event_id: {} for event in sent}
    assert (await shown(alice, room))[-2:] == [event.event_id for event in sent]
    assert await content_of(alice, room, regretted) == {}


async def test_a_redaction_in_a_branch_needs_power_there(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="10")
    said = await alice.says(room, "this stays")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    ours = await alice.says(room, "apart")
    before = guest.says("watch this")
    redaction = guest.builds("m.room.redaction", {}, redacts=said)
    after = [guest.says("is it gone?"), guest.says("no?")]
    sent = [before, redaction, *after]
    assert await guest.sends(*sent) == {event.event_id: {} for event in sent}
    told = await shown(alice, room)
    assert redaction.event_id not in told
    assert told[-3:] == [each.event_id for each in (before, *after)]
    event = await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(said)}")
    assert event["content"]["body"] == "this stays"
    assert await ends(guest, alice) == {ours, after[-1].event_id}


@pytest.mark.parametrize("is_apart", [False, True])
async def test_what_relates_to_a_reply_of_its_transaction_belongs_to_the_thread(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, *, is_apart: bool
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    root = await alice.says(room, "root")
    if is_apart:
        await guest.sends(guest.says("a branch"))
    else:
        guest.last = [await served(peer, homeserver, root, guest.version)]
    await alice.post(f"/v3/rooms/{quote(room)}/read_markers", {"m.read": root})

    def relating(kind: str, event_id: str) -> Pdu:
        relation = {"m.relates_to": {"rel_type": kind, "event_id": event_id}}
        content = {"msgtype": "m.text", "body": f"hey {alice.user_id}", **relation}
        return guest.builds("m.room.message", content)

    reply = relating("m.thread", root)
    await guest.sends(reply, relating("m.reference", reply.event_id))
    wish = '{"room":{"timeline":{"unread_thread_notifications":true}}}'
    unread = (await alice.syncs(since="", filter=wish)).room(room)["unread_thread_notifications"]
    assert unread[root]["notification_count"] == 2


async def test_a_message_that_something_here_follows_already_ends_no_branch(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    late, edge, follows = guest.says("late"), guest.says("edge"), guest.says("follows")
    guest.gives_missing()
    guest.gives_state()
    # More than what is asked for is missing, so that a gap is left before it.
    guest.gives_missing(guest.says("elsewhere", after=[late]))
    assert await guest.sends(follows) == {follows.event_id: {}}
    assert await guest.sends(late) == {late.event_id: {}}
    assert (await shown(alice, room))[-2:] == [follows.event_id, late.event_id]
    assert edge.event_id not in await shown(alice, room)
    assert await ends(guest, alice) == {follows.event_id}


@pytest.mark.parametrize("who", ["somebody here", "somebody there"])
async def test_state_can_be_set_after_branches_that_resolve_to_what_was_before(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, who: str
) -> None:
    levels = {"users": {alice.user_id: 100, f"@guest:{peer.name}": 50}}
    room = await alice.creates_room(
        preset="public_chat", room_version="10", power_level_content_override=levels
    )
    guest = await PeerInRoom.joins(peer, homeserver, room)
    first = guest.builds("m.room.topic", {"topic": "first"}, "")
    # By its date it was set before the one that it follows, and does not prevail.
    second = guest.dates(guest.builds("m.room.topic", {"topic": "second"}, ""), ago_ms=5000)
    beside = guest.says("beside", after=[first])
    await guest.sends(first, second, beside)
    path = f"/v3/rooms/{quote(room)}/state/m.room.topic/"
    assert await alice.get(path) == {"topic": "first"}
    if who == "somebody here":
        await alice.says(room, "together again")
    else:
        await guest.sends(guest.says("together again", after=[second, beside]))
    await alice.sets(room, "m.room.topic", {"topic": "third"})
    await alice.sets(room, "m.room.topic", {"topic": "fourth"})
    assert await alice.get(path) == {"topic": "fourth"}
    assert (await alice.get(f"/v3/rooms/{quote(room)}/state/m.room.power_levels/")).items() >= (
        levels.items()
    )


async def test_state_can_be_set_after_late_state_that_ends_no_branch(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    levels = {"users": {alice.user_id: 100, f"@guest:{peer.name}": 50}}
    room = await alice.creates_room(
        preset="public_chat", room_version="10", power_level_content_override=levels
    )
    guest = await PeerInRoom.joins(peer, homeserver, room)
    late = guest.builds("m.room.topic", {"topic": "late"}, "")
    edge, follows = guest.says("edge"), guest.says("follows")
    guest.gives_missing()
    guest.gives_state()
    guest.gives_missing(guest.says("elsewhere", after=[late]))
    assert await guest.sends(follows) == {follows.event_id: {}}
    assert await guest.sends(late) == {late.event_id: {}}
    assert edge.event_id not in await shown(alice, room)
    assert await ends(guest, alice) == {follows.event_id}
    path = f"/v3/rooms/{quote(room)}/state/m.room.topic/"
    await alice.sets(room, "m.room.topic", {"topic": "at last"})
    assert await alice.get(path) == {"topic": "at last"}


async def test_a_branch_that_the_disk_did_not_take_is_shown_when_it_comes_again(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    ours = await alice.says(room, "apart")
    first, *more = (guest.says(f"{number}") for number in range(4))
    assert await guest.sends(first) == {first.event_id: {}}
    content = {"origin": peer.name, "origin_server_ts": 1, "pdus": [event.raw for event in more]}

    def fails(*_: object) -> None:
        raise DatabaseUnavailable("the disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(Recorder, "submit", fails)
        answered = await peer.asks(homeserver, "PUT", f"{V1}/send/1", content)
        assert answered.status == 503
    assert (await shown(alice, room))[-2:] == [ours, first.event_id]
    answered = await peer.asks(homeserver, "PUT", f"{V1}/send/1", content)
    assert (answered.status, set(answered.json["pdus"])) == (200, {e.event_id for e in more})
    ids = [event.event_id for event in more]
    assert (await shown(alice, room))[-5:] == [ours, first.event_id, *ids]
    assert await ends(guest, alice) == {ours, ids[-1]}


@pytest.mark.parametrize("kind", ["m.room.member", "m.room.message"])
async def test_what_was_redacted_before_it_was_shown_is_shown_redacted(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, kind: str
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="10")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    start, other = guest.last, f"@other:{peer.name}"
    before = guest.says("before")
    if kind == "m.room.member":
        content = {"membership": "join", "displayname": "regretted"}
        told = guest.builds(kind, content, other, sender=other)
    else:
        told = guest.says("regretted")
    # It comes with what is said to permit this.
    stranger = f"@stranger:{peer.name}"
    join = guest.builds("m.room.member", {"membership": "join"}, stranger, sender=stranger)
    auth = [guest.state["m.room.create", ""], guest.state["m.room.power_levels", ""], join]
    early = guest.says("too early", sender=stranger, after=start, auth=auth)
    chain = {"auth_chain": [join.raw, told.raw]}
    peer.answers["GET", path_of(f"{V1}/event_auth", room, early.event_id)] = chain
    redaction = guest.builds("m.room.redaction", {}, redacts=told.event_id, after=start)
    await alice.syncs()
    for event in (early, before, redaction, told):
        assert await guest.sends(event) == {event.event_id: {}}
    answer = await alice.syncs()
    (seen,) = [each for each in answer.timeline(room) if each["event_id"] == told.event_id]
    assert seen["content"] == ({"membership": "join"} if told.is_state else {})
    members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
    assert members["joined"].get(other) in (None, {})
