"""An administrator, beside alice and bob."""

from __future__ import annotations

import pytest_asyncio

from yizhan_testing.homeserver import HomeserverInProcess, Person


@pytest_asyncio.fixture
async def admin(homeserver: HomeserverInProcess) -> Person:
    return await homeserver.person("admin", admin=True)
