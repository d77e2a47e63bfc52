"""SIGKILL of a homeserver at named points of what it does with another one.

Whatever was acknowledged to anybody is there afterwards, once; and builds that are broken on
purpose are caught by the same checks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import DIALECTS, Dialect
from yizhan_testing.homeserver import JsonObject
from yizhan_testing.mortal_pair import (
    Doubled,
    Lost,
    Pair,
    mortal_homeserver,
    mortal_pair,
    owes_nothing,
)
from yizhan_testing.peer import Peer, open_peer
from yizhan_testing.peer_rooms import PeerInRoom
from yizhan_testing.sound_database import reading
from yizhan_testing.sudden_death import MortalHomeserver, Point, noted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TRANSACTIONS = "federation.transactions:IncomingTransactions"
PLACING = "rooms.incoming.placing:Placing"
RUN = "rooms.incoming.runs:Run"

# The first transaction holds one event; the second one two events of a room that has forked, of
# which the first is of state and so placed alone, one event of another room, and two messages to
# a device.
RECEIVING = [
    Point("nothing is placed", "before", f"{PLACING}.place", call=2),
    Point(
        "an event beside the room's end is stored, and not shown",
        "after", f"{PLACING}._store_beside", call=2,
    ),
    Point("an event is shown, and the next one not stored", "after", f"{PLACING}._place_beside", 2),
    Point("a message of a branch is built, and its job not done", "after", f"{RUN}.take", call=2),
    Point(
        "the events of one room are placed",
        "after", "rooms.incoming.reception:Reception.receive", call=2,
    ),
    Point("events are placed, and no EDU is taken", "before", f"{TRANSACTIONS}._receive_edus", 2),
    Point("one of two EDUs is taken", "after", "e2ee.to_device:ToDevice.receive"),
    Point("all is taken, and not answered", "after", f"{TRANSACTIONS}.receive", 2),
]  # fmt: skip


SENDING = [
    Point("an event is durable, and not answered", "after", "rooms.writer:EventWriter.send"),
    Point("nobody has noted who is owed it", "before", "federation.outbox:Outbox._note"),
    Point("it is noted who is owed it", "after", "federation.outbox:Outbox._note"),
    Point(
        "the transaction is stored, and not sent",
        "before", "federation_client.events:EventRequests.send_transaction",
    ),
    Point(
        "the transaction is taken by the other side, and that is not recorded",
        "after", "federation_client.events:EventRequests.send_transaction",
    ),
    Point("a message is durable, and not answered", "after", "e2ee.to_device:ToDevice.send"),
]  # fmt: skip

NOTHING_PLACED, ALL_TAKEN = RECEIVING[0], RECEIVING[-1]
NOT_SENT, NOT_RECORDED = SENDING[3:5]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_transaction_that_a_death_interrupts_is_taken_once(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with mortal_pair(tmp_path, RECEIVING, dialect=dialect) as pair:
        forked, straight = await pair.meets(), await pair.meets()
        for number, point in enumerate(RECEIVING):
            with noted(point):
                await dies_while_receiving(pair, point, forked, straight, number)
                await pair.revives()
                await pair.check()


async def dies_while_receiving(
    pair: Pair, point: Point, forked: str, straight: str, number: int
) -> None:
    """Have b die over the second of two transactions."""
    await pair.a.door.closes()
    await pair.says(pair.bob, forked, f"{number}: said while nobody hears it")
    await pair.b.kill()
    await pair.a.door.opens()
    await pair.says(pair.alice, forked, f"{number}: in the first transaction")
    await pair.leaves_b_alone()
    topic = {"topic": f"{number}: one"}
    pair.said[forked].append(await pair.alice.sets(forked, "m.room.topic", topic))
    await pair.says(pair.alice, straight, f"{number}: two")
    await pair.says(pair.alice, forked, f"{number}: three")
    await pair.tells(pair.alice, 10 * number)
    await pair.tells(pair.alice, 10 * number + 1)
    pair.b.dies(point)
    # What it owes a it sends at once, so that a sends too.
    await pair.b.resume()
    await pair.b.has_died()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_what_is_sent_to_another_server_survives_a_death_and_arrives_once(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with mortal_pair(tmp_path, SENDING, dialect=dialect) as pair:
        room = await pair.meets()
        for number, point in enumerate(SENDING):
            with noted(point):
                pair.b.dies(point)
                answered = await sends(pair, room, number)
                await pair.b.has_died()
                await pair.revives()
                again = await sends(pair, room, number)
                assert again is not None
                assert answered in (None, again), "a transaction id has another event"
                pair.said[room].append(again)
                await pair.check()


async def sends(pair: Pair, room: str, number: int) -> str | None:
    """Have bob say something and send a message; returns the event, or None if he was not told."""
    content = {"msgtype": "m.text", "body": str(number)}
    path = f"/v3/rooms/{quote(room, safe='')}/send/m.room.message/t{number}"
    try:
        answer = await pair.bob.put(path, content)
        await pair.tells(pair.bob, number)
    except (aiohttp.ClientError, ConnectionError):
        return None
    return str(answer["event_id"])


async def test_a_transaction_is_sent_again_byte_for_byte_after_a_death(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    async with open_peer(authority) as peer:
        server = mortal_homeserver(tmp_path / "b", authority, [peer.name], [NOT_SENT, NOT_RECORDED])
        try:
            await server.resume()
            bob = await server.person("bob")
            room = await bob.creates_room(preset="public_chat")
            await PeerInRoom.joins(peer, server, room)
            sent = records_transactions(peer)
            for number, (point, before) in enumerate(((NOT_SENT, 0), (NOT_RECORDED, 1))):
                with noted(point):
                    sent.clear()
                    server.dies(point)
                    await bob.says(room, str(number))
                    await server.has_died()
                    assert len(sent) == before
                    stored = await stored_transaction(server)
                    await server.resume()
                    while len(sent) == before:
                        await bob.get("/v3/account/whoami")
                    assert sent == [stored] * (before + 1)
                    await owes_nothing(server.database_url, bob)
        finally:
            await server.stop()


def records_transactions(peer: Peer) -> list[tuple[str, bytes]]:
    """Have the peer take every transaction; returns the list that names and bodies go into."""
    found: list[tuple[str, bytes]] = []
    prefix = "/_matrix/federation/v1/send/"

    async def take(request: web.BaseRequest) -> JsonObject:
        found.append((request.path.removeprefix(prefix), await request.read()))
        return {"pdus": {}}

    peer.handlers_below[prefix] = take
    return found


async def stored_transaction(server: MortalHomeserver) -> tuple[Any, ...]:
    """Return the name and the body that the dead server has stored for its only peer."""
    async with reading(server.database_url) as rows:
        (stored,) = await rows("SELECT txn_id, body FROM busy_destination")
    return stored


ANSWERS_FIRST = """
import asyncio
from yizhan_server.federation.transactions import IncomingTransactions

takes = IncomingTransactions.receive
tasks = []

async def answers_first(self, *transaction):
    tasks.append(asyncio.get_running_loop().create_task(takes(self, *transaction)))
    return {"pdus": {}}

IncomingTransactions.receive = answers_first
"""

KNOWS_NO_MESSAGE_IDS = """
from yizhan_server.storage import to_device
to_device.append_received = lambda *_: None
"""

PLACES_AGAIN = """
from yizhan_server.rooms.incoming import placing
from yizhan_server.storage import events

def moves(tx, *, nid, pos, line, seq, flags):
    tx.execute("UPDATE event SET pos = ? WHERE nid = ?", pos, nid)

placing._standing = lambda _: None
events.place_event = moves
"""

RECORDS_FIRST = """
import asyncio
from yizhan_server.federation_client.events import EventRequests

sends = EventRequests.send_transaction
tasks = []

async def later(*transaction):
    await asyncio.sleep(0.5)
    await sends(*transaction)

async def records_first(*transaction):
    tasks.append(asyncio.get_running_loop().create_task(later(*transaction)))
    return {}

EventRequests.send_transaction = records_first
"""


@pytest.mark.parametrize(
    ("build", "point", "fault"),
    [
        pytest.param(ANSWERS_FIRST, NOTHING_PLACED, Lost, id="answers before it is durable"),
        pytest.param(KNOWS_NO_MESSAGE_IDS, ALL_TAKEN, Doubled, id="forgets which messages came"),
        pytest.param(PLACES_AGAIN, ALL_TAKEN, Doubled, id="gives positions twice"),
    ],
)
async def test_a_build_that_receives_without_care_is_caught(
    tmp_path: Path, build: str, point: Point, fault: type[AssertionError]
) -> None:
    async with mortal_pair(tmp_path, RECEIVING, build) as pair:
        forked, straight = await pair.meets(), await pair.meets()
        await dies_while_receiving(pair, point, forked, straight, 0)
        await pair.revives()
        with pytest.raises(fault):
            await pair.check(within_s=6)


async def test_a_build_that_takes_for_sent_what_is_not_is_caught(tmp_path: Path) -> None:
    async with mortal_pair(tmp_path, SENDING, RECORDS_FIRST) as pair:
        room = await pair.meets()
        pair.b.dies(NOT_SENT)
        assert await sends(pair, room, 0) is not None
        await pair.b.has_died()
        await pair.revives()
        with pytest.raises(Lost):
            await pair.check(within_s=6)
