"""What becomes of a room whose servers did not hear one another for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web

from yizhan_database import DatabaseUnavailable
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.event import parse_pdu
from yizhan_server.protocol.hashes import event_id_of
from yizhan_server.rooms.recording import Recorder
from yizhan_testing.departments import departments
from yizhan_testing.homeserver import Refused
from yizhan_testing.peer_rooms import V1, PeerInRoom, path_of
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.later_clock import LaterClock
    from yizhan_testing.peer import Answered, Peer

Json = dict[str, Any]

MINUTE_MS = 60_000


@pytest.fixture
def homeserver(homeserver_of_both: HomeserverInProcess) -> HomeserverInProcess:
    return homeserver_of_both


@pytest_asyncio.fixture
async def three(tmp_path: Path, dialect: Dialect) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 3) as servers:
        yield servers


async def sends(guest: PeerInRoom, event: Json, txn_id: str) -> Answered:
    """Send a transaction of one event, and return whatever is answered."""
    content = {"origin": guest.peer.name, "origin_server_ts": 1, "edus": [], "pdus": [event]}
    return await guest.peer.asks(guest.homeserver, "PUT", f"{V1}/send/{txn_id}", content)


async def timeline(person: Person, room: str) -> list[str]:
    """Return the IDs of all events that a person is shown."""
    page = await person.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="100")
    return [event["event_id"] for event in page["chunk"]]


def is_silent(guest: PeerInRoom) -> None:
    """Have the guest's server fail when it is asked for missing events."""

    async def fails(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=502)

    path = path_of(f"{V1}/get_missing_events", guest.room)
    guest.peer.answers["POST", path] = fails


async def test_an_event_is_sent_again_if_its_server_did_not_say_what_is_before_it(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    since = (await alice.syncs()).next_batch
    between, sent = guest.says("between"), guest.says("sent")
    is_silent(guest)
    # Neither refused, since then nobody would send it again; nor taken without what is before it,
    # which would never be shown as news.
    answered = await sends(guest, sent.raw, "1")
    assert (answered.status, answered.errcode) == (503, "M_UNKNOWN")
    assert sent.event_id not in await timeline(alice, room)

    guest.gives_missing(between)
    answered = await sends(guest, sent.raw, "1")
    assert (answered.status, answered.json["pdus"]) == (200, {sent.event_id: {}})
    news = (await alice.syncs(since=since)).timeline(room)
    assert [event["event_id"] for event in news] == [between.event_id, sent.event_id]


async def test_a_server_that_never_says_what_is_missing_holds_itself_up_for_ten_minutes(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, clock: LaterClock
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    guest.says("nobody will ever see this")
    sent = guest.says("nor this")
    is_silent(guest)
    assert (await sends(guest, sent.raw, "1")).status == 503
    clock.later_ms += 11 * MINUTE_MS
    answered = await sends(guest, sent.raw, "1")
    assert answered.status == 200
    assert list(answered.json["pdus"][sent.event_id]) == ["error"]
    # An hour later it may have learnt to speak.
    clock.later_ms += 60 * MINUTE_MS
    assert (await sends(guest, sent.raw, "2")).status == 503


async def test_who_is_removed_is_given_what_the_removal_refers_to_and_nothing_later(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    joined = guest.last[0].event_id
    missed = await alice.says(room, "what did not arrive")
    await alice.post(f"/v3/rooms/{quote(room)}/kick", {"user_id": guest.user_id})
    kick = (await timeline(alice, room))[0]
    later = await alice.says(room, "now that we are among ourselves")

    async def missing_before(event_id: str) -> Answered:
        wish = {"earliest_events": [joined], "latest_events": [event_id], "limit": 10}
        return await peer.asks(homeserver, "POST", path_of(f"{V1}/get_missing_events", room), wish)

    async def asks(kind: str, *parts: str, **query: str) -> Answered:
        path = path_of(f"{V1}/{kind}", *parts)
        words = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        return await peer.asks(homeserver, "GET", f"{path}?{words}" if words else path)

    def ids(events: list[Json]) -> list[str]:
        return [event_id_of(event, guest.version) for event in events]

    assert ids((await missing_before(kick)).json["events"]) == [missed]
    assert ids((await asks("event", kick)).json["pdus"]) == [kick]
    assert ids((await asks("backfill", room, v=kick, limit="2")).json["pdus"]) == [kick, missed]
    for kind in ("state", "state_ids"):
        assert (await asks(kind, room, event_id=kick)).status == 200
    assert (await asks("event_auth", room, kick)).status == 200

    assert (await missing_before(later)).json["events"] == []
    assert (await asks("backfill", room, v=later, limit="2")).json["pdus"] == []
    for answered in (
        await asks("event", later),
        await asks("state", room, event_id=later),
        await asks("state_ids", room, event_id=later),
        await asks("event_auth", room, later),
    ):
        assert (answered.status, answered.errcode) == (404, "M_NOT_FOUND")
    answered = await asks("timestamp_to_event", room, ts="0", dir="f")
    assert (answered.status, answered.errcode) == (403, "M_FORBIDDEN")


async def test_who_follows_a_soft_failed_event_can_have_it(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    banned = await PeerInRoom.joins(peer, homeserver, room, "banned")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.post(f"/v3/rooms/{quote(room)}/ban", {"user_id": banned.user_id})
    evading = banned.says("as if nothing had happened", after=guest.last)
    follows = guest.says("some have seen it", after=[evading])
    assert await guest.sends(evading, follows) == {evading.event_id: {}, follows.event_id: {}}
    shown = await timeline(alice, room)
    assert follows.event_id in shown
    assert evading.event_id not in shown

    path = path_of(f"{V1}/backfill", room) + f"?v={quote(follows.event_id)}&limit=2"
    given = (await peer.asks(homeserver, "GET", path)).json["pdus"]
    assert [parse_pdu(raw, guest.version).event_id for raw in given] == [
        follows.event_id,
        evading.event_id,
    ]
    wish = {"earliest_events": [], "latest_events": [follows.event_id], "limit": 1}
    path = path_of(f"{V1}/get_missing_events", room)
    given = (await peer.asks(homeserver, "POST", path, wish)).json["events"]
    assert [parse_pdu(raw, guest.version).event_id for raw in given] == [evading.event_id]


async def test_state_that_comes_without_the_event_that_made_the_room_is_right(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    # Since v12 events do not name that event, and whoever is in the room has it anyhow.
    room = await alice.creates_room(preset="public_chat", room_version="12")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    other = f"@other:{peer.name}"
    guest.builds("m.room.member", {"membership": "join"}, other, sender=other)
    guest.state["m.room.member", other] = guest.last[0]
    guest.says("this cannot be had")
    sent = guest.says("but this is sent")
    guest.gives_state()
    assert await guest.sends(sent) == {sent.event_id: {}}
    assert sent.event_id in await timeline(alice, room)
    members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
    assert other in members["joined"]


async def test_what_a_failing_disk_kept_from_being_shown_is_shown_with_what_follows_it(
    homeserver: HomeserverInProcess,
    peer: Peer,
    alice: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.says(room, "so that the room forks")
    first = guest.says("first")

    def fails(*_: object) -> None:
        raise DatabaseUnavailable("the disk is full")

    with monkeypatch.context() as disk:
        # Of the two commits that an event beside the end takes, the second.
        disk.setattr(Recorder, "submit", fails)
        assert (await sends(guest, first.raw, "1")).status == 503
    assert first.event_id not in await timeline(alice, room)
    second = guest.says("second")
    assert await guest.sends(second) == {second.event_id: {}}
    assert {first.event_id, second.event_id} <= set(await timeline(alice, room))


async def test_state_is_not_taken_without_what_a_server_signed_whose_keys_are_not_to_be_had(
    homeserver: HomeserverInProcess, peer: Peer, stranger: Peer, alice: Person, clock: LaterClock
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    other = f"@other:{stranger.name}"
    # Both are servers of the room; one has let the other in, and this one has yet to meet it.
    there = PeerInRoom(stranger, homeserver, room, guest.version, other, dict(guest.state))
    there.last = guest.last
    join = there.builds("m.room.member", {"membership": "join"}, other)
    guest.events[join.event_id] = guest.state["m.room.member", other] = join
    guest.says("this cannot be had", after=[join])
    sent = guest.says("but this is sent")
    guest.gives_state()
    stranger.is_down = True
    # Taken without the member whom nobody can vouch for now, the state would differ for ever.
    assert (await sends(guest, sent.raw, "1")).status == 503
    assert (await sends(guest, join.raw, "2")).status == 503

    stranger.is_down = False
    clock.later_ms += 5 * MINUTE_MS
    assert await guest.sends(sent) == {sent.event_id: {}}
    members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
    assert other in members["joined"]


async def removed_behind_the_back_of_c(
    three: list[HomeserverInProcess], monkeypatch: pytest.MonkeyPatch, how: str
) -> tuple[str, Person, Person]:
    """Make a room of a, b and c, and have alice of a remove bob of b, of which c does not hear."""
    a, b, c = three
    alice, bob, carol = await a.person("alice"), await b.person("bob"), await c.person("carol")
    room = await alice.creates_room(preset="public_chat")
    path = f"/v3/join/{quote(room, safe='')}"
    await carol.call("POST", path, {}, params={"via": a.server_name})
    await bob.call("POST", path, {}, params={"via": a.server_name})

    async def carol_knows_bob() -> None:
        members = await carol.get(f"/v3/rooms/{quote(room)}/joined_members")
        assert bob.user_id in members["joined"]

    await until(carol, carol_knows_bob)

    async def hears_nothing(*_: object) -> Json:
        raise MatrixError(503, "M_UNKNOWN", "not now")

    monkeypatch.setattr(c.parts.services.federation_transactions, "receive", hears_nothing)
    await alice.post(f"/v3/rooms/{quote(room)}/{how}", {"user_id": bob.user_id})

    async def bob_is_out() -> None:
        assert (await bob.get("/v3/joined_rooms"))["joined_rooms"] == []

    await until(bob, bob_is_out)
    return room, alice, bob


async def test_who_knows_that_a_user_is_banned_does_not_join_past_those_who_do_not(
    three: list[HomeserverInProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _, bob = await removed_behind_the_back_of_c(three, monkeypatch, "ban")
    path = f"/v3/join/{quote(room, safe='')}"
    with pytest.raises(Refused) as refused:
        await bob.call("POST", path, {}, params={"via": three[2].server_name})
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
    # Else b would think for ever that it is in a room of which nobody tells it anything.
    assert (await bob.get("/v3/joined_rooms"))["joined_rooms"] == []
    assert room not in (await bob.syncs(since="")).body.get("rooms", {}).get("join", {})


async def test_who_was_kicked_and_joins_through_one_who_does_not_know_is_joined_for_all(
    three: list[HomeserverInProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    room, alice, bob = await removed_behind_the_back_of_c(three, monkeypatch, "kick")
    path = f"/v3/join/{quote(room, safe='')}"
    await bob.call("POST", path, {}, params={"via": three[2].server_name})
    monkeypatch.undo()

    async def all_see_bob() -> None:
        members = await alice.get(f"/v3/rooms/{quote(room)}/joined_members")
        assert bob.user_id in members["joined"]

    await until(alice, all_see_bob)
    said = await alice.says(room, "welcome back")

    async def bob_hears() -> None:
        assert said in await timeline(bob, room)

    await until(bob, bob_hears)
