"""Valid events and transactions, spoilt at random: no fault, no change of the state, no growth."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from yizhan_database import open_database
from yizhan_server.app import MIGRATIONS
from yizhan_server.protocol.identifiers import server_name_of
from yizhan_server.storage.events import REJECTED
from yizhan_testing.databases import Dialect, fresh_database
from yizhan_testing.homeserver import Homeserver
from yizhan_testing.peer_in_room import joined
from yizhan_testing.spoiling import SECRET, Attack

if TYPE_CHECKING:
    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

log = logging.getLogger(__name__)

VERSIONS = ["2", "6", "11", "12"]
FEW, MANY = 150, 100_000
WARM_UP = 10_000
"""Events after which all caches are filled."""

MAX_GROWTH_BYTES = 16 << 20
"""For 40,000 events: were the bytes of each second one kept, it would be more."""


async def state_of(alice: Person, room: str, peer: Peer) -> dict[tuple[str, str], str]:
    """Return the state but for the memberships of the peer's people, which are theirs to change."""
    events: Any = await alice.get(f"/v3/rooms/{quote(room, safe='')}/state")
    return {
        (event["type"], event["state_key"]): event["event_id"]
        for event in events
        if event["type"] != "m.room.member" or server_name_of(event["state_key"]) != peer.name
    }


@pytest.mark.parametrize("dialect", ["sqlite"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_spoilt_events_are_no_fault_and_change_nothing(
    peer: Peer,
    homeserver: HomeserverInProcess,
    alice: Person,
    version: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version=version)
    attack = Attack(await joined(peer, homeserver, room), Random(f"few {version}"))
    before = await state_of(alice, room, peer)
    await attack.sends(FEW)
    assert await state_of(alice, room, peer) == before
    assert await alice.says(room, "still here")
    assert attack.outcomes["taken"] > 10
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
    assert SECRET not in caplog.text


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_a_hundred_thousand_spoilt_events_change_nothing_and_leave_nothing_behind(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    database = await fresh_database(dialect, MIGRATIONS, tmp_path)
    server = await Homeserver.start(
        tmp_path / "data",
        **{
            "database.url": f'"{database}"',
            "federation.allow": f'["{peer.name}"]',
            "federation.private_addresses": '["127.0.0.1"]',
            "federation.trusted_ca_files": f'["{authority.file}"]',
        },
    )
    try:
        # On two databases 100,000 together.
        await attacked(server, peer, MANY // 2)
    finally:
        await server.stop()
    written = (tmp_path / "data" / "homeserver.log").read_text()
    assert SECRET not in written
    assert "Traceback" not in written
    await check_nothing_rejected_is_state(database)


async def attacked(server: Homeserver, peer: Peer, count: int) -> None:
    """Have the peer attack a room of each version."""
    alice = await server.person("alice")
    rooms: dict[str, Attack] = {}
    for version in VERSIONS:
        room = await alice.creates_room(preset="public_chat", room_version=version)
        rooms[room] = Attack(await joined(peer, server, room), Random(f"many {version}"))
    before = {room: await state_of(alice, room, peer) for room in rooms}
    warm = 0
    for done in range(0, count, 1000):
        for room, attack in rooms.items():
            await attack.sends(1000 // len(VERSIONS))
            # What such a person sends beside that is permitted where it stands, but no more.
            ban = f"/v3/rooms/{quote(room, safe='')}/ban"
            await alice.post(ban, {"user_id": attack.any_user()})
        if done % 5000 == 0:
            assert {room: await state_of(alice, room, peer) for room in rooms} == before
        if done == WARM_UP:
            warm = server.memory()
    log.info("memory grew by %d bytes", server.memory() - warm)
    for attack in rooms.values():
        log.info("%s", attack.outcomes)
    assert {room: await state_of(alice, room, peer) for room in rooms} == before
    assert server.memory() - warm < MAX_GROWTH_BYTES
    await asyncio.gather(*(alice.says(room, "still here") for room in rooms))


async def check_nothing_rejected_is_state(database: str) -> None:
    db = await open_database(database, MIGRATIONS)
    try:
        for table in ("state_log", "current_state"):
            rows = await db.rows(
                f"SELECT count(*) FROM {table} AS s JOIN event AS e ON e.nid = s.event"
                " WHERE e.flags & ? <> 0 /* scan: a test */",
                REJECTED,
            )
            assert rows == [(0,)]
        kinds = await db.rows(
            "SELECT flags, pos IS NULL, count(*) FROM event GROUP BY flags, pos IS NULL"
            " /* scan: a test */"
        )
        log.info("events by flags and whether without a position: %s", kinds)
    finally:
        await db.close()
