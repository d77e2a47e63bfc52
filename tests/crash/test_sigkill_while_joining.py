"""SIGKILL of a homeserver in the midst of a join: no half room, nobody locked out."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from yizhan_testing.databases import DIALECTS, Dialect
from yizhan_testing.homeserver import Person, Refused, SyncAnswer
from yizhan_testing.mortal_pair import Pair, mortal_pair
from yizhan_testing.sudden_death import Point, noted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

REQUESTS = "federation_client.rooms:RoomRequests"

JOINING = [
    Point("there is a template, and nothing signed", "after", f"{REQUESTS}.make_join"),
    Point("the other side has let us in, and nothing is stored", "after", f"{REQUESTS}.send_join"),
    Point(
        "some of the state is stored", "after", "rooms.incoming.outliers:Outliers._store", call=2
    ),
    Point(
        "all is stored, and the room is not shown",
        "before", "rooms.recording:Recorder.place",
    ),
    Point("the room is shown, and not answered", "after", "rooms.handshakes.joining:Joining.join"),
]  # fmt: skip

LETTING_IN = [
    Point("a template is given", "after", "rooms.handshakes.residing:Residing.make_join"),
    Point(
        "somebody is let in, and not answered",
        "after",
        "rooms.handshakes.residing:Residing.send_join",
    ),
]

INVITING = [
    Point("the other side has signed, and nothing is placed", "after", f"{REQUESTS}.invite"),
]

SOME_STORED, ALL_STORED = JOINING[2:4]
PORTION = 4
SMALL_PORTIONS = f"""
from yizhan_server.rooms.incoming import state_intake
state_intake.PORTION = {PORTION}
"""


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_join_that_a_death_interrupts_leaves_no_half_room_and_is_repeated(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with mortal_pair(tmp_path, JOINING, SMALL_PORTIONS, dialect) as pair:
        for point in JOINING:
            with noted(point):
                room = await invites_to_full_room(pair)
                pair.b.dies(point)
                with pytest.raises((aiohttp.ClientError, ConnectionError)):
                    await pair.joins(pair.bob, room, pair.a.server_name)
                await pair.b.has_died()
                await pair.revives()
                if point is not JOINING[-1]:
                    await sees_only_the_invitation(pair.bob, room)
                await pair.joins(pair.bob, room, pair.a.server_name)
                await pair.shares(room)
                await pair.check()
    known = known_before(tmp_path / "b")
    assert len(known) == len(JOINING)
    assert PORTION < known[JOINING.index(SOME_STORED)] < 20
    assert known[JOINING.index(ALL_STORED)] > 20


def known_before(folder: Path) -> list[int]:
    """Return of each join that was completed how many events of the room had been here before."""
    log = (folder / "homeserver.log").read_text()
    return [int(each) for each in re.findall(r"join: the room is here .*known_before=(\d+)", log)]


async def invites_to_full_room(pair: Pair) -> str:
    """Return a room with some state to which bob is invited, and knows it."""
    room = await pair.alice.creates_room(name="budget", invite=[pair.bob])
    for number in range(20):
        await pair.alice.sets(room, "m.x", {"number": number}, str(number))
    while room not in pair.witnesses[1].invited:
        await pair.witnesses[1].syncs(timeout_ms=1000)
    return room


async def sees_only_the_invitation(bob: Person, room: str) -> None:
    """Check that the room is not there for anybody, and the invitation still is."""
    answer = SyncAnswer(await bob.get("/v3/sync"))
    assert room not in answer.body["rooms"].get("join", {})
    shown = answer.room(room, "invite")["invite_state"]["events"]
    assert {"budget"} == {
        each["content"]["name"] for each in shown if each["type"] == "m.room.name"
    }
    assert room not in (await bob.get("/v3/joined_rooms"))["joined_rooms"]
    path = f"/v3/rooms/{quote(room, safe='')}"
    assert (await bob.refused("GET", f"{path}/state")).status == 403
    assert (await bob.refused("GET", f"{path}/messages?dir=b")).status == 403
    content = {"msgtype": "m.text", "body": "am I in?"}
    assert (await bob.refused("PUT", f"{path}/send/m.room.message/t", content)).status == 403


async def test_a_room_that_was_left_is_joined_again_over_a_death(tmp_path: Path) -> None:
    async with mortal_pair(tmp_path, [ALL_STORED]) as pair:
        room = await pair.meets()
        await pair.says(pair.alice, room, "before")
        await pair.check()
        await pair.bob.leaves(room)
        await pair.witnesses[1].syncs()
        await pair.alice.says(room, "while you were away")
        await pair.alice.sets(room, "m.room.topic", {"topic": "after"})
        pair.b.dies(ALL_STORED)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await pair.joins(pair.bob, room, pair.a.server_name)
        await pair.b.has_died()
        await pair.revives()
        answer = await pair.witnesses[1].syncs()
        assert room not in answer.body.get("rooms", {}).get("join", {})
        content = {"msgtype": "m.text", "body": "am I in?"}
        path = f"/v3/rooms/{quote(room, safe='')}/send/m.room.message/t"
        assert (await pair.bob.refused("PUT", path, content)).status == 403
        await pair.joins(pair.bob, room, pair.a.server_name)
        await pair.shares(room)
        await pair.check()


FORGETS_THE_INVITATION = """
from yizhan_server.rooms.incoming.adoption import Adoption

places = Adoption._place_before

async def forgets(self, tx, room, numbers):
    tx.execute("DELETE FROM invitation_state WHERE room = ?", room.nid)
    return await places(self, tx, room, numbers)

Adoption._place_before = forgets
"""

COUNTS_HIM_IN = """
from yizhan_server.rooms.incoming.adoption import Adoption

places = Adoption._place_before

async def counts_in(self, tx, room, numbers):
    tx.execute("UPDATE membership SET membership = 'join' WHERE room = ?", room.nid)
    return await places(self, tx, room, numbers)

Adoption._place_before = counts_in
"""


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(FORGETS_THE_INVITATION, id="forgets the invitation"),
        pytest.param(COUNTS_HIM_IN, id="counts somebody in"),
    ],
)
async def test_a_build_that_joins_without_care_is_caught(tmp_path: Path, build: str) -> None:
    async with mortal_pair(tmp_path, [ALL_STORED], build) as pair:
        room = await invites_to_full_room(pair)
        pair.b.dies(ALL_STORED)
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await pair.joins(pair.bob, room, pair.a.server_name)
        await pair.b.has_died()
        with pytest.raises((AssertionError, KeyError)):
            await finds_only_the_invitation(pair, room)


async def finds_only_the_invitation(pair: Pair, room: str) -> None:
    await pair.revives()
    await sees_only_the_invitation(pair.bob, room)


async def test_somebody_whom_a_dying_server_lets_in_joins_again(tmp_path: Path) -> None:
    async with mortal_pair(tmp_path, LETTING_IN) as pair:
        for point in LETTING_IN:
            with noted(point):
                room = await pair.bob.creates_room(preset="public_chat", name="budget")
                pair.b.dies(point)
                with pytest.raises(Refused):
                    await pair.joins(pair.alice, room, pair.b.server_name)
                await pair.b.has_died()
                await pair.revives()
                await pair.joins(pair.alice, room, pair.b.server_name)
                await pair.shares(room)
                await pair.check()


async def test_an_invitation_that_a_death_interrupts_is_repeated(tmp_path: Path) -> None:
    async with mortal_pair(tmp_path, INVITING) as pair:
        room = await pair.bob.creates_room(name="budget")
        pair.b.dies(INVITING[0])
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await pair.bob.invites(room, pair.alice)
        await pair.b.has_died()
        await pair.revives()
        await pair.bob.invites(room, pair.alice)
        await pair.alice.joins(room)
        await pair.shares(room)
        await pair.check()
