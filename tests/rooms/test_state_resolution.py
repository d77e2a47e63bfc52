"""Forks in the database resolve to what the specification's words make of their whole states."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_database import Transaction
from yizhan_server.app import MIGRATIONS
from yizhan_server.protocol.room_version import V1, V2, V11, V12, RoomVersion
from yizhan_server.rooms import turns
from yizhan_server.rooms.state_resolution import ResolutionTooLarge, StateResolver
from yizhan_server.storage import events as stored_events
from yizhan_server.storage.state import REMOVED
from yizhan_testing import whole_set_resolution as oracle
from yizhan_testing.databases import Dialect, StatementRecorder, opened_fresh
from yizhan_testing.forked_room import ForkedRoom, Node
from yizhan_testing.protocol_room import ALICE, BOB
from yizhan_testing.random_history import founded, perform, random_act
from yizhan_testing.stored_events import StoredRoom

if TYPE_CHECKING:
    from yizhan_database import Database

VERSIONS = (V1, V2, V11, V12)


@pytest_asyncio.fixture
async def db(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Database]:
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as database:
        yield database


async def check(
    resolver: StateResolver, stored: StoredRoom, room: ForkedRoom, nodes: Sequence[Node]
) -> None:
    points = [stored.points[node.event.event_id] for node in nodes]
    changes = await resolver.resolve(stored, points)
    before = await stored.state_at(points[0])
    after = {key: event for key, event in (before | changes).items() if event != REMOVED}
    assert all(before.get(key, REMOVED) != event for key, event in changes.items())
    assert after == await stored.numbered(room.resolve(nodes))
    assert await resolver.resolve(stored, points) == changes


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: f"v{version.identifier}")
async def test_forks_resolve_to_what_the_whole_states_resolve_to(
    tmp_path: Path, dialect: Dialect, version: RoomVersion
) -> None:
    for seed in range(12 if dialect == "sqlite" else 2):
        chance = random.Random(f"{seed} {version.identifier}")
        room = founded(version)
        for _ in range(chance.randrange(5, 25)):
            perform(room, random_act(chance))
        async with opened_fresh(dialect, MIGRATIONS, tmp_path, chance) as db:
            stored = StoredRoom(db, version)
            await stored.stores(room)
            resolver = StateResolver(db, stored.keys)
            for _ in range(6):
                nodes = chance.sample(room.nodes, chance.randrange(2, 5))
                await check(resolver, stored, room, nodes)


class Fork:
    """A room in which Bob and Alice set different topics."""

    def __init__(self) -> None:
        self.room = room = founded(V11)
        start = room.nodes[-1]
        self.alices = room.event([start], "m.room.topic", ALICE, {"topic": "Alice's"})
        self.bobs = room.event([start], "m.room.topic", BOB, {"topic": "Bob's"})

    async def stored_in(self, db: Database) -> StoredRoom:
        stored = StoredRoom(db, self.room.version)
        await stored.stores(self.room)
        return stored


async def test_what_only_a_bystander_reaches_is_not_replayed(db: Database) -> None:
    room = founded(V11)
    start = room.nodes[-1]

    def levels_by_alice(of_bob: int) -> Node:
        content = {"users": {ALICE: 100, BOB: of_bob}}
        return room.event([start], "m.room.power_levels", ALICE, content)

    loser, winner = levels_by_alice(50), levels_by_alice(0)
    topic = room.event([loser], "m.room.topic", BOB, {"topic": "Bob's"})
    name = room.event([loser], "m.room.name", ALICE, {"name": "Alice's"})
    told = room.resolve([name, winner])
    assert told[name.event.key] == name.event.event_id
    assert told[winner.event.key] == winner.event.event_id
    with_topic = told | {topic.event.key: topic.event.event_id}
    one = room.event([winner], "m.x", ALICE, {}, None, state_before=told)
    other = room.event([winner], "m.x", ALICE, {}, None, state_before=with_topic)
    stored = StoredRoom(db, V11)
    await stored.stores(room)

    # The topic names the levels that lost. So does the name, on which both sides agree: else those
    # levels would be replayed, and would allow the topic.
    await check(StateResolver(db, stored.keys), stored, room, [other, one])
    assert topic.event.key not in room.resolve([other, one])


async def test_a_rejected_event_wins_nothing(db: Database) -> None:
    fork = Fork()
    stored = await fork.stored_in(db)
    points = [stored.points[node.event.event_id] for node in (fork.alices, fork.bobs)]
    alices, bobs = (stored.nids[node.event.event_id] for node in (fork.alices, fork.bobs))
    topic = await stored.keys.find(fork.bobs.event.key)
    assert await StateResolver(db, stored.keys).resolve(stored, points) == {topic: bobs}

    tx = Transaction()
    tx.execute("UPDATE event SET flags = ? WHERE nid = ?", stored_events.REJECTED, bobs)
    await db.commit(tx)

    resolver = StateResolver(db, stored.keys)
    assert await resolver.resolve(stored, points) == {}
    assert await resolver.resolve(stored, points[::-1]) == {topic: alices}


async def test_a_fork_that_would_cost_too_much_is_given_up(db: Database) -> None:
    fork = Fork()
    stored = await fork.stored_in(db)
    points = [stored.points[node.event.event_id] for node in (fork.alices, fork.bobs)]

    with pytest.raises(ResolutionTooLarge):
        await StateResolver(db, stored.keys, event_budget=5).resolve(stored, points)

    assert await StateResolver(db, stored.keys, event_budget=50).resolve(stored, points)


async def test_others_have_their_turn_while_a_fork_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0)
    fork = Fork()
    async with opened_fresh("sqlite", MIGRATIONS, tmp_path) as db:
        stored = await fork.stored_in(db)
        points = [stored.points[node.event.event_id] for node in (fork.alices, fork.bobs)]
        await StateResolver(db, stored.keys).resolve(stored, points)

        # Now nothing is left to write, and reads of SQLite do not suspend.
        pauses = 0
        async with asyncio.TaskGroup() as tasks:
            resolver = StateResolver(db, stored.keys)
            running = tasks.create_task(resolver.resolve(stored, points))
            while not running.done():
                await asyncio.sleep(0)
                pauses += 1
    assert pauses > 20


async def test_what_was_resolved_once_is_not_read_again(tmp_path: Path) -> None:
    fork = Fork()
    with StatementRecorder() as recorder:
        async with opened_fresh("sqlite", MIGRATIONS, tmp_path) as db:
            recorder.statements.clear()  # migrations
            stored = await fork.stored_in(db)
            points = [stored.points[node.event.event_id] for node in (fork.alices, fork.bobs)]
            resolver = StateResolver(db, stored.keys)
            changes = await resolver.resolve(stored, points)
            asked = set(recorder.statements)
            recorder.statements.clear()

            assert await resolver.resolve(stored, points) == changes
            assert await resolver.resolve(stored, [points[0], points[0]]) == {}
            assert recorder.statements == set()

        recorder.statements = asked
        (file,) = tmp_path.glob("*.db")
        assert recorder.full_scans(file) == []
        assert recorder.whole_rooms(file) == []


async def test_a_key_that_no_state_ever_had_is_given_a_number(db: Database) -> None:
    room = founded(V12)
    start = room.nodes[-1]
    member = ("m.room.member", BOB)
    # Every server was told states without Bob, who nevertheless set a topic.
    told = [
        Node(node.event, {key: one for key, one in node.state_after.items() if key != member})
        for node in (
            room.event([start], "m.room.topic", ALICE, {"topic": "Alice's"}),
            room.event([start], "m.room.topic", BOB, {"topic": "Bob's"}),
        )
    ]
    joined = start.state_after[member]
    room.nodes = [
        Node(node.event, {key: one for key, one in node.state_after.items() if key != member})
        for node in room.nodes
    ]
    stored = StoredRoom(db, V12)
    await stored.stores(room)
    assert await stored.keys.find(member) is None

    resolver = StateResolver(db, stored.keys)
    changes = await resolver.resolve(stored, [stored.points[node.event.event_id] for node in told])

    number = await stored.keys.find(member)
    assert number is not None
    assert changes[number] == stored.nids[joined]
    assert (
        oracle.resolution([node.state_after for node in told], room.events, V12)[member] == joined
    )
