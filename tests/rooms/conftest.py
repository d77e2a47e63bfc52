"""A homeserver on each kind of database, and people on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_testing.databases import DIALECTS, Dialect
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    kind: Dialect = request.param
    return kind


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path, dialect: Dialect) -> AsyncIterator[HomeserverInProcess]:
    async with homeserver_in_process(tmp_path, dialect) as server:
        yield server


@pytest_asyncio.fixture
async def alice(homeserver: HomeserverInProcess) -> Person:
    return await homeserver.person("alice")


@pytest_asyncio.fixture
async def bob(homeserver: HomeserverInProcess) -> Person:
    return await homeserver.person("bob")
