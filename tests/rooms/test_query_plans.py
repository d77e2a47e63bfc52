"""No statement of an ordinary day reads a whole table, unless it says why."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from yizhan_server.app import MIGRATIONS
from yizhan_testing.databases import DIALECTS, Dialect, StatementRecorder, fresh_database
from yizhan_testing.homeserver import HomeserverInProcess
from yizhan_testing.replica import Replica
from yizhan_testing.served import served


async def ordinary_day(homeserver: HomeserverInProcess) -> None:
    """Use everything that an office uses on a day."""
    alice, bob = await homeserver.person("alice"), await homeserver.person("bob")
    me = quote(alice.user_id)
    lazy = Replica(
        await homeserver.signs_in("bob"), "lazy",
        {"room": {"timeline": {"limit": 2}, "state": {"lazy_load_members": True},
                  "include_leave": True}},
    )  # fmt: skip
    after = Replica(await homeserver.signs_in("bob"), "after", state_after=True)
    await alice.put(f"/v3/profile/{me}/displayname", {"displayname": "阿丽"})
    room = await alice.creates_room(
        name="局务会", invite=[bob], room_alias_name="day", visibility="public"
    )
    path = f"/v3/rooms/{quote(room, safe='')}"
    for client in (lazy, after):
        await client.syncs()
    await bob.joins(room)
    root = await alice.says(room, "议题")
    event = quote(root, safe="")
    for number in range(12):
        relation = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        await bob.says(room, f"{number}", **(relation if number % 3 else {}))
    await bob.sends(
        room,
        "m.reaction",
        {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "x"}},
    )
    edit = {"rel_type": "m.replace", "event_id": root}
    await alice.says(
        room, "* 新议题", **{"m.new_content": {"body": "新议题"}, "m.relates_to": edit}
    )
    last = await bob.says(room, "删掉")
    await bob.put(f"{path}/redact/{quote(last, safe='')}/r", {})
    await alice.sets(room, "m.room.topic", {"topic": "x"})
    await alice.post(f"{path}/receipt/m.read/{event}", {"thread_id": "main"})
    await bob.post(f"{path}/read_markers", {"m.fully_read": root, "m.read": root})
    await alice.put(f"{path}/typing/{me}", {"typing": True, "timeout": 10_000})
    await alice.put(f"/v3/user/{me}/account_data/m.x", {"a": 1})
    await alice.put(f"/v3/user/{me}/rooms/{quote(room)}/account_data/m.x", {"a": 1})
    await alice.put(f"/v3/user/{me}/rooms/{quote(room)}/tags/m.favourite", {"order": 0.5})
    await alice.put("/v3/sendToDevice/m.x/1", {"messages": {bob.user_id: {"*": {"a": 1}}}})
    await alice.post("/v3/keys/query", {"device_keys": {bob.user_id: []}})
    await alice.post(
        "/v3/pushers/set",
        {
            "app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "a", "lang": "zh",
            "device_display_name": "d",
            "data": {"url": "https://push.example/_matrix/push/v1/notify"},
        },
    )  # fmt: skip
    for client in (lazy, after):
        await client.syncs()
        await client.syncs(full_state="true")
    for person in (alice, bob):
        for what in (
            "/state", "/members", "/joined_members", "/messages?dir=b&limit=5", "/messages?dir=f",
            f"/context/{event}", f"/event/{event}", "/state/m.room.topic/", "/aliases",
        ):  # fmt: skip
            await person.get(path + what)
        for what in (
            f"relations/{event}", f"relations/{event}/m.thread", "threads",
            f"relations/{event}?recurse=true", "threads?include=participated",
        ):  # fmt: skip
            await person.get(f"/v1/rooms/{quote(room, safe='')}/{what}")
        for what in (
            "/v3/joined_rooms", "/v3/publicRooms", "/v3/devices", "/v3/pushers", "/v3/pushrules/",
            f"/v3/profile/{me}", f"/v3/presence/{me}/status",
            "/v3/directory/room/%23day:test.example",
        ):  # fmt: skip
            await person.get(what)
        await person.post("/v3/user_directory/search", {"search_term": "a"})
        await person.post("/v3/publicRooms", {"filter": {"generic_search_term": "局"}})
    wanted = json.dumps({"types": ["m.room.message"], "lazy_load_members": True})
    await alice.get(f"{path}/messages", dir="b", filter=wanted)
    await alice.post(f"{path}/kick", {"user_id": bob.user_id})
    await alice.post(f"{path}/ban", {"user_id": bob.user_id})
    await alice.post(f"{path}/unban", {"user_id": bob.user_id})
    for client in (lazy, after):
        await client.syncs()
    await bob.post(f"{path}/forget", {})
    await alice.leaves(room)
    await lazy.person.post("/v3/logout", {})


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_no_statement_of_an_ordinary_day_scans_a_table(
    tmp_path: Path, dialect: Dialect
) -> None:
    url = await fresh_database(dialect, MIGRATIONS, tmp_path)
    with StatementRecorder() as recorder:
        async with served(tmp_path, url, 1) as homeserver:
            await ordinary_day(homeserver)
        # And the day after, when nothing is in memory.
        async with served(tmp_path, url, 2) as homeserver:
            alice = await homeserver.signs_in("alice")
            await alice.syncs()
    if dialect == "sqlite":
        assert len(recorder.statements) > 100
        assert recorder.full_scans(Path(url.removeprefix("sqlite://"))) == []
