"""Finding people and rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from yizhan_testing.homeserver import Person, homeserver_in_process

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess


async def finds(person: Person, term: str) -> set[str]:
    answer = await person.post("/v3/user_directory/search", {"search_term": term})
    return {found["user_id"] for found in answer["results"]}


async def test_colleagues_find_each_other_without_a_common_room(alice: Person, bob: Person) -> None:
    assert await finds(alice, "bo") == {bob.user_id}
    assert await finds(alice, "alice") == set()


async def test_where_that_is_not_wanted_a_room_must_connect_them(
    tmp_path: Path, dialect: Dialect
) -> None:
    settings = {"directory.everybody": False}
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        alice, bob = await homeserver.person("alice"), await homeserver.person("bob")
        assert await finds(alice, "bob") == set()

        private = await alice.creates_room(invite=[bob])
        assert await finds(alice, "bob") == set()
        await bob.joins(private)
        assert await finds(alice, "bob") == {bob.user_id}
        await bob.leaves(private)
        assert await finds(alice, "bob") == set()

        public = await bob.creates_room(preset="public_chat")
        assert await finds(alice, "bob") == {bob.user_id}
        await bob.sets(public, "m.room.join_rules", {"join_rule": "invite"})
        assert await finds(alice, "bob") == set()
        world = {"history_visibility": "world_readable"}
        await bob.sets(public, "m.room.history_visibility", world)
        assert await finds(alice, "bob") == await finds(bob, "bob") == {bob.user_id}


async def test_the_list_of_rooms_is_for_those_who_signed_in_unless_it_is_opened(
    tmp_path: Path, homeserver: HomeserverInProcess
) -> None:
    url = "/_matrix/client/v3/publicRooms"
    async with homeserver.http.get(homeserver.base_url + url) as response:
        assert response.status == 401
    settings = {"directory.rooms_without_sign_in": True}
    async with homeserver_in_process(tmp_path / "open", **settings) as opened:
        alice = await opened.person("alice")
        room = await alice.creates_room(visibility="public")
        async with opened.http.get(opened.base_url + url) as response:
            assert [each["room_id"] for each in (await response.json())["chunk"]] == [room]


async def test_the_list_of_rooms_is_paged_in_both_directions(alice: Person) -> None:
    rooms = {await alice.creates_room(visibility="public") for _ in range(5)}
    pages, since = [], None
    while True:
        answer = await alice.post("/v3/publicRooms", {"limit": 2, "since": since})
        pages.append([room["room_id"] for room in answer["chunk"]])
        since = answer.get("next_batch")
        if since is None:
            break
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {room for page in pages for room in page} == rooms

    back = []
    while "prev_batch" in answer:
        answer = await alice.post("/v3/publicRooms", {"limit": 2, "since": answer["prev_batch"]})
        back.append([room["room_id"] for room in answer["chunk"]])
    assert back == [pages[1], pages[0]]
    for bad in ("0", "p", "p-1", "p" + "9" * 20):
        refused = await alice.refused("POST", "/v3/publicRooms", {"since": bad})
        assert refused.errcode == "M_INVALID_PARAM"


async def test_an_alias_taken_away_is_no_longer_named_by_the_room(
    alice: Person, bob: Person, homeserver: HomeserverInProcess
) -> None:
    room = await alice.creates_room(preset="public_chat", room_alias_name="one")
    await bob.joins(room)
    one, two = f"#one:{homeserver.server_name}", f"#two:{homeserver.server_name}"
    for person, alias in ((bob, two),):
        await person.put(f"/v3/directory/room/{quote(alias)}", {"room_id": room})
    await alice.sets(room, "m.room.canonical_alias", {"alias": one, "alt_aliases": [two]})

    # Bob may take his alias away, but has no power to change what the room names.
    await bob.delete(f"/v3/directory/room/{quote(two)}")
    path = f"/v3/rooms/{quote(room)}/state/m.room.canonical_alias"
    assert await alice.get(path) == {"alias": one, "alt_aliases": [two]}
    await alice.delete(f"/v3/directory/room/{quote(one)}")
    assert await alice.get(path) == {"alt_aliases": [two]}
