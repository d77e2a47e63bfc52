"""Paging back beyond what one's own server has of a room."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from yizhan_server.protocol.errors import Forbidden
from yizhan_server.protocol.event import parse_pdu
from yizhan_server.protocol.identifiers import EventID, ServerName
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.protocol.signing import SigningKey, hash_and_sign_event
from yizhan_server.storage import events as stored_events
from yizhan_testing.departments import departments
from yizhan_testing.homeserver import Refused
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from yizhan_server.protocol.event import Pdu
    from yizhan_server.rooms.server_access import RoomOfServer
    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.later_clock import LaterClock

Json = dict[str, Any]


@pytest_asyncio.fixture
async def pair(
    tmp_path: Path, dialect: Dialect, clock: LaterClock
) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2, clock=clock) as servers:
        yield servers


async def joins(person: Person, room: str, via: HomeserverInProcess) -> None:
    await person.call(
        "POST", f"/v3/join/{quote(room, safe='')}", {}, params={"via": via.server_name}
    )


async def page(person: Person, room: str, **query: str) -> Json:
    return await person.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", **query)


async def all_pages(person: Person, room: str, start: str | None, limit: int = 40) -> list[Json]:
    """Page back to the beginning, as a client does; returns the events, latest first."""
    events: list[Json] = []
    query = {} if start is None else {"from": start}
    for _ in range(30):
        answer = await page(person, room, limit=str(limit), **query)
        events += answer["chunk"]
        if "end" not in answer:
            return events
        query = {"from": answer["end"]}
    raise AssertionError("the pages do not end")


def bodies(events: list[Json]) -> list[str]:
    return [e["content"]["body"] for e in events if e["type"] == "m.room.message"]


async def stored(server: HomeserverInProcess, room_id: str, event_id: str) -> Pdu:
    """Return an event as its server has it."""
    room = await server.parts.services.rooms.get(room_id)
    found = await stored_events.known_pdus(
        server.parts.services.db, room.nid, [EventID(event_id)], room.version
    )
    return found[EventID(event_id)].pdu


class Asked:
    """What a server is asked for at /backfill, and what it answers instead of the truth."""

    def __init__(self, server: HomeserverInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.lie: Sequence[Pdu] | None = None
        serving = server.parts.services.serving_events
        honest = serving.backfill

        async def backfill(of: RoomOfServer, latest: Sequence[str], limit: int) -> Sequence[Pdu]:
            self.times += 1
            await asyncio.sleep(0.01)
            return await honest(of, latest, limit) if self.lie is None else self.lie

        monkeypatch.setattr(serving, "backfill", backfill)


async def test_who_joins_pages_back_to_the_beginning(
    pair: list[HomeserverInProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat", name="plans")
    said = [f"before {number}" for number in range(130)]
    for text in said:
        await alice.says(room, text)
    # Messages under a later member event, which only the history itself has.
    await alice.put(f"/v3/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    await alice.says(room, "renamed")
    await alice.put(f"/v3/profile/{alice.user_id}/displayname", {"displayname": "A."})
    asked = Asked(a, monkeypatch)

    await joins(bob, room, a)
    sync = await bob.syncs()
    timeline = sync.room(room)["timeline"]
    assert timeline["limited"] is True
    events = [*reversed(timeline["events"]), *await all_pages(bob, room, timeline["prev_batch"])]

    assert bodies(events) == ["renamed", *reversed(said)]
    ids = [event["event_id"] for event in events]
    assert len(ids) == len(set(ids))
    assert events[-1]["type"] == "m.room.create"
    assert asked.times <= 4
    # It is here now, and nothing of it is news.
    before = asked.times
    assert bodies(await all_pages(bob, room, None, 100)) == ["renamed", *reversed(said)]
    assert asked.times == before
    assert room not in (await bob.syncs(since=sync.next_batch)).body.get("rooms", {}).get(
        "join", {}
    )


async def test_an_event_of_the_past_is_found_by_its_time_and_has_neighbours(
    pair: list[HomeserverInProcess], clock: LaterClock
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    for number in range(30):
        await alice.says(room, f"{number}")
    moment = clock.now_ms()
    clock.later_ms = 3600_000
    wanted = await alice.says(room, "an hour later")
    for number in range(30):
        await alice.says(room, f"then {number}")
    await joins(bob, room, a)

    for ts, direction in ((moment + 1000, "f"), (clock.now_ms() - 3590_000, "f")):
        found = await bob.get(
            f"/v1/rooms/{quote(room, safe='')}/timestamp_to_event", ts=str(ts), dir=direction
        )
        assert found["event_id"] == wanted
    context = await bob.get(
        f"/v3/rooms/{quote(room, safe='')}/context/{quote(wanted, safe='')}", limit="10"
    )
    assert bodies(context["events_before"])[:2] == ["29", "28"]
    assert "m.room.create" in {event["type"] for event in context["state"]}


async def test_many_who_page_at_once_ask_once(
    pair: list[HomeserverInProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    alice = await a.person("alice")
    people = [await b.person(name) for name in ("bob", "carol", "dave")]
    room = await alice.creates_room(preset="public_chat")
    await alice.says(room, "hello")
    for person in people:
        await joins(person, room, a)
    asked = Asked(a, monkeypatch)

    pages = await asyncio.gather(*(page(person, room, limit="50") for person in people))

    assert [bodies(each["chunk"]) for each in pages] == [["hello"]] * 3
    assert asked.times == 1


async def test_history_that_is_for_members_only_stays_so(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob, carol = await a.person("alice"), await b.person("bob"), await b.person("carol")
    room = await alice.creates_room(
        preset="public_chat",
        initial_state=[
            {
                "type": "m.room.history_visibility",
                "content": {"history_visibility": "joined"},
            }
        ],
    )
    await alice.says(room, "among ourselves")
    await joins(bob, room, a)
    await bob.says(room, "bob is here")

    events = await all_pages(bob, room, None)
    assert bodies(events) == ["bob is here"]
    assert "among ourselves" not in str(events)

    await joins(carol, room, a)
    assert bodies(await all_pages(carol, room, None)) == []


async def test_who_left_asks_nobody(
    pair: list[HomeserverInProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    alice, bob, carol = await a.person("alice"), await b.person("bob"), await b.person("carol")
    room = await alice.creates_room(preset="public_chat")
    await alice.says(room, "hello")
    await joins(bob, room, a)
    await joins(carol, room, a)
    await bob.leaves(room)
    asked = Asked(a, monkeypatch)

    assert bodies(await all_pages(bob, room, None)) == []
    assert asked.times == 0


async def test_lies_about_the_past_are_not_believed(
    pair: list[HomeserverInProcess],
    monkeypatch: pytest.MonkeyPatch,
    clock: LaterClock,
    tmp_path: Path,
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat", room_version="10")
    other = await alice.creates_room(preset="public_chat", room_version="10")
    last = await alice.says(room, "the truth")
    elsewhere = await alice.says(other, "in another room")
    await joins(bob, room, a)
    asked = Asked(a, monkeypatch)
    true, foreign = await stored(a, room, last), await stored(a, other, elsewhere)
    version = ROOM_VERSIONS["10"]
    key = SigningKey.parse((tmp_path / "department-0/secrets/signing.key").read_text())
    invented = parse_pdu(
        hash_and_sign_event(
            {**true.raw, "content": {"msgtype": "m.text", "body": "invented"}},
            version, ServerName(a.server_name), key,
        ),
        version,
    )  # fmt: skip
    unsigned = parse_pdu({**true.raw, "signatures": {}}, version)
    altered = parse_pdu({**true.raw, "depth": 1}, version)
    lies: list[Sequence[Pdu]] = [
        [foreign],
        [invented],
        [unsigned],
        [altered],
        [invented] * 5000,
        [],
    ]
    for lie in lies:
        asked.lie = lie
        before = asked.times
        assert bodies(await all_pages(bob, room, None)) == []
        assert asked.times == before + 1
        # For a while nobody is bothered again.
        assert bodies(await all_pages(bob, room, None)) == []
        assert asked.times == before + 1
        clock.later_ms += 61_000

    asked.lie = None
    assert bodies(await all_pages(bob, room, None)) == ["the truth"]
    with pytest.raises(Refused, match="M_NOT_FOUND"):
        await bob.get(f"/v3/rooms/{quote(room, safe='')}/event/{invented.event_id}")


async def test_what_was_redacted_meanwhile_comes_redacted(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    regretted = await alice.says(room, "regretted")
    await joins(bob, room, a)
    await alice.put(f"/v3/rooms/{quote(room, safe='')}/redact/{quote(regretted, safe='')}/1", {})

    async def bob_hears_of_it() -> None:
        latest = await bob.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="1")
        assert latest["chunk"][0]["type"] == "m.room.redaction"

    await until(bob, bob_hears_of_it)
    events = await all_pages(bob, room, None)
    (found,) = [event for event in events if event["event_id"] == regretted]
    assert found["content"] == {}


async def test_a_gap_in_the_middle_is_paged_through_by_those_who_were_there(
    pair: list[HomeserverInProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    alice, bob, carol = await a.person("alice"), await b.person("bob"), await b.person("carol")
    room = await alice.creates_room(
        preset="public_chat",
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ],
    )
    await joins(bob, room, a)
    regretted = await bob.says(room, "regretted")

    async def alice_reads() -> None:
        assert "regretted" in bodies((await page(alice, room))["chunk"])

    await until(alice, alice_reads)
    await bob.syncs()

    async def lost(*_: object) -> Json:
        return {"pdus": {}}

    async def gives_nothing(*_: object) -> list[Pdu]:
        raise Forbidden("not now")

    # What a sends while b is restored from a backup, say, and cannot be had as "missing" later.
    with monkeypatch.context() as outage:
        outage.setattr(b.parts.services.federation_transactions, "receive", lost)
        path = f"/v3/rooms/{quote(room, safe='')}/redact/{quote(regretted, safe='')}/1"
        await alice.put(path, {})
        for number in range(30):
            await alice.says(room, f"lost {number}")
        async with asyncio.timeout(20):
            while not await is_sent(a, b):
                await alice.get("/v3/account/whoami")
    monkeypatch.setattr(a.parts.services.serving_events, "missing", gives_nothing)
    await alice.says(room, "after the gap")

    async def bob_hears() -> None:
        assert "after the gap" in bodies((await page(bob, room, limit="1"))["chunk"])

    since = bob.since
    await until(bob, bob_hears)
    sync = await bob.syncs(since=str(since))
    timeline = sync.room(room)["timeline"]
    assert timeline["limited"] is True
    assert bodies(timeline["events"]) == ["after the gap"]
    await all_pages(bob, room, timeline["prev_batch"])
    before = await all_pages(bob, room, timeline["prev_batch"])
    (found,) = [event for event in before if event["event_id"] == regretted]
    assert found["content"] == {}
    lost_ones = [event for event in before if event["content"].get("body")]
    assert bodies(lost_ones) == [f"lost {number}" for number in reversed(range(30))]

    # Carol came later: nothing of it is for her, though it is here.
    await joins(carol, room, b)
    assert bodies(await all_pages(carol, room, None)) == []


async def is_sent(server: HomeserverInProcess, to: HomeserverInProcess) -> bool:
    """Whether a server owes nothing to another one."""
    rows = await server.parts.services.db.rows(
        "SELECT 1 FROM busy_destination WHERE server = ?", to.server_name
    )
    return not rows


async def test_what_an_administrator_has_purged_is_fetched_again_by_whoever_pages_back(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob, admin = (
        await a.person("alice"),
        await b.person("bob"),
        await a.person("admin", admin=True),
    )
    room = await alice.creates_room(preset="public_chat")
    await joins(bob, room, a)
    for number in range(3):
        await alice.says(room, f"from a {number}")
        await alice.sets(room, "m.room.topic", {"topic": f"no. {number}"})

    async def bob_sees_all() -> None:
        # The topic came last. Said before it is there, anything would stand beside it: the two
        # have one depth then, and nobody promises which of them is shown first.
        events = await all_pages(bob, room, None)
        assert len(bodies(events)) == 3
        assert len([event for event in events if event["type"] == "m.room.topic"]) == 3

    await until(bob, bob_sees_all)
    for number in range(3):
        await bob.says(room, f"from b {number}")
    last = await bob.says(room, "the last")

    async def alice_sees_all() -> None:
        assert len(bodies(await all_pages(alice, room, None))) == 7

    await until(alice, alice_sees_all)
    before = [event["event_id"] for event in await all_pages(alice, room, None)]
    begun = await admin.post(
        f"/_synapse/admin/v1/purge_history/{quote(room, safe='')}/{quote(last, safe='')}",
        {"delete_local_events": True},
    )

    async def is_purged() -> None:
        where = f"/_synapse/admin/v1/purge_history_status/{begun['purge_id']}"
        assert (await admin.get(where))["status"] == "complete"

    await until(admin, is_purged)
    fresh = await a.signs_in("alice")
    answer = await fresh.syncs()
    assert answer.texts(room) == ["the last"]
    start = answer.room(room)["timeline"]["prev_batch"]
    again = await all_pages(fresh, room, start, limit=2)
    assert [last, *(event["event_id"] for event in again)] == before
    assert bodies(again) == [
        *(f"from b {n}" for n in (2, 1, 0)),
        *(f"from a {n}" for n in (2, 1, 0)),
    ]
    assert [event["event_id"] for event in await all_pages(alice, room, None)] == before
