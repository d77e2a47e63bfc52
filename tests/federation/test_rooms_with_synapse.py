"""People of this server and of a real Synapse share rooms, whoever of them made the room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from yizhan_testing.beside_synapse import beside_synapse, signs_in
from yizhan_testing.homeserver import Homeserver, Person, Refused
from yizhan_testing.synapse import Synapse

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # Synapse may have to be installed
    pytest.mark.asyncio(loop_scope="module"),
]

_rooms = count(1)


@dataclass(frozen=True)
class Both:
    """The two servers, with somebody on each."""

    homeserver: Homeserver
    synapse: Synapse
    alice: Person
    zhang: Person

    def sides(self, made_by: str) -> tuple[Person, Person]:
        """Return who makes the rooms, and the guest of the other server."""
        return (self.alice, self.zhang) if made_by == "yizhan" else (self.zhang, self.alice)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    async with beside_synapse(tmp_path_factory.mktemp("both")) as (homeserver, synapse):
        alice = await homeserver.person("alice")
        zhang = await signs_in(synapse, homeserver.http, "zhang")
        yield Both(homeserver, synapse, alice, zhang)


made_by_either = pytest.mark.parametrize("made_by", ["yizhan", "synapse"])


async def eventually(check: Callable[[], Awaitable[None]], within_s: float = 60) -> None:
    """Return once a check passes; it is what the two servers have told each other that decides."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while True:
        try:
            return await check()
        except (AssertionError, Refused):
            if loop.time() > end:
                raise
        await asyncio.sleep(0.2)


def path_of(room: str, rest: str) -> str:
    return f"/v3/rooms/{quote(room, safe='')}/{rest}"


async def enters(guest: Person, room: str, host: Person, verb: str = "join") -> None:
    """Join (or knock on) a room of the host's server."""
    via = host.user_id.partition(":")[2]
    path = f"/v3/{verb}/{quote(room, safe='')}"
    await guest.call("POST", path, {}, params={"via": via, "server_name": via})


async def state_of(person: Person, room: str) -> dict[tuple[str, str], str]:
    events: Any = await person.get(path_of(room, "state"))
    return {(each["type"], each["state_key"]): each["event_id"] for each in events}


async def membership(seen_by: Person, room: str, of: Person) -> str:
    path = path_of(room, f"state/m.room.member/{quote(of.user_id)}")
    return str((await seen_by.get(path))["membership"])


async def becomes(seen_by: Person, room: str, of: Person, wanted: str) -> None:
    async def check() -> None:
        assert await membership(seen_by, room, of) == wanted

    await eventually(check)


async def messages(person: Person, room: str) -> list[dict[str, Any]]:
    """Return all messages that there are, the oldest first."""
    found: list[dict[str, Any]] = []
    start: dict[str, str] = {}
    while True:
        page = await person.get(path_of(room, "messages"), dir="b", limit="100", **start)
        found += page["chunk"]
        if not page.get("end") or not page["chunk"]:
            return [each for each in found[::-1] if each["type"] == "m.room.message"]
        start = {"from": page["end"]}


async def texts(person: Person, room: str) -> set[str]:
    return {each["content"].get("body", "") for each in await messages(person, room)}


async def reads(person: Person, room: str, *wanted: str, within_s: float = 60) -> None:
    async def check() -> None:
        assert set(wanted) - await texts(person, room) == set()

    await eventually(check, within_s)


async def agree(both: Both, room: str) -> None:
    """Wait until both have the same state, and the same messages."""

    async def check() -> None:
        assert await state_of(both.alice, room) == await state_of(both.zhang, room)
        here, there = [await messages(each, room) for each in (both.alice, both.zhang)]
        assert {each["event_id"]: each["content"] for each in here} == {
            each["event_id"]: each["content"] for each in there
        }

    await eventually(check)


async def shared_room(host: Person, guest: Person, **wish: Any) -> str:
    wish.setdefault("preset", "public_chat")
    wish.setdefault("name", f"room {next(_rooms)}")
    room = await host.creates_room(**wish)
    await enters(guest, room, host)
    await becomes(host, room, guest, "join")
    return room


async def gives_power(host: Person, room: str, to: Person, level: int = 50) -> None:
    levels = await host.get(path_of(room, "state/m.room.power_levels/"))
    levels.setdefault("users", {})[to.user_id] = level
    await host.sets(room, "m.room.power_levels", levels)

    async def arrives() -> None:
        seen = await to.get(path_of(room, "state/m.room.power_levels/"))
        assert seen["users"].get(to.user_id) == level

    await eventually(arrives)


@made_by_either
@pytest.mark.parametrize("version", ["6", "9", "10", "11", "12"])
async def test_they_talk_change_the_room_and_redact(both: Both, made_by: str, version: str) -> None:
    host, guest = both.sides(made_by)
    room = await shared_room(host, guest, room_version=version)
    asked = await host.says(room, "请各科室报送材料")
    await reads(guest, room, "请各科室报送材料")
    answered = await guest.says(room, "收到")
    await reads(host, room, "收到")

    await host.sets(room, "m.room.topic", {"topic": "周五前"})
    await gives_power(host, room, guest)
    await guest.sets(room, "m.room.name", {"name": "局务会"})

    async def named() -> None:
        assert await host.get(path_of(room, "state/m.room.name/")) == {"name": "局务会"}

    await eventually(named)
    for person, event_id in ((guest, answered), (guest, asked)):
        await person.put(path_of(room, f"redact/{quote(event_id)}/{event_id[1:9]}"), {})

    async def pruned() -> None:
        for person in (host, guest):
            assert [each["content"] for each in await messages(person, room)] == [{}, {}]

    await eventually(pruned)
    await agree(both, room)


@made_by_either
async def test_a_kicked_guest_comes_back_and_a_banned_one_does_not(
    both: Both, made_by: str
) -> None:
    host, guest = both.sides(made_by)
    room = await shared_room(host, guest)
    target = {"user_id": guest.user_id, "reason": "ended"}
    await host.post(path_of(room, "kick"), target)

    async def is_out() -> None:
        joined: Any = await guest.get("/v3/joined_rooms")
        assert room not in joined["joined_rooms"]

    await eventually(is_out)
    await enters(guest, room, host)
    await guest.says(room, "back again")
    await reads(host, room, "back again")

    await host.post(path_of(room, "ban"), target)
    await eventually(is_out)
    with pytest.raises(Refused) as refused:
        await enters(guest, room, host)
    assert refused.value.status == 403
    await host.post(path_of(room, "unban"), target)
    await enters(guest, room, host)
    await agree(both, room)


@made_by_either
async def test_an_invitation_is_accepted_and_another_declined(both: Both, made_by: str) -> None:
    host, guest = both.sides(made_by)

    async def invited(room: str) -> None:
        shown = (await guest.get("/v3/sync"))["rooms"].get("invite", {})
        assert room in shown

    room = await host.creates_room(name="预算", preset="private_chat", invite=[guest])
    await eventually(lambda: invited(room))
    await guest.joins(room)
    await guest.says(room, "我来了")
    await reads(host, room, "我来了")
    await agree(both, room)

    other = await host.creates_room(name="另一个", preset="private_chat", invite=[guest])
    await eventually(lambda: invited(other))
    await guest.leaves(other)
    await becomes(host, other, guest, "leave")

    third = await host.creates_room(preset="private_chat", invite=[guest])
    await eventually(lambda: invited(third))
    await host.post(path_of(third, "kick"), {"user_id": guest.user_id})

    async def uninvited() -> None:
        shown = (await guest.get("/v3/sync"))["rooms"].get("invite", {})
        assert third not in shown

    await eventually(uninvited)


@made_by_either
async def test_both_change_the_power_levels_at_once_and_agree_afterwards(
    both: Both, made_by: str
) -> None:
    host, guest = both.sides(made_by)
    room = await shared_room(host, guest, room_version="11")
    await gives_power(host, room, guest, 100)
    levels = await host.get(path_of(room, "state/m.room.power_levels/"))
    for turn in range(3):
        await asyncio.gather(
            host.sets(room, "m.room.power_levels", {**levels, "invite": 10 + turn}),
            guest.sets(room, "m.room.power_levels", {**levels, "kick": 60 + turn}),
            host.sets(room, "m.room.topic", {"topic": f"host {turn}"}),
            guest.sets(room, "m.room.topic", {"topic": f"guest {turn}"}),
        )
        await host.says(room, f"host {turn}")
        await guest.says(room, f"guest {turn}")
        await reads(host, room, f"guest {turn}")
        await reads(guest, room, f"host {turn}")
    await host.says(room, "settled")
    await reads(guest, room, "settled")
    await agree(both, room)


@made_by_either
@pytest.mark.parametrize("version", ["9", "12"])
async def test_members_of_one_room_may_join_another(both: Both, made_by: str, version: str) -> None:
    host, guest = both.sides(made_by)
    club = await shared_room(host, guest)
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": club}]}
    room = await host.creates_room(
        room_version=version,
        initial_state=[{"type": "m.room.join_rules", "state_key": "", "content": rule}],
    )
    await enters(guest, room, host)
    await guest.says(room, "I belong")
    await reads(host, room, "I belong")
    await agree(both, room)

    await guest.leaves(room)
    await becomes(host, room, guest, "leave")
    await guest.leaves(club)
    await becomes(host, club, guest, "leave")
    with pytest.raises(Refused) as refused:
        await enters(guest, room, host)
    assert refused.value.status == 403


@made_by_either
async def test_who_knocks_is_let_in(both: Both, made_by: str) -> None:
    host, guest = both.sides(made_by)
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = await host.creates_room(name="值班室", initial_state=[rule])
    await enters(guest, room, host, "knock")
    await becomes(host, room, guest, "knock")
    await host.invites(room, guest)

    async def comes_in() -> None:
        await guest.joins(room)

    await eventually(comes_in)
    await guest.says(room, "谢谢")
    await reads(host, room, "谢谢")
    await agree(both, room)


@made_by_either
async def test_the_guest_follows_to_the_upgraded_room(both: Both, made_by: str) -> None:
    host, guest = both.sides(made_by)
    room = await shared_room(host, guest, room_version="10")
    alias = f"#{made_by}:{guest.user_id.partition(':')[2]}"
    path = f"/v3/directory/room/{quote(alias, safe='')}"
    await guest.put(path, {"room_id": room})
    new = (await host.post(path_of(room, "upgrade"), {"new_version": "12"}))["replacement_room"]

    async def told() -> None:
        stone = await guest.get(path_of(room, "state/m.room.tombstone/"))
        assert stone["replacement_room"] == new

    await eventually(told)
    await enters(guest, new, host)

    async def alias_follows() -> None:
        for person in (guest, host):
            assert (await person.get(path))["room_id"] == new

    await eventually(alias_follows)
    await guest.says(new, "here too")
    await reads(host, new, "here too")
    await agree(both, new)
    await agree(both, room)


@made_by_either
async def test_who_leaves_and_returns_goes_on_with_the_room(both: Both, made_by: str) -> None:
    host, guest = both.sides(made_by)
    room = await shared_room(host, guest)
    await guest.says(room, "before")
    await reads(host, room, "before")
    await guest.leaves(room)
    await becomes(host, room, guest, "leave")
    for number in range(10):
        await host.says(room, f"missed {number}")
    await host.sets(room, "m.room.topic", {"topic": "meanwhile"})
    await enters(guest, room, host)
    await guest.says(room, "after")
    await host.says(room, "welcome back")
    await reads(host, room, "after")
    await reads(guest, room, "welcome back")

    async def same_state() -> None:
        assert await state_of(both.alice, room) == await state_of(both.zhang, room)

    await eventually(same_state)


@pytest.mark.parametrize("away", ["yizhan", "synapse"])
@pytest.mark.parametrize("number", [110, pytest.param(500, marks=pytest.mark.long)])
async def test_who_was_away_for_long_catches_up(both: Both, away: str, number: int) -> None:
    gone, stays = both.sides(away)
    room = await shared_room(stays, gone)
    await gone.says(room, "bye")
    await reads(stays, room, "bye")
    server = both.homeserver if away == "yizhan" else both.synapse
    await server.kill()
    for index in range(number):
        await stays.says(room, f"news {index}")
        if index % 20 == 0:
            await stays.sets(room, "m.room.topic", {"topic": f"topic {index}"})
    await (server.resume() if isinstance(server, Homeserver) else server.run())
    # The other tries again at its leisure, and at once when it hears from the one that was away.
    await gone.says(room, "hello again")
    await reads(stays, room, "hello again")
    await reads(gone, room, *(f"news {index}" for index in range(number)), within_s=number)
    await agree(both, room)
