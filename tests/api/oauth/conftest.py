"""A server on each database whose clock stands still, and browsers before its pages."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.account_server import AccountServer, StartServer, account_server
from yizhan_testing.browser import Browser
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

        async def start(**settings: object) -> AccountServer:
            overrides = {name.replace("__", "."): value for name, value in settings.items()}
            overrides.setdefault("rate_limits.enabled", False)
            restless = random.Random(1) if dialect == "sqlite" else None
            return await stack.enter_async_context(
                account_server(dialect, tmp_path, overrides, restless)
            )

        yield start


@pytest.fixture
async def server(start_server: StartServer) -> AccountServer:
    return await start_server()


@pytest.fixture
async def browser(server: AccountServer) -> AsyncIterator[Browser]:
    async with Browser(server.url) as browser:
        yield browser
