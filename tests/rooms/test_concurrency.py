"""Many at once in one room: one order, nothing lost, and a failure that ends."""

from __future__ import annotations

import asyncio
import resource
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from yizhan_database import Transaction, open_database
from yizhan_server.app import MIGRATIONS
from yizhan_server.storage import rooms as stored_rooms
from yizhan_testing.databases import EmbeddedPostgres
from yizhan_testing.homeserver import HomeserverInProcess, Person
from yizhan_testing.replica import Replica, all_messages
from yizhan_testing.served import served

if TYPE_CHECKING:
    from yizhan_database import Database


async def events_of(db: Database, room_id: str) -> list[dict[str, Any]]:
    """Return every event of a room as a server would be sent it, by position."""
    rows = await db.rows(
        "SELECT e.pos, e.client, e.rest FROM event AS e JOIN room AS r ON r.nid = e.room"
        " WHERE r.room_id = ? ORDER BY e.pos",
        room_id,
    )
    return [
        {"pos": pos, **orjson.loads(client), **orjson.loads(rest)} for pos, client, rest in rows
    ]


def check_chain(events: list[dict[str, Any]]) -> None:
    """Check that each event follows the one before it, and only that."""
    positions = [event["pos"] for event in events]
    assert positions == sorted(set(positions))
    assert [event["depth"] for event in events] == list(range(1, len(events) + 1))
    for before, event in pairwise(events):
        assert event["prev_events"] == [before["event_id"]]


async def test_many_writers_make_one_chain_that_every_long_poll_sees_once(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    people = [await homeserver.person(f"person{number}") for number in range(5)]
    watcher = Replica(
        await homeserver.person("watcher"), wanted={"room": {"timeline": {"limit": 100}}}
    )
    await watcher.person.joins(room)
    await watcher.syncs()
    acknowledged: list[str] = []

    async def live(person: Person) -> None:
        path = f"/v3/rooms/{quote(room)}"
        await person.joins(room)
        for number in range(12):
            said = await person.says(room, f"{number}")
            acknowledged.append(said)
            if number % 4 == 1:
                answer = await person.put(f"{path}/redact/{quote(said)}/r{number}", {})
                acknowledged.append(answer["event_id"])
            if number % 5 == 2:
                await person.put(
                    f"/v3/profile/{quote(person.user_id)}/displayname",
                    {"displayname": f"{person.user_id} {number}"},
                )
            if number == 7:
                await person.leaves(room)
                await person.joins(room)

    async def watch() -> None:
        while not done.is_set() or not set(acknowledged) <= set(watcher.spans[room]):
            answer = await watcher.syncs(timeout_ms=5000)
            assert answer.body.get("rooms"), "a long poll of 5 s in a busy room heard nothing"

    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        async with asyncio.TaskGroup() as writers:
            for person in people:
                writers.create_task(live(person))
        done.set()
    assert watching.done()

    check_chain(await events_of(homeserver.parts.services.db, room))
    history = await all_messages(alice, room)
    assert len(history) == len(set(history))
    assert set(acknowledged) <= set(history)
    span = watcher.spans[room]
    assert span == history[history.index(span[0]) :]
    await watcher.check()


async def test_rooms_made_at_the_same_time_by_the_same_people_are_all_made(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    rooms = await asyncio.gather(
        *(
            person.creates_room(
                invite=[bob if person is alice else alice],
                initial_state=[{"type": "m.new", "state_key": str(n // 3), "content": {}}],
            )
            for n in range(12)
            for person in (alice, bob)
        )
    )
    assert len(set(rooms)) == 24
    await asyncio.gather(*(alice.sets(room, "m.other", {"a": 1}, "k") for room in rooms[::2]))
    for room in rooms:
        check_chain(await events_of(homeserver.parts.services.db, room))
    assert set((await bob.syncs()).body["rooms"]["invite"]) == set(rooms[::2])


async def test_what_is_answered_as_already_so_is_durable(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    """Two requests set the same state: the second, which changes nothing, awaits the first."""
    room = await alice.creates_room()
    db = homeserver.parts.services.db
    seen: list[bool] = []

    async def sets() -> None:
        event_id = await alice.sets(room, "m.x", {"a": 1})
        seen.append(homeserver.parts.stream.position >= await _position_of(db, event_id))

    await asyncio.gather(*(sets() for _ in range(8)))
    assert seen == [True] * 8


async def _position_of(db: Database, event_id: str) -> int:
    row = await db.row("SELECT pos FROM event WHERE event_id = ?", event_id)
    return 2**62 if row is None else int(row[0])


async def test_a_room_whose_head_another_worker_moves_is_read_anew(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room()
    db = homeserver.parts.services.db
    await alice.says(room, "before")
    stored = await stored_rooms.find_room(db, room)
    assert stored is not None

    async def disturb() -> None:
        for _ in range(5):
            known = await stored_rooms.find_room(db, room)
            assert known is not None
            tx = Transaction()
            tx.execute("UPDATE room SET ver = ver + 1 WHERE nid = ?", known.nid)
            await db.commit(tx)
            await asyncio.sleep(0.02)

    said, _ = await asyncio.gather(
        asyncio.gather(*(alice.says(room, str(number)) for number in range(20))), disturb()
    )
    assert len(set(said)) == 20
    events = await events_of(db, room)
    check_chain(events)
    assert set(said) <= {event["event_id"] for event in events}
    assert (await alice.syncs()).timeline(room)[-1]["event_id"] == events[-1]["event_id"]


async def test_counts_are_right_for_two_devices_that_sync_at_the_same_time(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    devices = [bob, *[await homeserver.signs_in("bob") for _ in range(3)]]
    await asyncio.gather(*(device.syncs() for device in devices))
    for number in range(1, 6):
        await alice.says(room, "x")
        answers = await asyncio.gather(*(device.syncs() for device in devices))
        assert [
            each.room(room)["unread_notifications"]["notification_count"] for each in answers
        ] == [number] * len(devices)


async def test_counts_begin_after_a_new_name_and_after_coming_back(
    alice: Person, bob: Person
) -> None:
    def count(body: dict[str, Any]) -> object:
        return body["rooms"]["join"][room]["unread_notifications"]["notification_count"]

    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await alice.says(room, "one")
    await bob.put(f"/v3/profile/{quote(bob.user_id)}/displayname", {"displayname": "阿宝"})
    await alice.says(room, "two")
    assert count((await bob.syncs()).body) == 1
    await bob.leaves(room)
    for _ in range(3):
        await alice.says(room, "while bob was away")
    await bob.joins(room)
    await alice.says(room, "three")
    assert count((await bob.syncs()).body) == 1


async def test_a_full_disk_refuses_writes_and_leaves_the_room_usable(tmp_path: Path) -> None:
    async with served(tmp_path, f"sqlite://{tmp_path}/full.db", 1) as homeserver:
        alice = await homeserver.person("alice")
        room = await alice.creates_room()
        await alice.syncs()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        log = tmp_path / "full.db-wal"
        # A write beyond this size fails like one on a full disk (Python ignores the signal).
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, before[1]))
        try:
            path = f"/v3/rooms/{quote(room)}/send/m.room.message/same"
            for _ in range(3):
                refused = await alice.refused(
                    "PUT", path, {"body": "x" * 9000, "msgtype": "m.text"}
                )
                assert (refused.status, refused.errcode) == (503, "M_UNKNOWN")
            refused = await alice.refused(
                "PUT", f"/v3/rooms/{quote(room)}/state/m.room.topic/", {"topic": "t" * 9000}
            )
            assert refused.status == 503
            assert await alice.get(f"/v3/rooms/{quote(room)}/state")
            assert "rooms" not in (await alice.syncs()).body
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        event = (await alice.put(path, {"body": "now", "msgtype": "m.text"}))["event_id"]
        assert (await alice.syncs()).timeline(room)[-1]["event_id"] == event
        await alice.sets(room, "m.room.topic", {"topic": "t"})
        check_chain(await events_of(homeserver.parts.services.db, room))


async def test_a_lost_database_is_a_503_and_comes_back(tmp_path: Path) -> None:
    server = EmbeddedPostgres(durable=True)
    try:
        url = await server.fresh_database(MIGRATIONS)
        async with served(tmp_path, url, 1) as homeserver:
            alice = await homeserver.person("alice")
            room = await alice.creates_room()
            await alice.says(room, "before")
            server.kill()
            path = f"/v3/rooms/{quote(room)}/send/m.room.message/same"
            refused = await alice.refused("PUT", path, {"body": "lost", "msgtype": "m.text"})
            assert (refused.status, refused.errcode) == (503, "M_UNKNOWN")
            server.start()
            event = (await alice.put(path, {"body": "now", "msgtype": "m.text"}))["event_id"]
            said = await alice.says(room, "after")
            events = await events_of(homeserver.parts.services.db, room)
            check_chain(events)
            assert [each["event_id"] for each in events[-2:]] == [event, said]
            assert (await alice.syncs()).timeline(room)[-1]["event_id"] == said
        other = await open_database(url, MIGRATIONS)
        await other.close()
    finally:
        server.stop()
