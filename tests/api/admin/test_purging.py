"""Purging the history of a room leaves the room whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import pytest

from yizhan_server.app import MIGRATIONS
from yizhan_testing.databases import DIALECTS, Dialect, fresh_database
from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person
from yizhan_testing.served import served

ADMIN = "/_synapse/admin"


def of(name: str) -> str:
    return quote(name, safe="")


async def purge(admin: Person, path: str, body: JsonObject) -> None:
    begun = await admin.post(f"{ADMIN}/v1/purge_history/{path}", body)
    async with asyncio.timeout(20):
        while True:
            where = f"{ADMIN}/v1/purge_history_status/{begun['purge_id']}"
            status = (await admin.get(where))["status"]
            if status != "active":
                assert status == "complete"
                return


async def acts_of(admin: Person) -> list[JsonObject]:
    acts = (await admin.get("/_yizhan/admin/v1/record"))["record"]
    return [act for act in acts if act["actor"] == admin.user_id]


async def history(person: Person, room: str) -> list[str]:
    """The ids of everything that can be paged back to, oldest first."""
    found: list[str] = []
    params = {"dir": "b", "limit": "3"}
    while True:
        page = await person.get(f"/v3/rooms/{of(room)}/messages", **params)
        found += [event["event_id"] for event in page["chunk"]]
        if "end" not in page:
            return found[::-1]
        params["from"] = page["end"]


async def state_of(person: Person, room: str) -> dict[tuple[str, str], str]:
    events = await person.get(f"/v3/rooms/{of(room)}/state")
    return {(e["type"], e["state_key"]): e["event_id"] for e in events}  # type: ignore[index]


async def state_at(person: Person, room: str, event: str) -> dict[tuple[str, str], str]:
    context = await person.get(f"/v3/rooms/{of(room)}/context/{of(event)}", limit="0")
    return {(e["type"], e["state_key"]): e["event_id"] for e in context["state"]}


async def talk(alice: Person, bob: Person, room: str, rounds: int) -> list[str]:
    """Messages and changes of state in turn; returns all the events."""
    events = []
    for number in range(rounds):
        events.append(await alice.says(room, f"局务会 {number}"))
        events.append(await alice.sets(room, "m.room.name", {"name": f"第 {number} 次"}))
        events.append(await bob.says(room, f"好 {number}"))
    return events


@pytest.mark.parametrize("delete_local", [False, True])
async def test_what_precedes_an_event_goes_and_the_rest_is_as_it_was(
    homeserver: HomeserverInProcess, admin: Person, alice: Person, bob: Person, delete_local: bool
) -> None:
    carl = await homeserver.person("carl")
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await carl.joins(room)
    old = await talk(alice, bob, room, 5)
    redacted = await alice.sets(room, "m.room.topic", {"topic": "秘密"})
    await alice.put(f"/v3/rooms/{of(room)}/redact/{of(redacted)}/r", {})
    await alice.post(f"/v3/rooms/{of(room)}/receipt/m.read/{of(old[-1])}", {})
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": old[0]}}
    kept = [await bob.says(room, "留", **thread), *(await talk(alice, bob, room, 3))]
    before = {event: await state_at(alice, room, event) for event in kept}
    state = await state_of(alice, room)
    for person in (alice, bob):
        await person.syncs()

    await purge(admin, f"{of(room)}/{of(kept[0])}", {"delete_local_events": delete_local})

    assert await history(bob, room) == kept
    assert {event: await state_at(alice, room, event) for event in kept} == before
    assert await state_of(alice, room) == state
    for event in (old[0], old[1], redacted):
        assert (await bob.refused("GET", f"/v3/rooms/{of(room)}/event/{of(event)}")).status == 404
        context = f"/v3/rooms/{of(room)}/context/{of(event)}"
        assert (await bob.refused("GET", context)).status == 404
    # A sync goes on from its token, and a new one shows what there is.
    assert (await bob.syncs()).body.get("rooms") is None
    fresh = await homeserver.signs_in("bob")
    answer = await fresh.syncs(filter='{"room": {"timeline": {"limit": 50}}}')
    assert [event["event_id"] for event in answer.timeline(room)] == kept
    shown = answer.state(room)
    assert {"m.room.create", "m.room.member", "m.room.power_levels", "m.room.name"} <= {
        kind for kind, _ in shown
    }
    assert shown["m.room.topic", ""] == {}
    # What was said is gone from the search.
    wish = {"search_categories": {"room_events": {"search_term": "局务会"}}}
    found = (await bob.post("/v3/search", wish))["search_categories"]["room_events"]
    assert found["count"] == 3
    # People go on, those who came back included.
    said = await carl.says(room, "接着说")
    assert (await bob.syncs()).texts(room) == ["接着说"]
    await alice.sets(room, "m.room.name", {"name": "接着开"})
    await bob.leaves(room)
    await bob.joins(room)
    assert [*kept, said] == (await history(bob, room))[: len(kept) + 1]
    roots = await bob.get(f"/v1/rooms/{of(room)}/threads")
    assert roots["chunk"] == []
    db = homeserver.parts.services.db
    [(rows,)] = await db.rows("SELECT count(*) FROM event WHERE event_id = ?", old[0])
    assert rows == (0 if delete_local else 1)
    assert await db.rows("SELECT * FROM push_exception WHERE pos < 0") == []


async def test_a_history_is_purged_up_to_a_time_and_keeps_its_last_event(
    admin: Person, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    first = await alice.says(room, "旧")
    ts = (await alice.get(f"/v3/rooms/{of(room)}/event/{of(first)}"))["origin_server_ts"]
    await asyncio.sleep(0.002)
    second = await alice.says(room, "新")
    await purge(admin, of(room), {"purge_up_to_ts": ts, "delete_local_events": True})
    assert await history(bob, room) == [second]
    await purge(admin, of(room), {"purge_up_to_ts": 2**52, "delete_local_events": True})
    assert await history(bob, room) == [second]
    await purge(admin, of(room), {"purge_up_to_event_id": second})
    assert await history(bob, room) == [second]
    acts = await acts_of(admin)
    assert {(act["action"], act["subject"]) for act in acts} == {("purge_history", room)}
    assert acts[0]["details"] == {"before": second, "local_too": False}


async def test_only_what_is_there_can_be_purged(admin: Person, alice: Person) -> None:
    room = await alice.creates_room()
    other = await alice.creates_room()
    elsewhere = await alice.says(other, "x")
    for path, body, status in (
        (f"{of(room)}/{of(elsewhere)}", {}, 404),
        (f"{of(room)}/$none", {}, 404),
        (of(room), {}, 400),
        (of(room), {"purge_up_to_ts": "soon"}, 400),
        ("!no:test.example/$none", {}, 404),
    ):
        refused = await admin.refused("POST", f"{ADMIN}/v1/purge_history/{path}", body)
        assert refused.status == status, path
    assert await acts_of(admin) == []


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_purged_room_is_whole_after_a_restart(tmp_path: Path, dialect: Dialect) -> None:
    url = await fresh_database(dialect, MIGRATIONS, tmp_path)
    async with served(tmp_path, url, 1) as homeserver:
        admin = await homeserver.person("admin", admin=True)
        alice, bob = await homeserver.person("alice"), await homeserver.person("bob")
        room = await alice.creates_room(preset="public_chat")
        await bob.joins(room)
        await talk(alice, bob, room, 4)
        kept = await talk(alice, bob, room, 2)
        state = await state_of(alice, room)
        await purge(admin, f"{of(room)}/{of(kept[0])}", {"delete_local_events": True})
    async with served(tmp_path, url, 2) as homeserver:
        bob = await homeserver.signs_in("bob")
        assert await state_of(bob, room) == state
        assert await history(bob, room) == kept
        unread = (await bob.syncs()).room(room)["unread_notifications"]["notification_count"]
        assert unread == 0
        kept.append(await bob.says(room, "还在"))
        assert await history(bob, room) == kept


async def test_who_speaks_during_a_purge_loses_nothing(
    homeserver: HomeserverInProcess, admin: Person, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    old = await talk(alice, bob, room, 15)
    cut = await alice.says(room, "从这里起")

    async def speaks(person: Person) -> list[str]:
        return [await person.says(room, f"{number}") for number in range(10)]

    async def changes() -> list[str]:
        return [await alice.sets(room, "m.room.name", {"name": f"改 {n}"}) for n in range(10)]

    wish = {"delete_local_events": True}
    _, *said = await asyncio.gather(
        purge(admin, f"{of(room)}/{of(cut)}", wish), speaks(alice), speaks(bob), changes()
    )
    kept = await history(bob, room)
    assert kept[0] == cut
    assert set(kept[1:]) == {event for events in said for event in events}
    state = await state_of(alice, room)
    assert (await state_at(alice, room, kept[-1])) == state
    for event in kept:
        assert ("m.room.create", "") in await state_at(bob, room, event)
    fresh = await homeserver.signs_in("bob")
    assert set((await fresh.syncs()).state(room)) <= set(state)
    assert not set(old) & set(kept)
