"""Spaces with rooms of other servers, and rooms of others seen from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from yizhan_testing.departments import departments
from yizhan_testing.homeserver import Refused
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

SPACE = {"type": "m.space"}
HIERARCHY = "/_matrix/federation/v1/hierarchy"


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2) as servers:
        yield servers


async def makes(person: Person, name: str, **wish: Any) -> str:
    return await person.creates_room(name=name, **{"preset": "public_chat", **wish})


async def adds(person: Person, space: str, room: str, via: str, **content: Any) -> None:
    await person.sets(space, "m.space.child", {"via": [via], **content}, room)


async def tree(person: Person, space: str, **params: str) -> list[str]:
    """The names of all pages."""
    names = []
    while True:
        page = await person.get(f"/v1/rooms/{quote(space, safe='')}/hierarchy", **params)
        names += [room.get("name", "?") for room in page["rooms"]]
        if "next_batch" not in page:
            return names
        params["from"] = page["next_batch"]


async def test_a_space_of_two_departments_is_one_tree(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    root = await makes(alice, "bureau", creation_content=SPACE)
    here = await makes(alice, "office")
    there = await makes(bob, "second department", creation_content=SPACE)
    canteen = await makes(bob, "canteen")
    secret = await makes(bob, "secret", preset="private_chat")
    await adds(alice, root, here, a.server_name, order="c")
    await adds(alice, root, there, b.server_name, order="a", suggested=True)
    await adds(alice, root, secret, b.server_name, order="b")
    await adds(bob, there, canteen, b.server_name, suggested=True)
    await adds(bob, there, secret, b.server_name)
    # Back to the room that another server is asked from.
    await adds(bob, there, root, a.server_name)

    everything = ["bureau", "second department", "canteen", "office"]
    assert await tree(alice, root) == everything
    assert await tree(alice, root, limit="1") == everything
    assert await tree(alice, root, suggested_only="true") == everything[:3]
    assert await tree(alice, root, max_depth="1") == ["bureau", "second department", "office"]


async def test_a_space_that_is_elsewhere_is_walked_by_its_id(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    root = await makes(alice, "bureau", creation_content=SPACE, room_version="10")
    await adds(alice, root, await makes(alice, "office"), a.server_name)
    assert await tree(bob, root) == ["bureau", "office"]
    closed = await makes(
        alice, "closed", creation_content=SPACE, room_version="10", preset="private_chat"
    )
    with pytest.raises(Refused, match="403"):
        await tree(bob, closed)


async def test_a_room_for_members_of_the_space_is_shown_to_these_only(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    alice, dave, bob = await a.person("alice"), await a.person("dave"), await b.person("bob")
    root = await makes(alice, "bureau", creation_content=SPACE)
    await bob.call("POST", f"/v3/join/{quote(root, safe='')}", {}, params={"via": a.server_name})
    allow = [{"type": "m.room_membership", "room_id": root}]
    inner = await makes(
        bob, "members only", preset="private_chat",
        initial_state=[
            {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
        ],
    )  # fmt: skip
    await adds(alice, root, inner, b.server_name)
    assert await tree(alice, root) == ["bureau", "members only"]
    assert await tree(dave, root) == ["bureau"]


async def test_a_room_of_another_server_is_summarised(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await makes(alice, "canteen", topic="lunch")
    alias = f"#canteen:{a.server_name}"
    await alice.put(f"/v3/directory/room/{quote(alias, safe='')}", {"room_id": room})
    hidden = await makes(alice, "hidden", preset="private_chat")
    invited = await alice.creates_room(name="for bob", invite=[bob])

    def of(name: str) -> str:
        return f"/v1/room_summary/{quote(name, safe='')}"

    summary = await bob.get(of(room), via=a.server_name)
    assert (summary["name"], summary["topic"]) == ("canteen", "lunch")
    assert (summary["num_joined_members"], summary["membership"]) == (1, "leave")
    assert (await bob.get(of(alias)))["room_id"] == room
    assert (await bob.get(of(invited), via=a.server_name))["membership"] == "invite"
    with pytest.raises(Refused, match="M_NOT_FOUND"):
        await bob.get(of(hidden), via=a.server_name)
    # Who has not signed in has nobody asked.
    async with b.http.get(
        f"{b.base_url}/_matrix/client{of(room)}", params={"via": a.server_name}
    ) as response:
        assert response.status == 404

    await bob.post(f"/v3/join/{quote(alias, safe='')}", {})

    async def both_are_counted() -> None:
        assert (await bob.get(of(room)))["num_joined_members"] == 2

    await until(bob, both_are_counted)


async def test_what_a_server_says_of_a_space_is_not_all_believed(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    root = await makes(alice, "root", creation_content=SPACE)
    entry = {
        "num_joined_members": 1, "world_readable": False, "guest_can_join": False,
        "join_rule": "public",
    }  # fmt: skip

    def child(room_id: str) -> dict[str, Any]:
        return {
            "type": "m.space.child", "state_key": room_id, "sender": "@x:y",
            "content": {"via": [peer.name]}, "origin_server_ts": 1,
        }  # fmt: skip

    def says(room_id: str, answer: dict[str, Any]) -> None:
        peer.answers["GET", f"{HIERARCHY}/{quote(room_id, safe='')}"] = answer

    say: dict[str, dict[str, Any]] = {
        "!wrong:x": {"room": {**entry, "room_id": root, "name": "another"}},
        "!none:x": {"room": None, "children": 5},
        "!list:x": {"room": [entry]},
        "!private:x": {"room": {**entry, "room_id": "!private:x", "join_rule": "invite"}},
        "!space:x": {
            "room": {
                **entry, "room_id": "!space:x", "name": "space", "room_type": "m.space",
                "children_state": [
                    child("!a:x"), child("!b:x"), child("!gone:x"), {"type": "m.space.child"},
                    1, {**child("!c:x"), "content": 1}, child(root),
                ],
            },
            "children": [
                {**entry, "room_id": "!a:x", "name": "a"}, "?", {"room_id": "!b:x"},
                {**entry, "room_id": "!gone:x", "name": "gone"},
            ],
            "inaccessible_children": ["!gone:x", 7],
        },
    }  # fmt: skip
    for room_id, answer in say.items():
        says(room_id, answer)
        await adds(alice, root, room_id, peer.name)
    assert await tree(alice, root) == ["root", "space", "a"]


async def test_one_page_has_others_asked_a_bounded_number_of_times(
    homeserver: HomeserverInProcess, alice: Person, peer: Peer
) -> None:
    root = await makes(alice, "root", creation_content=SPACE)
    for number in range(35):
        await adds(alice, root, f"!room{number}:x", peer.name)
    assert await tree(alice, root) == ["root"]
    assert sum(HIERARCHY in path for _, path in peer.asked) == 30


async def test_an_answer_of_megabytes_about_a_space_is_not_taken(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    alice = await homeserver.person("alice")
    room_id = f"!large:{peer.name}"

    def answers(room: str, length: int) -> None:
        entry = {
            "room_id": room, "num_joined_members": 1, "world_readable": True, "children_state": [],
            "topic": "a" * length,
        }  # fmt: skip
        path = f"{HIERARCHY}/{quote(room, safe='')}"
        peer.answers["GET", path] = {"room": entry, "children": [], "inaccessible_children": []}

    answers(room_id, 2**21)
    where = f"/v1/rooms/{quote(room_id, safe='')}/hierarchy"
    assert (await alice.refused("GET", where)).status == 403
    other = f"!small:{peer.name}"
    answers(other, 2**19)
    page = await alice.get(f"/v1/rooms/{quote(other, safe='')}/hierarchy")
    assert [room["room_id"] for room in page["rooms"]] == [other]
