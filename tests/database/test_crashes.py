"""SIGKILL at any moment: whatever was acknowledged is there, and nothing is half there."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import apsw
import pytest

from yizhan_database import open_database
from yizhan_testing.databases import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITER = Path(__file__).parent / "crash_writer.py"


class Answers:
    """What a running writer has told its callers: {nid: position}."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.given: dict[int, int] = {}

    async def read(self, count: int) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            if line.endswith(b"\n"):
                nid, pos = line.split()
                self.given[int(nid)] = int(pos)
            count -= 1
            if count == 0:
                return

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.read(-1)
        await self.process.wait()


async def start_writer(url: str, schema: Path) -> Answers:
    process = await asyncio.create_subprocess_exec(
        sys.executable, WRITER, url, schema,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    return Answers(process)


async def check_all_there(url: str, schema: Path, answered: dict[int, int]) -> None:
    database = await open_database(url, schema)
    found: dict[int, int] = dict(await database.rows("SELECT nid, pos FROM entry"))
    assert {nid: found.get(nid) for nid in answered} == answered
    assert sorted(found.values()) == list(range(1, len(found) + 1))
    assert database.position == len(found)
    slots = await database.rows("SELECT nid FROM slot ORDER BY nid")
    assert sorted(found) == [nid for (nid,) in slots]
    await database.close()


async def test_what_was_acknowledged_survives_the_death_of_the_program(
    dialect: str, url: str, schema: Path
) -> None:
    random = Random(3)
    answered: dict[int, int] = {}
    for _ in range(4):
        writer = await start_writer(url, schema)
        await writer.read(random.randrange(1, 1500))
        await writer.kill()
        assert writer.given
        answered |= writer.given
        await check_all_there(url, schema, answered)
    if dialect == "sqlite":
        connection = apsw.Connection(url.removeprefix("sqlite://"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()


@pytest.fixture
def durable_server() -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(durable=True)
    yield server
    server.stop()


async def test_what_was_acknowledged_survives_the_death_of_the_server(
    durable_server: EmbeddedPostgres, schema: Path
) -> None:
    url = await durable_server.fresh_database(schema)
    writer = await start_writer(url, schema)
    await writer.read(700)
    durable_server.kill()
    await writer.kill()
    durable_server.start()
    await check_all_there(url, schema, writer.given)
