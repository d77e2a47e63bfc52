"""A burst of events reaches the other server whole, once each, and in order."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.storage.events import join_pdu
from yizhan_testing.departments import departments

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person

SENDERS, EVENTS, ROOMS = 16, 200, 4
WITHIN_S = 120
ALL = json.dumps({"room": {"timeline": {"limit": 1000}}})


async def bursts(folder: Path, dialect: Dialect, runs: int) -> None:
    """Send bursts on one server, and check each on the other before the next."""
    async with departments(folder, dialect, 2) as (a, b):
        senders = [await a.person(f"sender{number}") for number in range(SENDERS)]
        bob = await b.person("bob")
        rooms = [
            await senders[0].creates_room(preset="public_chat", room_version=version)
            for version in ("12", "11", "10", "2")
        ]
        for room in rooms:
            await asyncio.gather(*(sender.joins(room) for sender in senders[1:]))
            path = f"/v3/join/{quote(room, safe='')}"
            await bob.call("POST", path, {}, params={"via": a.server_name})
        await bob.syncs(filter=ALL)
        for run in range(runs):
            await _burst(senders, bob, rooms, run)
        await _check_order(b)


async def _burst(senders: list[Person], bob: Person, rooms: list[str], run: int) -> None:
    sent = await asyncio.gather(
        *(
            senders[number % SENDERS].says(rooms[number % ROOMS], f"{run} {number}")
            for number in range(EVENTS)
        )
    )
    seen: dict[str, int] = defaultdict(int)
    async with asyncio.timeout(WITHIN_S):
        while not seen.keys() >= set(sent):
            answer = await bob.syncs(timeout_ms=5000, filter=ALL)
            for room in rooms:
                assert not answer.room(room).get("timeline", {}).get("limited", False)
                for event in answer.timeline(room):
                    seen[event["event_id"]] += 1
    assert [event_id for event_id in sent if seen[event_id] != 1] == []


async def _check_order(server: HomeserverInProcess) -> None:
    """Check that each live event comes after those that it follows."""
    rows = await server.parts.services.db.rows(
        "SELECT r.version, e.event_id, e.pos, e.client, e.rest FROM event AS e"
        " JOIN room AS r ON r.nid = e.room WHERE e.pos > 0 ORDER BY e.pos"
    )
    positions = {event_id: pos for _, event_id, pos, _, _ in rows}
    assert len(set(positions.values())) == len(rows)
    for version, _, pos, client, rest in rows:
        for before in join_pdu(client, rest, ROOM_VERSIONS[version]).prev_events:
            assert positions.get(before, 0) < pos


@pytest.mark.timeout(300)
async def test_a_burst_arrives_whole_and_in_order(tmp_path: Path, dialect: Dialect) -> None:
    await bursts(tmp_path, dialect, 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_twenty_bursts_arrive_whole_and_in_order(tmp_path: Path, dialect: Dialect) -> None:
    await bursts(tmp_path, dialect, 20)
