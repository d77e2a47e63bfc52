"""The push gateway in this process, on a free port, seen as homeservers see it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from yizhan_bridges.app import Surroundings, open_application
from yizhan_bridges.delivery import DeliveryLimits
from yizhan_config.settings import PushGateway

QUICK = DeliveryLimits(attempts=3, retry_seconds=5, backoff_seconds=0.01)
ROOM = "!room:example.org"
EVENT = "$event:example.org"


@dataclass
class Gateway:
    """A running gateway, and the session of a homeserver that uses it."""

    url: str
    http: aiohttp.ClientSession
    vapid: str
    retry_after: str | None = None
    """Of the last answer."""

    async def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        """Post raw bytes to /notify; returns the status and the JSON body."""
        address = f"{self.url}/_matrix/push/v1/notify"
        async with self.http.post(address, data=body, headers=headers) as response:
            return response.status, await response.json()

    async def notify(
        self, *devices: dict[str, object], **fields: object
    ) -> tuple[int, dict[str, Any]]:
        """Notify `devices` about an event, as a homeserver does."""
        notification = {"event_id": EVENT, "room_id": ROOM, **fields, "devices": list(devices)}
        address = f"{self.url}/_matrix/push/v1/notify"
        async with self.http.post(address, json={"notification": notification}) as response:
            self.retry_after = response.headers.get("Retry-After")
            return response.status, await response.json()


@asynccontextmanager
async def run_gateway(
    data: Path, surroundings: Surroundings | None = None, **section: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway with its key in `data` and settings of [push_gateway] by keyword."""
    settings = PushGateway(
        vapid_key_file=data / "secrets" / "vapid.pem",
        vapid_contact="mailto:postmaster@example.org",
        **section,
    )
    surroundings = surroundings or Surroundings(limits=QUICK)
    async with (
        open_application(settings, surroundings) as application,
        aiohttp.ClientSession() as http,
    ):
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with http.get(f"{url}/_yizhan/push/v1/vapid") as response:
                vapid = (await response.json())["vapid"]
            yield Gateway(url, http, vapid)
        finally:
            await runner.cleanup()
