"""One homeserver per module, and people on it with real clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from yizhan_testing.servers import RunningHomeserver, start_homeserver
from yizhan_testing.town import Pair, Town, open_town, share_room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def homeserver(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[RunningHomeserver]:
    running = await start_homeserver(tmp_path_factory.mktemp("homeserver"))
    yield running
    await running.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def town(homeserver: RunningHomeserver, tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(homeserver, tmp_path) as here:
        yield here


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    homeserver: RunningHomeserver, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    """The same two for all stories of a module that leave their identities as they are."""
    async with open_town(homeserver, tmp_path_factory.mktemp("pair")) as town:
        alice, bob = await town.two_with_identities()
        yield Pair(alice, bob, await share_room(alice, bob))
