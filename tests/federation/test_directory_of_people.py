"""Finding people of other servers by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio

from yizhan_testing.departments import departments_with_doors
from yizhan_testing.neighbours import meet
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import Person
    from yizhan_testing.neighbours import Pair

JsonObject = dict[str, Any]


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Pair]:
    async with departments_with_doors(tmp_path, dialect, 2) as servers:
        yield servers


async def found(person: Person, term: str, **more: Any) -> list[JsonObject]:
    answer = await person.post("/v3/user_directory/search", {"search_term": term, **more})
    results: list[JsonObject] = answer["results"]
    return results


async def test_those_of_other_servers_are_found_while_a_room_is_shared(pair: Pair) -> None:
    alice, bob, room = await meet(pair)
    carol = await pair[1].person("carol")
    await alice.put(f"/v3/profile/{alice.user_id}/displayname", {"displayname": "王 Alice"})

    async def bob_finds_her() -> None:
        people = await found(bob, "王 ALICE")
        assert people == [{"user_id": alice.user_id, "display_name": "王 Alice"}]

    await until(bob, bob_finds_her)
    assert [each["user_id"] for each in await found(bob, alice.user_id)] == [alice.user_id]
    assert await found(carol, "alice") == []
    await pair[1].person("alice")
    answer = await bob.post("/v3/user_directory/search", {"search_term": "alice", "limit": 1})
    assert answer["limited"] is True
    assert [each["user_id"] for each in answer["results"]] == [f"@alice:{pair[1].server_name}"]
    assert len(await found(bob, "alice")) == 2

    await bob.leaves(room)
    assert await found(bob, "王") == []


async def test_those_in_listed_rooms_are_found_by_everybody_while_the_server_is_in_it(
    pair: Pair,
) -> None:
    alice, bob, room = await meet(pair)
    carol = await pair[1].person("carol")
    path = f"/v3/directory/list/room/{quote(room, safe='')}"
    await alice.sets(room, "m.room.power_levels", {"users": {bob.user_id: 100}})

    async def bob_may_list_it() -> None:
        levels = await bob.get(f"/v3/rooms/{quote(room, safe='')}/state/m.room.power_levels")
        assert bob.user_id in levels["users"]

    await until(bob, bob_may_list_it)
    assert await found(carol, "alice") == []
    await bob.put(path, {"visibility": "public"})
    assert [each["user_id"] for each in await found(carol, "alice")] == [alice.user_id]
    await bob.leaves(room)
    assert await found(carol, "alice") == []
