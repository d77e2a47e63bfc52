"""A room that one department removes, and the others who were in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest_asyncio

from yizhan_testing.departments import departments
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[list[HomeserverInProcess]]:
    async with departments(tmp_path, dialect, 2) as servers:
        yield servers


async def test_others_learn_who_left_before_the_room_is_gone(
    pair: list[HomeserverInProcess],
) -> None:
    a, b = pair
    admin, alice = await a.person("admin", admin=True), await a.person("alice")
    bob = await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    here = quote(room, safe="")
    for number in range(8):
        await (await a.person(f"colleague{number}")).joins(room)
    await bob.call("POST", f"/v3/join/{here}", {}, params={"via": a.server_name})

    async def alice_sees_bob() -> None:
        assert bob.user_id in (await alice.get(f"/v3/rooms/{here}/joined_members"))["joined"]

    await until(alice, alice_sees_bob)
    await admin.call("DELETE", f"/_synapse/admin/v1/rooms/{here}", {"block": True})

    async def bob_is_alone() -> None:
        assert set((await bob.get(f"/v3/rooms/{here}/joined_members"))["joined"]) == {bob.user_id}

    await until(bob, bob_is_alone)
    assert (await admin.refused("GET", f"/_synapse/admin/v1/rooms/{here}")).status == 404
    await bob.says(room, "有人吗")


async def test_nobody_is_waited_for_who_had_left_before(pair: list[HomeserverInProcess]) -> None:
    a, b = pair
    admin, alice = await a.person("admin", admin=True), await a.person("alice")
    bob = await b.person("bob")
    room = await alice.creates_room(preset="public_chat")
    here = quote(room, safe="")
    await bob.call("POST", f"/v3/join/{here}", {}, params={"via": a.server_name})
    await bob.leaves(room)

    async def bob_has_left() -> None:
        assert set((await alice.get(f"/v3/rooms/{here}/joined_members"))["joined"]) == {
            alice.user_id
        }

    await until(alice, bob_has_left)
    async with asyncio.timeout(10):
        await admin.call("DELETE", f"/_synapse/admin/v1/rooms/{here}", {"block": True})
    assert (await admin.refused("GET", f"/_synapse/admin/v1/rooms/{here}")).status == 404
