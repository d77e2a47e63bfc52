"""Two changes that were written side by side do not give their migrations one number."""

from pathlib import Path

import pytest

from yizhan_database.migrations import read_migrations

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["server/yizhan_server", "bots/yizhan_bots"])
def test_migrations_are_numbered_without_gaps(folder: str) -> None:
    migrations = read_migrations(ROOT / folder / "storage" / "migrations")
    numbers = [migration.version for migration in migrations]
    assert numbers == list(range(1, len(numbers) + 1))
