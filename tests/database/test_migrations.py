"""Schemas: applied once and in order, one file for both dialects, never backwards."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from yizhan_database import DatabaseUnavailable, OpeningRefused, Transaction, open_database
from yizhan_database.migrations import read_migrations, sql_for
from yizhan_testing.databases import fresh_database

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "migrations"
    made.mkdir()
    (made / "0001_first.sql").write_text(
        "CREATE TABLE thing (nid INTEGER NOT NULL PRIMARY KEY, data BLOB, name TEXT) STRICT;\n"
        "INSERT INTO thing (nid, name) VALUES (1, 'old');\n"
    )
    return made


@pytest.fixture
async def empty_url(dialect: Dialect, tmp_path: Path, folder: Path) -> str:
    """A database in which `folder`'s first migration was applied by an older program."""
    return await fresh_database(dialect, folder, tmp_path)


async def test_a_newer_program_brings_an_older_database_up_to_date_with_its_data(
    empty_url: str, folder: Path
) -> None:
    (folder / "0002_second.sql").write_text(
        "ALTER TABLE thing ADD COLUMN more INTEGER NOT NULL DEFAULT 3;\n"
        "-- dialect: sqlite\nUPDATE thing SET name = 'on sqlite';\n"
        "-- dialect: postgresql\nUPDATE thing SET name = 'on ' || 'postgresql';\n"
        "-- dialect: all\nUPDATE thing SET more = 8589934592;\n"
    )
    for _ in range(2):  # the second time there is nothing to do
        database = await open_database(empty_url, folder)
        assert await database.rows("SELECT nid, name, more FROM thing") == [
            (1, f"on {database.dialect}", 8589934592)
        ]
        await database.close()


async def test_an_older_program_refuses_a_newer_database_with_a_sentence(
    empty_url: str, folder: Path
) -> None:
    (folder / "0002_second.sql").write_text("CREATE TABLE other (nid INTEGER);")
    await (await open_database(empty_url, folder)).close()
    (folder / "0002_second.sql").unlink()

    with pytest.raises(OpeningRefused, match=r"schema version 2.*up to 1.*备份"):
        await open_database(empty_url, folder)


async def test_a_migration_that_fails_leaves_no_trace_and_can_be_mended(
    empty_url: str, folder: Path
) -> None:
    broken = folder / "0002_second.sql"
    broken.write_text("CREATE TABLE other (nid INTEGER); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(Exception, match="nowhere"):
        await open_database(empty_url, folder)

    broken.write_text("CREATE TABLE other (nid INTEGER); INSERT INTO other VALUES (5);")
    database = await open_database(empty_url, folder)
    assert await database.rows("SELECT nid FROM other") == [(5,)]
    await database.close()


async def test_several_processes_may_start_at_once_on_postgresql(
    folder: Path, tmp_path: Path
) -> None:
    url = await fresh_database("postgresql", folder, tmp_path)
    (folder / "0002_second.sql").write_text("CREATE TABLE other (nid INTEGER);")
    opened = await asyncio.gather(*(open_database(url, folder) for _ in range(5)))
    assert len({database.epoch for database in opened}) == 1
    for database in opened:
        await database.close()


async def test_text_is_ordered_by_code_points_on_both(empty_url: str, folder: Path) -> None:
    database = await open_database(empty_url, folder)
    names = ["B", "a", "_", "é", "Z", "驿", "", "aa", "A"]
    tx = Transaction()
    tx.execute("DELETE FROM thing")
    tx.execute_many("INSERT INTO thing (nid, name) VALUES (?, ?)", list(enumerate(names)))
    await database.commit(tx)
    found = await database.rows("SELECT name FROM thing ORDER BY name")
    assert [name for (name,) in found] == sorted(names)
    await database.close()


def test_files_must_be_numbered_without_gaps(folder: Path) -> None:
    (folder / "0003_third.sql").write_text("SELECT 1;")
    with pytest.raises(ValueError, match="without gaps"):
        read_migrations(folder)


def test_an_unknown_dialect_is_an_error() -> None:
    with pytest.raises(ValueError, match="oracle"):
        sql_for("-- dialect: oracle\nSELECT 1;", "sqlite")


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite://relative.db", "/just/a/path", ""])
async def test_a_url_that_is_not_understood_is_refused_without_repeating_it(
    url: str, folder: Path
) -> None:
    with pytest.raises(OpeningRefused, match="无法识别") as refusal:
        await open_database(url + "?password=hunter2", folder)
    assert "hunter2" not in str(refusal.value)


async def test_a_database_that_cannot_be_reached_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        await open_database(f"postgresql://nobody@/none?host={tmp_path}", folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnavailable):
        await open_database(f"sqlite://{tmp_path}/file/x.db", folder)
    (tmp_path / "garbage.db").write_bytes(b"this is not a database, but it is long enough" * 50)
    with pytest.raises(DatabaseUnavailable):
        await open_database(f"sqlite://{tmp_path}/garbage.db", folder)
