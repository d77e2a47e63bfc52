"""A homeserver that lies to one of its users: a relay before a real one that changes /sync.

    async with TamperingRelay.open(homeserver.base_url) as liar:
        liar.on_sync(lambda answer: ...)  # changes the answer in place

Everything else passes unchanged, so that a test says only what the lie is.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

JsonObject = dict[str, Any]
_HOP_BY_HOP = frozenset({"transfer-encoding", "content-encoding", "content-length", "connection"})


class TamperingRelay:
    """Listens on loopback at `base_url`."""

    base_url: str

    def __init__(self, upstream: str, session: aiohttp.ClientSession) -> None:
        self._upstream = upstream
        self._session = session
        self._on_sync: list[Callable[[JsonObject], None]] = []
        self._refused: Callable[[str, str], bool] = lambda _method, _path: False
        self._lost: Callable[[str, str], bool] = lambda _method, _path: False
        self._requests: list[tuple[str, str]] = []
        self._more = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, upstream: str) -> AsyncIterator[Self]:
        async with aiohttp.ClientSession(auto_decompress=True) as session:
            relay = cls(upstream, session)
            application = web.Application(client_max_size=100_000_000)
            application.router.add_route("*", "/{path:.*}", relay._pass_on)
            # A long poll whose client has gone must not use up what the next one is to see.
            runner = web.AppRunner(
                application, access_log=None, shutdown_timeout=1, handler_cancellation=True
            )
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                host, port = runner.addresses[0][:2]
                relay.base_url = f"http://{host}:{port}"
                yield relay
            finally:
                await runner.cleanup()

    def on_sync(self, change: Callable[[JsonObject], None]) -> None:
        """Have `change` alter every answer of /sync from now on."""
        self._on_sync.append(change)

    def refuse(self, wanted: Callable[[str, str], bool]) -> None:
        """Answer 503 to requests (method, path) that are `wanted`, until told otherwise."""
        self._refused = wanted

    def lose_answers(self, wanted: Callable[[str, str], bool]) -> None:
        """Let requests (method, path) that are `wanted` take effect, but answer them 503.

        `wanted` is asked once the homeserver has answered.
        """
        self._lost = wanted

    def be_honest(self) -> None:
        """Change, refuse and lose nothing any more."""
        self._on_sync.clear()
        self._refused = self._lost = lambda _method, _path: False

    async def has_seen(self, method: str, part: str, within: float = 20) -> None:
        """Wait until a request with `part` in its path has come, refused or not."""
        async with asyncio.timeout(within):
            while not any(m == method and part in p for m, p in self._requests):
                self._more.clear()
                await self._more.wait()

    async def _pass_on(self, request: web.Request) -> web.Response:
        self._requests.append((request.method, request.path))
        self._more.set()
        if self._refused(request.method, request.path):
            return web.json_response({"errcode": "M_UNKNOWN", "error": "away"}, status=503)
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        url = URL(self._upstream + request.raw_path, encoded=True)
        body = await request.read()
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            content = await answer.read()
            if self._lost(request.method, request.path):
                return web.json_response({"errcode": "M_UNKNOWN", "error": "lost"}, status=503)
            if request.path.endswith("/sync") and answer.status == 200:
                changed = json.loads(content)
                for change in list(self._on_sync):
                    change(changed)
                content = json.dumps(changed).encode()
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, body=content, headers=kept)


def timeline_of(answer: JsonObject) -> Iterator[tuple[str, list[JsonObject]]]:
    """(room id, timeline events) of each joined room of a /sync answer."""
    for room_id, room in answer.get("rooms", {}).get("join", {}).items():
        yield room_id, room.setdefault("timeline", {}).setdefault("events", [])
