"""One homeserver per module; bots and people of each test end with it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest_asyncio

from bots_runner.story import Office
from yizhan_testing.servers import RunningHomeserver, start_homeserver

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
async def office(homeserver: RunningHomeserver, tmp_path: Path) -> AsyncIterator[Office]:
    async with AsyncExitStack() as opened:
        yield Office(homeserver, tmp_path, opened)
