"""Many forks cost little: lines of state stay shallow, rows few, look-ups fast."""

from __future__ import annotations

import logging
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from yizhan_server.storage import state as stored_state
from yizhan_server.storage.state import Point
from yizhan_testing.peer_in_room import PeerInRoom, joined

if TYPE_CHECKING:
    from yizhan_server.protocol.event import Pdu
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

log = logging.getLogger(__name__)

KEYS, HEADS = 500, 5
HEARS = 0.3
"""How often who sends an event has heard of what another has sent."""

MAX_DEPTH = 16
MAX_ROWS_PER_CHANGE = 8
"""However many events: merging what these servers say writes 2.4, shallow lines as much again."""

MAX_SEEK_S = 0.001


def forked(guest: PeerInRoom, random: Random, count: int) -> list[Pdu]:
    """Return events as from HEADS servers, each of which lags behind the others."""
    start = guest.last[0]
    heads = [[start] for _ in range(HEADS)]
    events = []
    for number in range(count):
        at = random.randrange(HEADS)
        if random.random() < HEARS:
            heard = heads[random.randrange(HEADS)]
            heads[at] = list({pdu.event_id: pdu for pdu in (*heads[at], *heard)}.values())
        guest.last = heads[at]
        key = f"k{random.randrange(KEYS)}"
        if random.random() < 0.5:
            event = guest.event("m.x", {"n": number}, key)
        else:
            event = guest.event("m.room.message", {"body": str(number)})
        heads[at] = [event]
        events.append(event)
    return events


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("count", [1_500, pytest.param(10_000, marks=pytest.mark.long)])
async def test_forks_and_lag_leave_a_shallow_state_log(
    peer: Peer, homeserver: HomeserverInProcess, alice: Person, count: int
) -> None:
    room = await alice.creates_room(
        preset="public_chat", room_version="11",
        power_level_content_override={"events": {"m.x": 0}},
    )  # fmt: skip
    guest = await joined(peer, homeserver, room)
    random = Random(1)
    events = forked(guest, random, count)
    for at in range(0, count, 50):
        answer = await guest.sends(*events[at : at + 50])
        assert all(result == {} for result in answer.json["pdus"].values()), answer.json

    db = homeserver.parts.services.db
    ((changes,),) = await db.rows("SELECT count(*) FROM event WHERE state_key IS NOT NULL")
    ((rows,),) = await db.rows("SELECT count(*) FROM state_log /* scan: a test */")
    ((depth,),) = await db.rows("SELECT max(depth) FROM state_line /* scan: a test */")
    points = await db.rows("SELECT line, seq FROM event WHERE line IS NOT NULL /* scan: a test */")
    keys = await db.rows("SELECT nid FROM state_key /* scan: a test */")
    assert depth <= MAX_DEPTH
    assert rows / changes <= MAX_ROWS_PER_CHANGE, f"{rows} rows for {changes} changes"
    began = time.perf_counter()
    for _ in range(1000):
        line, seq = random.choice(points)
        await stored_state.state_event_at(db, Point(line, seq), random.choice(keys)[0])
    seek_s = (time.perf_counter() - began) / 1000
    assert seek_s < MAX_SEEK_S
    log.info("%d deep, %d rows for %d changes, %.0f us", depth, rows, changes, seek_s * 1e6)
