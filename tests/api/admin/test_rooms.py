"""What administrators do to rooms: looking, joining, giving power, blocking, removing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from yizhan_database import Transaction
from yizhan_server.app import MIGRATIONS
from yizhan_server.storage import room_blocks
from yizhan_testing.databases import DIALECTS, Dialect, fresh_database
from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person
from yizhan_testing.served import served
from yizhan_testing.sliding_client import SlidingClient, room_list

ADMIN = "/_synapse/admin"


def of(name: str) -> str:
    return quote(name, safe="")


async def acts_of(admin: Person) -> list[tuple[str, str]]:
    acts = (await admin.get("/_yizhan/admin/v1/record"))["record"]
    return [
        (act["action"], act["subject"]) for act in reversed(acts) if act["actor"] == admin.user_id
    ]


async def ended(admin: Person, path: str) -> JsonObject:
    """Ask for the status until it is no longer active."""
    async with asyncio.timeout(20):
        while True:
            status = await admin.get(path)
            if status["status"] != "active":
                return status


async def test_rooms_are_listed_searched_sorted_and_paged(
    admin: Person, alice: Person, bob: Person
) -> None:
    office = await alice.creates_room(
        name="局务会", invite=[bob], room_alias_name="office", visibility="public"
    )
    await bob.joins(office)
    other = await alice.creates_room(name="A small one", preset="private_chat")
    bare = await bob.creates_room()

    async def ids(**params: str) -> list[str]:
        answer = await admin.get(f"{ADMIN}/v1/rooms", **params)
        return [room["room_id"] for room in answer["rooms"]]

    assert await ids() == [other, office, bare]
    assert await ids(dir="b") == [bare, office, other]
    assert (await ids(order_by="joined_members"))[0] == office
    assert (await ids(order_by="size", dir="b"))[-1] == office
    assert await ids(search_term="局务") == [office]
    assert await ids(search_term="OFFICE") == [office]
    assert await ids(search_term=bare) == [bare]
    assert await ids(public_rooms="true") == [office]
    assert await ids(public_rooms="false", empty_rooms="false") == [other, bare]
    assert await ids(empty_rooms="true") == []
    page = await admin.get(f"{ADMIN}/v1/rooms", limit="2")
    assert (page["offset"], page["total_rooms"], page["next_batch"]) == (0, 3, 2)
    page = await admin.get(f"{ADMIN}/v1/rooms", limit="2", **{"from": "2"})
    assert (len(page["rooms"]), page["prev_batch"]) == (1, 0)
    assert "next_batch" not in page

    room = await admin.get(f"{ADMIN}/v1/rooms/{of(office)}")
    assert room == room | {
        "name": "局务会", "canonical_alias": "#office:test.example", "joined_members": 2,
        "joined_local_members": 2, "joined_local_devices": 2, "creator": alice.user_id,
        "public": True, "federatable": True, "version": "12", "join_rules": "public",
        "encryption": None, "room_type": None, "forgotten": False, "tombstoned": False,
    }  # fmt: skip
    members = await admin.get(f"{ADMIN}/v1/rooms/{of(office)}/members")
    assert members == {"members": [alice.user_id, bob.user_id], "total": 2}
    state = (await admin.get(f"{ADMIN}/v1/rooms/{of(office)}/state"))["state"]
    assert len(state) == room["state_events"]
    names = await admin.get(f"{ADMIN}/v1/rooms/{of(office)}/state", type="m.room.name")
    assert [event["content"] for event in names["state"]] == [{"name": "局务会"}]
    for what in ("", "/members", "/state"):
        refused = await admin.refused("GET", f"{ADMIN}/v1/rooms/!no:test.example{what}")
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    # Looking into a room one is not in is an act.
    assert await acts_of(admin) == [("read_state", office)] * 2


async def test_somebody_is_made_to_join(admin: Person, alice: Person, bob: Person) -> None:
    public = await alice.creates_room(preset="public_chat", room_alias_name="open")
    joined = await admin.post(
        f"{ADMIN}/v1/join/{of('#open:test.example')}", {"user_id": bob.user_id}
    )
    assert joined == {"room_id": public}
    assert public in (await bob.get("/v3/joined_rooms"))["joined_rooms"]
    private = await alice.creates_room()
    path = f"{ADMIN}/v1/join/{of(private)}"
    # The administrator has no power in other people's rooms.
    assert (await admin.refused("POST", path, {"user_id": bob.user_id})).errcode == "M_FORBIDDEN"
    await alice.invites(private, admin)
    await admin.joins(private)
    await admin.post(path, {"user_id": bob.user_id})
    assert private in (await bob.get("/v3/joined_rooms"))["joined_rooms"]
    nobody = {"user_id": "@nobody:test.example"}
    assert (await admin.refused("POST", path, nobody)).errcode == "M_NOT_FOUND"
    assert [act for act in await acts_of(admin) if act[0] == "join"] == [("join", bob.user_id)] * 3


@pytest.mark.parametrize("version", ["11", "12"])
async def test_a_room_whose_masters_are_away_gets_another(
    admin: Person, alice: Person, bob: Person, version: str
) -> None:
    room = await alice.creates_room(room_version=version, invite=[bob])
    await bob.joins(room)
    path = f"{ADMIN}/v1/rooms/{of(room)}/make_room_admin"
    await admin.post(path, {"user_id": bob.user_id})
    levels = (await bob.get(f"/v3/rooms/{of(room)}/state/m.room.power_levels/"))["users"]
    assert levels[bob.user_id] == 100
    await bob.sets(room, "m.room.name", {"name": "新名字"})
    await admin.post(path, {})
    await admin.joins(room)
    await admin.sets(room, "m.room.topic", {"topic": "x"})
    await alice.leaves(room)
    await bob.leaves(room)
    await admin.leaves(room)
    refused = await admin.refused("POST", path, {"user_id": bob.user_id})
    assert (refused.status, refused.errcode) == (400, "M_UNKNOWN")
    assert await acts_of(admin) == [
        ("make_room_admin", bob.user_id), ("make_room_admin", admin.user_id)
    ]  # fmt: skip


async def test_nobody_enters_a_blocked_room(admin: Person, alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat")
    path = f"{ADMIN}/v1/rooms/{of(room)}/block"
    assert await admin.get(path) == {"block": False}
    assert await admin.put(path, {"block": True}) == {"block": True}
    assert await admin.get(path) == {"block": True, "user_id": admin.user_id}
    for where in (f"/v3/join/{of(room)}", f"/v3/rooms/{of(room)}/join"):
        assert (await bob.refused("POST", where, {})).errcode == "M_FORBIDDEN"
    invite = {"user_id": bob.user_id}
    refused = await alice.refused("POST", f"/v3/rooms/{of(room)}/invite", invite)
    assert refused.errcode == "M_FORBIDDEN"
    await admin.put(path, {"block": False})
    await bob.joins(room)
    refused = await admin.refused("PUT", f"{ADMIN}/v1/rooms/nothing/block", {"block": True})
    assert refused.errcode == "M_INVALID_PARAM"
    assert await acts_of(admin) == [("block_room", room), ("unblock_room", room)]


async def test_a_removed_room_is_gone_for_everybody(
    homeserver: HomeserverInProcess, admin: Person, alice: Person, bob: Person
) -> None:
    carl = await homeserver.person("carl")
    room = await alice.creates_room(
        preset="public_chat", invite=[bob, carl], room_alias_name="bad", visibility="public"
    )
    await bob.joins(room)
    said = await alice.says(room, "坏话")
    await alice.put(f"/v3/rooms/{of(room)}/redact/{of(said)}/1", {})
    await bob.says(room, "马上就没", **{"org.matrix.self_destruct_after": 2**52})
    await alice.post(f"/v3/rooms/{of(room)}/receipt/m.read/{of(said)}", {})
    await alice.put(f"/v3/user/{of(alice.user_id)}/rooms/{of(room)}/account_data/m.x", {"a": 1})
    kept = await alice.creates_room(name="留下的")
    staying = await alice.says(kept, "还在")
    for person in (alice, bob, carl):
        await person.syncs()

    sliding = SlidingClient(await homeserver.signs_in("alice"), {"lists": {"all": room_list()}})
    assert set((await sliding.syncs()).listed("all")) == {room, kept}

    begun = await admin.call("DELETE", f"{ADMIN}/v2/rooms/{of(room)}", {"block": True})
    status = await ended(admin, f"{ADMIN}/v2/rooms/delete_status/{begun['delete_id']}")
    assert status["status"] == "complete"
    assert status["shutdown_room"]["kicked_users"] == [
        alice.user_id, bob.user_id, carl.user_id
    ]  # fmt: skip
    assert status["shutdown_room"]["local_aliases"] == ["#bad:test.example"]
    assert status["shutdown_room"]["failed_to_kick_users"] == []
    of_room = await admin.get(f"{ADMIN}/v2/rooms/{of(room)}/delete_status")
    assert [task["delete_id"] for task in of_room["results"]] == [begun["delete_id"]]

    # A client on the other sync goes on, without the room.
    assert (await sliding.syncs()).listed("all") == [kept]
    for person in (alice, bob, carl):
        # Those who were away meanwhile are told, too.
        answer = await person.syncs()
        assert room in answer.body["rooms"]["leave"]
        assert room not in answer.body["rooms"].get("join", {})
        fresh = await person.get("/v3/sync")
        assert room not in fresh.get("rooms", {}).get("join", {})
    refused = await alice.refused("GET", f"/v3/rooms/{of(room)}/messages?dir=b")
    assert refused.errcode == "M_FORBIDDEN"
    assert (
        await alice.refused("GET", f"/v3/directory/room/{of('#bad:test.example')}")
    ).status == 404
    assert (await bob.refused("POST", f"/v3/join/{of(room)}", {})).errcode == "M_FORBIDDEN"
    assert (await bob.get("/v3/publicRooms"))["chunk"] == []
    assert (await admin.refused("GET", f"{ADMIN}/v1/rooms/{of(room)}")).errcode == "M_NOT_FOUND"
    assert await admin.get(f"{ADMIN}/v1/rooms/{of(room)}/block") == {
        "block": True, "user_id": admin.user_id
    }  # fmt: skip
    # What is not this room is as it was.
    event = await alice.get(f"/v3/rooms/{of(kept)}/event/{of(staying)}")
    assert event["content"]["body"] == "还在"
    assert await acts_of(admin) == [("remove_room", room), ("block_room", room)]
    assert await rows_of_rooms(homeserver) == {kept}


MAY_NAME_REMOVED_ROOMS = {"report", "room_block", "room_departure"}
"""Tables that are about rooms whether they are here or not."""


async def rows_of_rooms(homeserver: HomeserverInProcess) -> set[str]:
    """The rooms that the server still knows of; no table may know of others, or of their events."""
    db = homeserver.parts.services.db
    columns: dict[str, set[str]] = {}
    for table, column in await db.rows(
        "SELECT m.name, p.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS p"
        " WHERE m.type = 'table'"
        if db.dialect == "sqlite"
        else "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public'"
    ):
        columns.setdefault(table, set()).add(column)
    assert len(columns) > 50
    rooms: dict[int, str] = dict(await db.rows("SELECT nid, room_id FROM room"))
    events: dict[int, str] = dict(await db.rows("SELECT nid, event_id FROM event"))
    known: dict[str, set[Any]] = {
        "room": set(rooms), "room_id": {*rooms.values(), ""}, "event": set(events),
        "event_id": set(events.values()), "target": set(events.values()),
        "line": {0, *(line for (line,) in await db.rows("SELECT line FROM state_line"))},
    }  # fmt: skip
    for table, names in columns.items():
        if table in MAY_NAME_REMOVED_ROOMS or table.startswith("search_text"):
            continue
        for name in (names & set(known)) - ({"event"} if table == "to_device" else set()):
            if (table, name) == ("master_signature", "target"):
                continue
            found = {
                value
                for (value,) in await db.rows(
                    f"SELECT DISTINCT {name} FROM {table} WHERE {name} IS NOT NULL"
                )
            }
            assert found <= known[name], (table, name)
    return set(rooms.values())


async def test_people_are_taken_to_a_room_that_explains(
    admin: Person, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", invite=[bob], room_alias_name="old")
    await bob.joins(room)
    answer = await admin.call(
        "DELETE", f"{ADMIN}/v1/rooms/{of(room)}",
        {
            "new_room_user_id": admin.user_id, "message": "已关闭", "room_name": "通知",
            "purge": False,
        },
    )  # fmt: skip
    assert answer["kicked_users"] == [alice.user_id, bob.user_id]
    new = answer["new_room_id"]
    synced = await bob.syncs()
    assert synced.texts(new) == ["已关闭"]
    assert (
        await bob.refused("PUT", f"/v3/rooms/{of(new)}/send/m.room.message/1", {})
    ).status == 403
    resolved = await bob.get(f"/v3/directory/room/{of('#old:test.example')}")
    assert resolved["room_id"] == new
    # It was closed, not removed: who was in it reads what was said until then.
    await bob.get(f"/v3/rooms/{of(room)}/messages", dir="b")
    details = await admin.get(f"{ADMIN}/v1/rooms/{of(room)}")
    assert (details["joined_members"], details["canonical_alias"]) == (0, "#old:test.example")
    for body in ({"new_room_user_id": "@no:test.example"}, {"purge": "yes"}):
        refused = await admin.refused("DELETE", f"{ADMIN}/v1/rooms/{of(room)}", body)
        assert refused.status in (400, 404)


async def test_a_room_that_is_not_here_can_be_blocked_but_not_removed(admin: Person) -> None:
    path = f"{ADMIN}/v1/rooms/{of('!far:away.example')}"
    assert (await admin.call("DELETE", path, {"block": True}))["kicked_users"] == []
    assert (await admin.get(f"{path}/block"))["block"] is True
    for version in ("v1", "v2"):
        refused = await admin.refused("DELETE", path.replace("v1", version), {})
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    for status in (
        "v2/rooms/delete_status/nothing", f"v2/rooms/{of('!far:away.example')}/delete_status",
        "v1/purge_history_status/nothing",
    ):  # fmt: skip
        assert (await admin.refused("GET", f"{ADMIN}/{status}")).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_removal_that_a_crash_interrupted_goes_on(tmp_path: Path, dialect: Dialect) -> None:
    url = await fresh_database(dialect, MIGRATIONS, tmp_path)
    async with served(tmp_path, url, 1) as homeserver:
        alice = await homeserver.person("alice")
        room = await alice.creates_room(preset="public_chat")
        for number in range(5):
            await alice.says(room, f"{number}")
        await alice.leaves(room)
        tx = Transaction()
        room_blocks.append_removal(tx, room)
        await homeserver.parts.services.db.commit(tx)
        # From here on nobody enters, whoever comes.
        assert (await alice.refused("POST", f"/v3/join/{of(room)}", {})).errcode == "M_FORBIDDEN"
    async with served(tmp_path, url, 2) as homeserver:
        alice = await homeserver.signs_in("alice")
        async with asyncio.timeout(20):
            while await room_blocks.rooms_in_removal(homeserver.parts.services.db):
                await alice.refused("GET", f"/v3/rooms/{of(room)}/state")
        assert await rows_of_rooms(homeserver) == set()
