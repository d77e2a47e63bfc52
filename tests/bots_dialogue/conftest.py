"""Stories run on SQLite whose reads yield as PostgreSQL's do; some run on PostgreSQL too."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from yizhan_bots.storage import migrations
from yizhan_testing.databases import DIALECTS, opened_fresh
from yizhan_testing.office import Office

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
async def office(dialect: Dialect, tmp_path: Path) -> AsyncIterator[Office]:
    async with opened_fresh(dialect, migrations, tmp_path, Random(1)) as database:
        yield await Office.open(database)
