"""A network that breaks off: it hands bytes on, and cuts connections at random moments.

Each connection is given a number of bytes that it may carry, in one of the directions; after these
it is cut, in the middle of a request or of an answer, either as if somebody had pulled the plug or
as if a proxy had closed it in an orderly way.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

BLOCK = 1 << 14


class CuttingRelay:
    """Stands before a server on this machine; `base_url` is where clients find it."""

    def __init__(
        self, target: str, generator: random.Random, most_bytes: int, requests: float
    ) -> None:
        url = urlsplit(target)
        self._host, self._port = url.hostname or "", url.port or 0
        self._random = generator
        self._most_bytes = most_bytes
        self._requests = requests
        self.base_url = ""
        self.connections = 0
        self.cuts_of_requests = 0
        self.cuts_of_answers = 0
        self.is_cutting = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until an end closes it, or it is cut."""
        self.connections += 1
        to_server, to_client = self._limits()
        try:
            upstream_reader, upstream = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(self._carry(reader, upstream, writer, to_server, request=True))
            both.create_task(self._carry(upstream_reader, writer, upstream, to_client))

    def _limits(self) -> tuple[int | None, int | None]:
        if not self.is_cutting:
            return None, None
        limit = self._random.randrange(1, self._most_bytes)
        return (limit, None) if self._random.random() < self._requests else (None, limit)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        limit: int | None,
        *,
        request: bool = False,
    ) -> None:
        try:
            while data := await source.read(BLOCK if limit is None else min(limit, BLOCK)):
                target.write(data)
                await target.drain()
                if limit is not None:
                    limit -= len(data)
                    if not limit:
                        self.cuts_of_requests += request
                        self.cuts_of_answers += not request
                        self._cut(target, back)
                        return
        except ConnectionError:
            pass
        target.close()
        back.close()

    def _cut(self, target: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        if self._random.random() < 0.5:
            target.transport.abort()
            back.transport.abort()
        else:
            target.close()
            back.close()


@asynccontextmanager
async def cutting(
    target: str, generator: random.Random, most_bytes: int, *, requests: float = 0.5
) -> AsyncIterator[CuttingRelay]:
    """Relay to the server at `target`; a connection carries fewer than `most_bytes` one way.

    `requests` is the share of the connections that are cut in a request.
    """
    relay = CuttingRelay(target, generator, most_bytes, requests)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    async with server:
        relay.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield relay
        server.close()
