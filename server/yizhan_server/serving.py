"""Listening: the homeserver on its addresses, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
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
from yizhan_server.app import MIGRATIONS, assembled
from yizhan_server.clock import SystemClock
from yizhan_server.office_proxy import PREFIX, OfficeProxy, office_session

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10
"""For answers under way; long polls are ended at once."""

KEEPALIVE_SECONDS = 75

COLLECT_AFTER = 10_000
"""Containers made beyond those freed before Python looks for garbage in cycles. With its default
of 700 that was a tenth of the CPU: requests leave few cycles."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as addresses:
        log.info("homeserver listening", extra={"addresses": ", ".join(map(str, addresses))})
        _set_up_collection()
        await stop.wait()
        log.info("homeserver stopping")


def _set_up_collection() -> None:
    """Have the collection of garbage look at what requests make, and not at the program itself."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    gc.enable()


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
        await _listen(runner, settings.listen.client, "listen.client")
        if settings.tls.certificate is not None and settings.tls.key is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.tls.certificate, settings.tls.key)
            session = await stack.enter_async_context(office_session())
            office = OfficeProxy(settings.bots.upstream_url, session)

            async def serve_either(request: web.BaseRequest) -> web.StreamResponse:
                if request.path.startswith(PREFIX):
                    return await office(request)
                return await homeserver.wrapper(request)

            secure = await _started(serve_either)
            stack.push_async_callback(secure.cleanup)
            await _listen(secure, settings.listen.tls, "listen.tls", context)
            if settings.listen.federation is not None:
                await _listen(secure, settings.listen.federation, "listen.federation", context)
        admin = web.ServerRunner(
            web.Server(make_admin_socket_handler(homeserver.flows.administration)),
            access_log=None,
        )
        await admin.setup()
        stack.push_async_callback(admin.cleanup)
        stack.callback((settings.data / SOCKET_NAME).unlink, missing_ok=True)
        await web.SockSite(admin, bind_admin_socket(settings.data / SOCKET_NAME)).start()
        # Entered last, since it is to happen first: it ends the long polls, on either listener,
        # which the runners' clean-up would otherwise wait for.
        stack.callback(homeserver.stream.close)
        yield [address[:2] for address in runner.addresses if isinstance(address, tuple)]


async def _started(handler: Handler) -> web.ServerRunner:
    server = web.Server(handler, keepalive_timeout=KEEPALIVE_SECONDS, access_log=None)
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
    # The writer thread must get its turn beside a busy loop: with the default of 5 ms the
    # slowest commits took hundreds of milliseconds.
    sys.setswitchinterval(0.001)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))
