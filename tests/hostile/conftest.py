"""A homeserver on each kind of database, a room on it, and somebody who means no good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_testing.attacks import Town
from yizhan_testing.databases import DIALECTS, Dialect
from yizhan_testing.homeserver import homeserver_in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    kind: Dialect = request.param
    return kind


@pytest_asyncio.fixture
async def town(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Town]:
    async with homeserver_in_process(tmp_path, dialect) as server:
        alice, bob = await server.person("alice"), await server.person("bob")
        room = await alice.creates_room(name="局务会", invite=[bob])
        await bob.joins(room)
        event = await alice.says(room, "你好")
        yield Town(server, alice, bob, room, event)
