"""matrix-js-sdk over simplified sliding sync: it shows what it shows over the classic sync."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from yizhan_testing.homeserver import Person
from yizhan_testing.js_client import JsClient
from yizhan_testing.random_acts import RandomActs
from yizhan_testing.town import PASSWORD, share_room

if TYPE_CHECKING:
    from yizhan_testing.town import Town

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

ACTS = 1000
PEOPLE = 5
CATCH_UP_S = 30
LATEST = 10
"""Of each room, the events at the end of the timeline that are compared."""


async def test_encrypted_conversation_over_sliding_sync(town: Town) -> None:
    alice = await town.js(await town.person("alice"), sync="sliding")
    bob = await town.js(await town.person("bob"), sync="sliding")
    await asyncio.gather(alice.sets_up_identity(), bob.sets_up_identity())
    room = await share_room(alice, bob)

    sent = await alice.says(room, "你好，小鲍")
    read = await bob.reads("你好，小鲍", room=room)
    assert (read.event_id, read.encrypted) == (sent, True)
    answer = await bob.says(room, "你好！", reply_to=sent)
    assert (await alice.reads("你好！", room=room)).event_id == answer

    await bob.marks_read(answer)
    assert (await alice.sees_receipt(bob.user_id, answer))["type"] == "m.read"
    await bob.types(room)
    await alice.sees_typing(room, bob.user_id)
    await bob.types(room, typing=False)
    await alice.sees_typing(room, bob.user_id, typing=False)
    await alice.reacts(room, answer, "👍")
    assert await bob.sees_reactions(room, answer, "👍") == [alice.user_id]
    await alice.verifies(bob, room)


async def test_unread_messages_are_counted_over_sliding_sync(town: Town) -> None:
    alice = await town.js(await town.person("alice"), sync="sliding")
    bob = await town.js(await town.person("bob"))
    room = await bob.creates_room(invite=[alice.user_id], encrypted=False)
    await alice.accepts_invitation(room)
    await bob.says(room, "eins")
    last = await bob.says(room, "zwei", mentions=[alice.user_id])

    await alice.reads(event_id=last)
    await alice.sees_unread(room, 2, 1)
    await alice.marks_read(last)
    await alice.sees_unread(room, 0, 0)


@pytest.mark.parametrize("sync", ["sliding", "classic"])
async def test_a_late_device_reads_what_it_is_given(town: Town, sync: str) -> None:
    alice = await town.js(await town.person("alice"))
    room = await alice.creates_room(name="经营部", encrypted=False)
    for number in range(40):
        await alice.says(room, str(number))

    late = await town.js(alice.user_id, sync=sync)
    await late.reads("39", room=room)
    assert (await late.rooms())[room]["name"] == "经营部"
    await late.scrolls_back(room)
    assert (await late.reads("0", room=room)).sender == alice.user_id


@pytest.mark.parametrize(("seed", "watched"), [(5, 2), pytest.param(6, 5, marks=pytest.mark.long)])
async def test_both_syncs_show_the_same_after_a_random_script(
    town: Town, seed: int, watched: int
) -> None:
    """`watched` of the five have real clients, one on each sync."""
    random = Random(seed)
    async with aiohttp.ClientSession() as http:
        people = [await _person(town, http, f"p{number}") for number in range(PEOPLE)]
        acts = RandomActs(random, people)
        pairs = [
            (await town.js(person.user_id, sync="sliding"), await town.js(person.user_id))
            for person in people[:watched]
        ]
        while acts.done < ACTS:
            await acts.act()

        highlights = 0
        for sliding, classic in pairs:
            shown = await _settled(sliding, classic)
            assert sum(room["membership"] == "join" for room in shown.values()) > 1
            assert sum(room["notifications"] for room in shown.values()) > 1
            highlights += sum(room["highlights"] for room in shown.values())
        # The script was one that could have told a difference.
        assert highlights > 1


async def _person(town: Town, http: aiohttp.ClientSession, name: str) -> Person:
    """Make an account, with a device that only sends."""
    user_id = await town.person(name)
    url = f"{town.homeserver.base_url}/_matrix/client/v3/login"
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user_id},
        "password": PASSWORD,
    }
    async with http.post(url, json=body) as response:
        answer = await response.json()
    return Person(
        http, town.homeserver.base_url, user_id, answer["device_id"], answer["access_token"],
        PASSWORD,
    )  # fmt: skip


async def _settled(sliding: JsClient, classic: JsClient) -> dict[str, Any]:
    """Return what both clients show once they show the same; fails with the difference."""
    over_sliding, over_classic = await _shown(sliding), await _shown(classic)
    for _ in range(CATCH_UP_S * 2):
        if over_sliding == over_classic:
            return over_sliding
        await asyncio.sleep(0.5)
        over_sliding, over_classic = await _shown(sliding), await _shown(classic)
    rooms = over_sliding.keys() | over_classic.keys()
    pairs = {room: (over_sliding.get(room), over_classic.get(room)) for room in rooms}
    raise AssertionError({room: pair for room, pair in pairs.items() if pair[0] != pair[1]})


async def _shown(client: JsClient) -> dict[str, Any]:
    """Return what is to be the same; names differ while the classic client knows no member."""
    return {
        room_id: {key: value for key, value in room.items() if key != "name"}
        for room_id, room in (await client.rooms(latest=LATEST)).items()
        if room["membership"] in ("join", "invite")
    }
