"""What happens to a room while this server is still taking its state."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_server.rooms.server_access import ServerAccess
from yizhan_testing.large_room import V1, V2, LargeRoom
from yizhan_testing.peer_rooms import path_of
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yizhan_server.rooms.room import Room
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.later_clock import LaterClock
    from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]


class SlowRoom(LargeRoom):
    """A room whose server answers a join only when it may."""

    def __init__(self, peer: Peer, user_id: str) -> None:
        super().__init__(peer, ROOM_VERSIONS["11"], members=1)
        self.join: asyncio.Future[Pdu] = asyncio.get_running_loop().create_future()
        self.may_answer = asyncio.Event()
        self.is_inviting = False
        self.lets_in(user_id)
        answer = peer.handlers_below[f"{V2}/send_join/"]

        async def slow(request: web.BaseRequest) -> web.StreamResponse | JsonObject:
            self.join.set_result(parse_pdu(orjson.loads(await request.read()), self.version))
            await self.may_answer.wait()
            return await answer(request)

        peer.handlers_below[f"{V2}/send_join/"] = slow

    @property
    def id(self) -> str:
        assert self.room_id is not None, "the room has begun"
        return self.room_id

    async def joins(self, person: Person) -> None:
        path = path_of("/v3/join", self.id)
        await person.call("POST", path, {}, params={"via": self.peer.name})

    def builds(
        self,
        kind: str,
        content: JsonObject,
        state_key: str | None = None,
        after: Pdu | None = None,
    ) -> Pdu:
        """Return an event by the room's owner that follows the join, or another event."""
        sender, join = UserID(f"@owner:{self.peer.name}"), self.join.result()
        after = join if after is None else after
        state = {**self.state, join.key: join}
        keys = auth_types_for_event(kind, sender, state_key, content, self.version)
        event = {
            "type": kind, "sender": sender, "room_id": self.room_id, "content": content,
            "origin": self.peer.name, "origin_server_ts": time.time_ns() // 1_000_000,
            "depth": after.depth + 1, "prev_events": [after.event_id],
            "auth_events": [state[key].event_id for key in keys if key in state],
        }  # fmt: skip
        if state_key is not None:
            event["state_key"] = state_key
        raw = hash_and_sign_event(event, self.version, self.peer.name, self.peer.key)
        return parse_pdu(raw, self.version)

    async def invites(self, homeserver: HomeserverInProcess, user_id: str) -> None:
        event = {
            "type": "m.room.member", "sender": f"@owner:{self.peer.name}", "state_key": user_id,
            "content": {"membership": "invite"}, "room_id": self.id, "depth": 9,
            "origin": self.peer.name, "origin_server_ts": 1, "prev_events": [], "auth_events": [],
        }  # fmt: skip
        raw = hash_and_sign_event(event, self.version, self.peer.name, self.peer.key)
        path = path_of(f"{V2}/invite", self.id, parse_pdu(raw, self.version).event_id)
        create = self.state["m.room.create", ""].raw
        body = {"event": raw, "room_version": "11", "invite_room_state": [create]}
        assert (await self.peer.asks(homeserver, "PUT", path, body)).status == 200

    async def sends(self, homeserver: HomeserverInProcess, pdu: Pdu) -> None:
        body = {
            "origin": self.peer.name, "origin_server_ts": 1, "edus": [], "pdus": [pdu.raw],
        }  # fmt: skip
        path = f"{V1}/send/{time.time_ns()}"
        assert (await self.peer.asks(homeserver, "PUT", path, body)).status == 200


@pytest_asyncio.fixture
async def room(peer: Peer, bob: Person) -> SlowRoom:
    return SlowRoom(peer, bob.user_id)


async def joined_rooms(person: Person) -> list[str]:
    rooms: list[str] = (await person.get("/v3/joined_rooms"))["joined_rooms"]
    return rooms


def is_out_of_all(person: Person) -> Callable[[], Awaitable[None]]:
    async def look() -> None:
        assert await joined_rooms(person) == []

    return look


async def test_what_is_said_meanwhile_is_there_with_the_room(
    homeserver: HomeserverInProcess, room: SlowRoom, bob: Person
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(room.joins(bob))
        await room.join
        said = room.builds("m.room.message", {"msgtype": "m.text", "body": "welcome"})
        await room.sends(homeserver, said)
        room.may_answer.set()

    async def read() -> None:
        page = await bob.get(path_of("/v3/rooms", room.id, "messages"), dir="b", limit="5")
        assert said.event_id in [event["event_id"] for event in page["chunk"]]

    await until(bob, read)


async def test_who_is_sent_away_meanwhile_is_not_in_the_room(
    homeserver: HomeserverInProcess, room: SlowRoom, bob: Person
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(room.joins(bob))
        await room.join
        await room.sends(
            homeserver, room.builds("m.room.member", {"membership": "ban"}, bob.user_id)
        )
        room.may_answer.set()
    await until(bob, is_out_of_all(bob))


async def test_what_cannot_be_taken_at_once_is_not_forgotten(
    homeserver: HomeserverInProcess, room: SlowRoom, bob: Person, clock: LaterClock
) -> None:
    missing: list[Pdu] = []

    async def gives_missing(_: web.BaseRequest) -> web.StreamResponse | JsonObject:
        if room.peer.count(path) == 1:
            return web.json_response({"errcode": "M_UNKNOWN", "error": "not now"}, status=503)
        return {"events": [pdu.raw for pdu in missing]}

    path = path_of(f"{V1}/get_missing_events", room.id)
    room.peer.answers["POST", path] = gives_missing
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(room.joins(bob))
        await room.join
        missing.append(room.builds("m.room.message", {"msgtype": "m.text", "body": "before"}))
        ban = room.builds("m.room.member", {"membership": "ban"}, bob.user_id, after=missing[0])
        await room.sends(homeserver, ban)
        room.may_answer.set()

    async def is_out() -> None:
        clock.later_ms = min(clock.later_ms + 60_000, 300_000)  # the peer may be asked again
        assert await joined_rooms(bob) == []

    await until(bob, is_out)
    assert room.peer.count(path) == 2


async def test_one_server_does_not_take_all_the_place_for_what_waits(
    homeserver_of_both: HomeserverInProcess, peer: Peer, stranger: Peer
) -> None:
    homeserver = homeserver_of_both
    bob = await homeserver.person("bob")
    room = SlowRoom(peer, bob.user_id)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(room.joins(bob))
        await room.join
        for number in range(10):
            body = {
                "origin": stranger.name, "origin_server_ts": 1, "edus": [],
                "pdus": [{"room_id": room.id}] * 50,
            }  # fmt: skip
            await stranger.asks(homeserver, "PUT", f"{V1}/send/{number}", body)
        await room.sends(
            homeserver, room.builds("m.room.member", {"membership": "ban"}, bob.user_id)
        )
        room.may_answer.set()
    await until(bob, is_out_of_all(bob))


async def test_who_leaves_meanwhile_is_out_in_the_end(
    homeserver: HomeserverInProcess, room: SlowRoom, bob: Person
) -> None:
    await room.invites(homeserver, bob.user_id)
    event = {
        "type": "m.room.member", "sender": bob.user_id, "state_key": bob.user_id, "depth": 9,
        "content": {"membership": "leave"}, "room_id": room.id, "prev_events": [],
        "auth_events": [],
    }  # fmt: skip
    told = asyncio.Event()

    async def make_leave(_: web.BaseRequest) -> JsonObject:
        told.set()
        return {"room_version": "11", "event": event}

    async def send_leave(_: web.BaseRequest) -> JsonObject:
        return {}

    room.peer.handlers_below |= {
        f"{V1}/make_leave/": make_leave, f"{V2}/send_leave/": send_leave,
    }  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(room.joins(bob))
        await room.join
        tasks.create_task(bob.post(path_of("/v3/rooms", room.id, "leave"), {}))
        # Long enough for what would come of it at once.
        await asyncio.wait([tasks.create_task(told.wait())], timeout=0.3)
        room.may_answer.set()
        told.set()
    assert await joined_rooms(bob) == []


async def test_an_invitation_that_comes_as_the_join_ends_does_not_end_it(
    homeserver: HomeserverInProcess,
    room: SlowRoom,
    bob: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = asyncio.Event()
    is_here = ServerAccess.is_here

    async def slow(self: ServerAccess, of: Room) -> bool:
        found = await is_here(self, of)
        if room.is_inviting and not looked.is_set():
            looked.set()
            # Long enough for a join that nothing holds up.
            await asyncio.wait([joining], timeout=0.5)
        return found

    monkeypatch.setattr(ServerAccess, "is_here", slow)
    async with asyncio.TaskGroup() as tasks:
        joining = tasks.create_task(room.joins(bob))
        await room.join
        room.is_inviting = True
        tasks.create_task(room.invites(homeserver, bob.user_id))
        await looked.wait()
        room.may_answer.set()
    assert await joined_rooms(bob) == [room.id]
