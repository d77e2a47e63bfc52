"""Each test that takes `database` runs on both backends."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from yizhan_testing.databases import DIALECTS, fresh_database, opened_fresh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_database import Database
    from yizhan_testing.databases import Dialect

SCHEMA = Path(__file__).parent / "schema"


@pytest.fixture
def schema() -> Path:
    return SCHEMA


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
async def url(dialect: Dialect, tmp_path: Path) -> str:
    return await fresh_database(dialect, SCHEMA, tmp_path / "data")


@pytest.fixture
async def database(dialect: Dialect, tmp_path: Path) -> AsyncIterator[Database]:
    async with opened_fresh(dialect, SCHEMA, tmp_path / "data", Random(1)) as opened:
        yield opened
