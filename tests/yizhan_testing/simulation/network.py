"""Requests that travel in memory: to the wrappers of the servers, and on a bad day not at all.

In place of TLS connections, and of the HTTP of clients. Between servers a request may be lost,
delayed, doubled, overtaken by a later one; its answer may be lost after the request has done its
work; and servers may be parted from one another for a while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from random import Random
from typing import Any, cast

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from yizhan_server.api.routing import Wrapper
from yizhan_server.federation_client.requests import Requests

LOST, ANSWER_LOST, DOUBLED = 0.06, 0.06, 0.06
LONG_DELAY, LONG_DELAY_S = 0.1, 8.0
NEVER_S = 10_000.0

serving: ContextVar[str] = ContextVar("serving")
"""Which server works on a request."""


class _Content:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def iter_any(self) -> AsyncIterator[bytes]:
        if self._body:
            yield self._body


class MemoryRequest:
    """What of a web.BaseRequest the wrapper looks at."""

    transport = None
    remote = "192.0.2.1"

    def __init__(
        self, method: str, url: URL, headers: Mapping[str, str] | None, body: bytes | None
    ) -> None:
        self.method = method
        self.rel_url = url.relative()
        self.path = url.path
        self.raw_path = str(self.rel_url)
        self.query = url.query
        self.headers = dict(headers or {})
        self.content_length = len(body or b"")
        self.can_read_body = bool(body)
        self.content = _Content(body or b"")


class MemoryResponse:
    """What of an aiohttp.ClientResponse is looked at."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.content = _Content(body)

    async def json(self, **_: object) -> Any:
        return orjson.loads(self.body)

    def close(self) -> None:
        """Nothing is open."""


class Network:
    """Carries requests to the servers, by their names. One that does not run refuses them."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._wrappers: dict[str, Wrapper] = {}
        self._lines: dict[str, _LineOf] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answering: dict[str, set[asyncio.Task[Any]]] = defaultdict(set)
        self._cut: frozenset[str] = frozenset()
        self.is_faulty = False
        self.carried = 0
        self.under_way = 0

    def connect(self, name: str, wrapper: Wrapper, requests: Requests) -> None:
        """Let a server be reached by its name, and reach the others."""
        self._wrappers[name] = wrapper
        line = self._lines[name] = _LineOf(self, name)
        requests._connections = cast("Any", _BothPools(line, line))

    async def disconnect(self, name: str, patience_s: float) -> None:
        """Refuse requests to a server, and end those under way after a while."""
        del self._wrappers[name]
        answering = set(self._answering[name])
        if answering and patience_s:
            _, answering = await asyncio.wait(answering, timeout=patience_s)
        self._lines.pop(name).is_cut = True
        for task in answering:
            task.cancel()
        if answering:
            await asyncio.wait(answering)

    def part(self, names: frozenset[str]) -> None:
        """Let none of `names` and none of the others reach one another."""
        self._cut = names

    def heal(self) -> None:
        """Have everything arrive from now on."""
        self.is_faulty = False
        self._cut = frozenset()

    async def serve(self, name: str, request: MemoryRequest) -> MemoryResponse:
        """Have a server answer; it goes on when whoever has asked does not wait any longer."""
        if name not in self._wrappers:
            raise aiohttp.ServerDisconnectedError
        task = self._start(self._serve(name, request))
        self._answering[name].add(task)
        task.add_done_callback(self._answering[name].discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise aiohttp.ServerDisconnectedError from None
            raise

    async def _serve(self, name: str, request: MemoryRequest) -> MemoryResponse:
        serving.set(name)
        answer = await self._wrappers[name](cast("web.BaseRequest", request))
        assert isinstance(answer, web.Response)
        body = answer.body
        return MemoryResponse(
            answer.status, dict(answer.headers), body if isinstance(body, bytes) else b""
        )

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def carry(self, origin: str, name: str, request: MemoryRequest) -> MemoryResponse:
        """Bring a request of one server to another, and the answer back, or fail to."""
        self.carried += 1
        self.under_way += 1
        try:
            return await self._carry(origin, name, request)
        finally:
            self.under_way -= 1

    async def _carry(self, origin: str, name: str, request: MemoryRequest) -> MemoryResponse:
        random = self._random
        await asyncio.sleep(random.uniform(0.001, 0.05))
        if (origin in self._cut) != (name in self._cut):
            raise aiohttp.ConnectionTimeoutError
        if not self.is_faulty:
            return await self.serve(name, request)
        fate = random.random()
        if fate < LOST:
            await asyncio.sleep(NEVER_S)
        if fate < LOST + LONG_DELAY:
            await asyncio.sleep(random.uniform(0, LONG_DELAY_S))
        if random.random() < DOUBLED:
            again = self._again(name, request, random.uniform(0, LONG_DELAY_S))
            self._start(again).add_done_callback(_fail_loudly)
        answer = await self.serve(name, request)
        if random.random() < ANSWER_LOST:
            raise aiohttp.ServerDisconnectedError
        await asyncio.sleep(random.uniform(0.001, 0.05))
        return answer

    async def _again(self, name: str, request: MemoryRequest, after_s: float) -> None:
        self.under_way += 1
        try:
            await asyncio.sleep(after_s)
            with suppress(aiohttp.ServerDisconnectedError):
                await self.serve(name, request)
        finally:
            self.under_way -= 1


def _fail_loudly(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.result()


class _BothPools:
    def __init__(self, to_listed: _LineOf, to_others: _LineOf) -> None:
        self.to_listed = to_listed
        self.to_others = to_others


class _LineOf:
    """In place of an OutboundSession."""

    def __init__(self, network: Network, origin: str) -> None:
        self._network = network
        self._origin = origin
        self.is_cut = False

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        **_: object,
    ) -> AsyncIterator[MemoryResponse]:
        if self.is_cut:
            raise aiohttp.ClientConnectionError
        request = MemoryRequest(method, url, headers, data)
        yield await self._network.carry(self._origin, url.authority, request)


class ClientLine:
    """In place of an aiohttp.ClientSession: how the people reach their servers, always."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str | URL,
        *,
        params: Mapping[str, str] | None = None,
        data: str | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[MemoryResponse]:
        """Send one request."""
        target = URL(url).update_query(params or {})
        body = data.encode() if isinstance(data, str) else data
        request = MemoryRequest(method, target, headers, body)
        yield await self._network.serve(target.authority, request)

    def get(self, url: str) -> AbstractAsyncContextManager[MemoryResponse]:
        """Send one request."""
        return self.request("GET", url)

    def post(self, url: str, *, json: Any) -> AbstractAsyncContextManager[MemoryResponse]:
        """Send one request."""
        return self.request("POST", url, data=orjson.dumps(json))
