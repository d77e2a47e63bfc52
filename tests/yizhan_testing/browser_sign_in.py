"""What signing in through a browser needs: a server whose pages have an address, and a way back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from yizhan_testing.homeserver import Homeserver
from yizhan_testing.stand_ins import free_ports
from yizhan_testing.town import PASSWORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.chromium import Chromium

AT_HOME = "Back in the application."
"""What the application shows in the browser that came back to it."""


@asynccontextmanager
async def open_homeserver(folder: Path) -> AsyncIterator[Homeserver]:
    """Run a server that knows the address of its pages."""
    [port] = free_ports(1)
    server = await Homeserver.start(
        folder,
        **{
            "listen.client": f'"127.0.0.1:{port}"',
            "public.client_baseurl": f'"http://127.0.0.1:{port}"',
        },
    )
    try:
        yield server
    finally:
        await server.stop()


class WayBack:
    """A port of a native application, to which the browser is sent when the person has agreed."""

    def __init__(self, redirect_uri: str) -> None:
        self.redirect_uri = redirect_uri
        self.address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Where the browser came, with the answer in its query."""

    async def receive(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/back" and not self.address.done():
            self.address.set_result(str(request.url))
        return web.Response(text=AT_HOME, content_type="text/html")


@asynccontextmanager
async def open_way_back() -> AsyncIterator[WayBack]:
    [port] = free_ports(1)
    way_back = WayBack(f"http://127.0.0.1:{port}/back")
    runner = web.ServerRunner(web.Server(way_back.receive))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield way_back
    finally:
        await runner.cleanup()


async def signs_in(browser: Chromium, name: str) -> None:
    """Fill in the page that asks who one is."""
    await browser.types("#name", name)
    await browser.types("#password", PASSWORD)
    await browser.presses("main form button")
