"""Clients on sliding sync and on the classic one see the same, whatever people do."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from yizhan_testing.random_acts import RandomActs
from yizhan_testing.sliding_client import (
    EVERYTHING,
    EXTENSIONS,
    ClassicClient,
    SeenRoom,
    SlidingClient,
    room_list,
)

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person

NAMES = ("alice", "bob", "carol", "dave", "erin")
LIMIT = 10
PARTS = 4
"""How often the clients are compared: each time after a quarter of the script."""


class Town(RandomActs):
    """People who do things at random, each with one device on each sync."""

    def __init__(self, random: Random, people: list[Person], others: list[Person]) -> None:
        super().__init__(random, people)
        self.sliding = [SlidingClient(person, self._wish()) for person in people]
        self.classic = [ClassicClient(person) for person in others]

    def _wish(self) -> dict[str, Any]:
        """Return a request whose list ends anywhere, with a timeline that is not always short."""
        last = self.random.choice([0, 2, 5, 99])
        return {
            "lists": {
                "all": room_list(last, limit=self.random.choice([3, LIMIT]), state=EVERYTHING)
            },
            "extensions": {name: {"enabled": True} for name in EXTENSIONS},
        }

    async def somebody_syncs(self) -> None:
        index = self.random.randrange(len(self.people))
        if self.random.random() < 0.5:
            await self.classic[index].syncs()
            return
        client = self.sliding[index]
        if self.random.random() < 0.1:
            client.body = self._wish()
        if self.random.random() < 0.02:
            client.begins_anew()
        if client.pos is not None and self.random.random() < 0.1:
            await client.asks(pos=client.pos)  # an answer that is lost
        await client.syncs()

    async def everybody_catches_up(self) -> None:
        for sliding, classic in zip(self.sliding, self.classic, strict=True):
            lists = {"all": room_list(99, limit=LIMIT, state=EVERYTHING)}
            await sliding.syncs(lists=lists)
            await sliding.catches_up()
            await classic.syncs()


async def check_same(sliding: SlidingClient, classic: ClassicClient) -> None:
    """Compare what two devices of one person show, and the state with the server's."""
    assert sliding.of("invite").keys() == classic.of("invite").keys()
    assert sliding.of("join").keys() == classic.of("join").keys()
    for room_id, seen in sliding.of("join").items():
        expected = classic.rooms[room_id]
        assert _latest(seen) == _latest(expected)
        assert (seen.notifications, seen.highlights) == (
            expected.notifications,
            expected.highlights,
        )
        events = await sliding.person.call("GET", f"/v3/rooms/{quote(room_id)}/state")
        state = {(e["type"], e["state_key"]): e["content"] for e in _listed(events)}
        assert seen.state == state
        assert expected.state == state


def _latest(room: SeenRoom) -> list[str]:
    """Return the last events; a client that has had no gap has more of them."""
    return room.event_ids[-3:]


def _listed(events: Any) -> list[dict[str, Any]]:
    assert isinstance(events, list)
    return events


@pytest.mark.parametrize(
    ("seed", "acts"), [(1, 200), pytest.param(2, 1000, marks=pytest.mark.slow)]
)
async def test_both_syncs_show_the_same_after_any_script(
    homeserver: HomeserverInProcess, seed: int, acts: int
) -> None:
    random = Random(seed)
    people = [await homeserver.person(name) for name in NAMES]
    others = [await homeserver.signs_in(name) for name in NAMES]
    town = Town(random, people, others)
    seen_highlights = 0
    for part in range(1, PARTS + 1):
        while town.done < acts * part // PARTS:
            await town.act()
            if random.random() < 0.4:
                await town.somebody_syncs()
        await town.everybody_catches_up()
        for sliding, classic in zip(town.sliding, town.classic, strict=True):
            await check_same(sliding, classic)
            seen_highlights += sum(room.highlights for room in sliding.of("join").values())

    rooms = [room for client in town.sliding for room in client.of("join").values()]
    # The script was one that could have told a difference.
    assert len(rooms) > 5
    assert sum(room.notifications for room in rooms) > 5
    assert seen_highlights > 2
