"""The tool with which other suites find statements that read whole tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_database import Transaction, open_database
from yizhan_testing.databases import StatementRecorder

if TYPE_CHECKING:
    from pathlib import Path


async def test_full_scans_are_found_unless_a_comment_gives_the_reason(
    schema: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.db"
    searched = "SELECT ver FROM slot WHERE nid = ?"
    scanned = "SELECT nid FROM slot WHERE text = ?"
    allowed = "SELECT count(*) FROM slot /* scan: the table has four rows */"
    with StatementRecorder() as recorder:
        database = await open_database(f"sqlite://{file}", schema)
        await database.row(searched, 1)
        await database.rows(scanned, "x")
        await database.row(allowed)
        tx = Transaction()
        tx.execute("UPDATE slot SET ver = 1 WHERE ver = ?", 0)
        tx.execute("INSERT INTO entry (nid, writer, number, body) VALUES (?, '', 0, '')", 1)
        await database.commit(tx)
        async for _ in database.scan(
            "SELECT nid FROM entry WHERE nid > ? ORDER BY nid LIMIT ?", after=0
        ):
            pass
        await database.close()

    assert {searched, scanned, allowed} <= recorder.statements
    assert recorder.full_scans(file) == [
        f"SCAN slot: {scanned}",
        "SCAN slot: UPDATE slot SET ver = 1 WHERE ver = ?",
    ]
