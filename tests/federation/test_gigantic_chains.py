"""A peer whose events have auth chains without end: they are not fetched without end."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from yizhan_server.protocol.identifiers import EventID
from yizhan_testing.homeserver import Homeserver
from yizhan_testing.peer_in_room import PeerInRoom, joined

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_server.protocol.event import Pdu
    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.peer import Peer

log = logging.getLogger(__name__)

SECRET = "the wording of a message"
LONG = 6_000
MAX_WAIT_S = 5
"""On a busy machine; alone it is a tenth of that."""

MAX_GROWTH_BYTES = 200 << 20


def chain_of(guest: PeerInRoom, last: Pdu, count: int) -> list[Pdu]:
    """Return member events of the guest's each of which authorises the next; all are permitted."""
    base = [
        guest.state[kind, ""].event_id
        for kind in ("m.room.create", "m.room.power_levels", "m.room.join_rules")
    ]
    chain: list[Pdu] = []
    for number in range(count):
        last = guest.event(
            "m.room.member", {"membership": "join", "displayname": f"{SECRET} {number}"},
            guest.user_id, auth=[*base, last.event_id], depth=3,
        )  # fmt: skip
        chain.append(last)
    return chain


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_gigantic_auth_chains_neither_fill_the_memory_nor_hold_up_other_rooms(
    tmp_path: Path, authority: CertificateAuthority, peer: Peer
) -> None:
    server = await Homeserver.start(
        tmp_path / "data",
        **{
            "federation.allow": f'["{peer.name}"]',
            "federation.private_addresses": '["127.0.0.1"]',
            "federation.trusted_ca_files": f'["{authority.file}"]',
        },
    )
    try:
        await _sends_gigantic_chains(server, peer)
    finally:
        await server.stop()
    assert SECRET not in (tmp_path / "data" / "homeserver.log").read_text()


async def _sends_gigantic_chains(server: Homeserver, peer: Peer) -> None:
    alice = await server.person("alice")
    quiet = await alice.creates_room()
    rooms = [await alice.creates_room(preset="public_chat", room_version="11") for _ in range(2)]
    asked: list[str] = []
    too_long: dict[str, bytes] = {}
    events = []
    guests = [await joined(peer, server, room) for room in rooms]
    for room, guest in zip(rooms, guests, strict=True):
        chain = chain_of(guest, guest.state["m.room.member", guest.user_id], LONG)
        too_long[room] = json.dumps({"auth_chain": [pdu.raw for pdu in chain[:-1]]}).encode()
        # Ten events whose auth events only the peer has, which it never gives.
        for number in range(10):
            nobody = EventID("$" + f"{number:A<43}")
            events.append(guest.event("m.room.message", {"body": SECRET}, auth=[nobody]))

    async def auth_chain(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        room = next(room for room in rooms if room in request.path)
        return web.Response(body=too_long[room], content_type="application/json")

    peer.handlers_below["/_matrix/federation/v1/event_auth"] = auth_chain
    before, largest, slowest = server.memory(), 0, 0.0
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(guests[0].sends(*events))
        while not sending.done():
            began = time.monotonic()
            await alice.says(quiet, "hello")
            slowest = max(slowest, time.monotonic() - began)
            largest = max(largest, server.memory())
            await asyncio.sleep(0.05)
    answer = sending.result()
    log.info("%.2f s at most, %d bytes more, %d asked", slowest, largest - before, len(asked))
    assert all("error" in result for result in answer.json["pdus"].values()), answer.json
    # A few for each room, not one for each event.
    assert len(asked) <= 5 * len(rooms)
    assert slowest < MAX_WAIT_S
    assert 0 < largest - before < MAX_GROWTH_BYTES
