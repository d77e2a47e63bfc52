"""The homeserver in the test's own loop on a database that is already there: for restarts."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from yizhan_database import open_database
from yizhan_server.app import MIGRATIONS, assembled
from yizhan_server.clock import SystemClock
from yizhan_testing.conformance import observed
from yizhan_testing.homeserver import HomeserverInProcess, settings_for


@asynccontextmanager
async def served(folder: Path, url: str, seed: int) -> AsyncIterator[HomeserverInProcess]:
    """Serve the application on the database at `url`, which may hold earlier data."""
    settings = settings_for(folder)
    db = await open_database(url, MIGRATIONS, restless=random.Random(seed))
    try:
        async with (
            assembled(settings, db, SystemClock()) as parts,
            aiohttp.ClientSession() as http,
        ):
            runner = web.ServerRunner(web.Server(observed(parts.wrapper)), shutdown_timeout=1)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                host, port = runner.addresses[0][:2]
                yield HomeserverInProcess(f"http://{host}:{port}", settings, http, parts)
            finally:
                parts.stream.close()
                await runner.cleanup()
    finally:
        await db.close()
