"""`python -m yizhan_bridges --config FILE --data DIR`: run the push gateway until a signal."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

import uvloop
from aiohttp import web

from yizhan_bridges.app import open_application
from yizhan_config import logs, settings
from yizhan_config.errors import EXIT_STATUS, ConfigurationError

log = logging.getLogger("yizhan_bridges")

# Longer than one delivery with all its attempts, so that stopping loses no answer.
_SHUTDOWN_SECONDS = 35


async def serve(section: settings.PushGateway) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_application(section) as application:
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await _listen(runner, section)
            await stop.wait()
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, section: settings.PushGateway) -> None:
    address = section.listen
    try:
        await web.TCPSite(runner, address.host or None, address.port).start()
    except OSError as error:
        raise ConfigurationError(
            f"推送网关无法监听 {address}（{error.strerror}）；"
            "请停止占用它的程序，或修改 push_gateway.listen。",
            f"the push gateway cannot listen on {address} ({error.strerror}); "
            "stop the program that holds it, or change push_gateway.listen.",
            key="push_gateway.listen",
        ) from error
    log.info("push gateway listening", extra={"addresses": str(runner.addresses)})


def main() -> int:
    """Read the settings and serve; returns the exit status."""
    parser = argparse.ArgumentParser(prog="yizhan_bridges", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE")
    parser.add_argument("--data", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    try:
        loaded = settings.load(arguments.config, arguments.data)
        logs.configure(loaded.logging)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(loaded.push_gateway))
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201 (read by whoever started the program)
        return EXIT_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main())
