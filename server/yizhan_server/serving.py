"""Listening: the homeserver on its addresses, until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop
from aiohttp import web
from yizhan_config.address import Address
from yizhan_config.errors import ConfigurationError
from yizhan_config.settings import Settings, get_database_url
from yizhan_database import open_database

from yizhan_server.admin.local_socket import (
    SOCKET_NAME,
    bind_admin_socket,
    make_admin_socket_handler,
)
from yizhan_server.api.routing import Wrapper
from yizhan_server.app import MIGRATIONS, assembled
from yizhan_server.clock import SystemClock

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10
"""For answers under way; long polls are ended at once."""

KEEPALIVE_SECONDS = 75


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as addresses:
        log.info("homeserver listening", extra={"addresses": ", ".join(map(str, addresses))})
        await stop.wait()
        log.info("homeserver stopping")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[list[tuple[str, int]]]:
    """Run the homeserver; gives the addresses of the plain listener, as the system chose them."""
    async with AsyncExitStack() as stack:
        url = get_database_url(settings.database.url, settings.database.password_file)
        db = await open_database(url, MIGRATIONS)
        stack.push_async_callback(db.close)
        homeserver = await stack.enter_async_context(assembled(settings, db, SystemClock()))
        runner = await _started(homeserver.wrapper)
        stack.push_async_callback(runner.cleanup)
        # Ends the long polls, so that the runner's clean-up need not wait for them.
        stack.callback(homeserver.stream.close)
        await _listen(runner, settings.listen.client, "listen.client")
        if settings.tls.certificate is not None and settings.tls.key is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.tls.certificate, settings.tls.key)
            await _listen(runner, settings.listen.tls, "listen.tls", context)
        admin = web.ServerRunner(
            web.Server(make_admin_socket_handler(homeserver.flows.administration)),
            access_log=None,
        )
        await admin.setup()
        stack.push_async_callback(admin.cleanup)
        await web.SockSite(admin, bind_admin_socket(settings.data / SOCKET_NAME)).start()
        yield [address[:2] for address in runner.addresses if isinstance(address, tuple)]


async def _started(wrapper: Wrapper) -> web.ServerRunner:
    server = web.Server(wrapper, keepalive_timeout=KEEPALIVE_SECONDS, access_log=None)
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    return runner


async def _listen(
    runner: web.ServerRunner, address: Address, key: str, context: ssl.SSLContext | None = None
) -> None:
    try:
        await web.TCPSite(
            runner, address.host or None, address.port, ssl_context=context, backlog=1024
        ).start()
    except OSError as error:
        raise ConfigurationError(
            f"服务器无法监听 {address}（{error.strerror}）；请停止占用它的程序，或修改 {key}。",
            f"the homeserver cannot listen on {address} ({error.strerror}); "
            f"stop the program that holds it, or change {key}.",
            key=key,
        ) from error


def run(settings: Settings) -> None:
    """Serve on an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


