"""Servers for tests of accounts, on both databases; SQLite yields at random, to show races."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.account_server import AccountServer, StartServer, account_server
from yizhan_testing.databases import DIALECTS, Dialect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=DIALECTS)
async def start_server(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[StartServer]:
    """Start a server with settings of one's own."""
    dialect: Dialect = request.param
    async with AsyncExitStack() as stack:

        async def start(folder: str = "", **settings: object) -> AccountServer:
            overrides = {name.replace("__", "."): value for name, value in settings.items()}
            overrides.setdefault("rate_limits.enabled", False)
            restless = random.Random(1) if dialect == "sqlite" else None
            return await stack.enter_async_context(
                account_server(dialect, tmp_path / folder, overrides, restless)
            )

        yield start


@pytest.fixture
async def server(start_server: StartServer) -> AccountServer:
    """A server as it is by default, without rate limits."""
    return await start_server()
