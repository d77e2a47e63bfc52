"""A bot on a library of others, as a process of its own, for the time of a test."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

STARTS_WITHIN_S = 60


@asynccontextmanager
async def running_bot(
    command: Sequence[str | Path], folder: Path, *, says: str
) -> AsyncIterator[None]:
    """Run a bot in `folder` from the line of its output that contains `says` on.

    Raises AssertionError with its last words when it ends before that; ends it with the block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = folder / "output.log"
    with output.open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(STARTS_WITHIN_S):
            while says not in output.read_text():
                assert process.returncode is None, f"the bot ended:\n{output.read_text()[-2000:]}"
                await asyncio.sleep(0.05)
        yield
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
