"""An application service for tests: it takes transactions and answers questions over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from aiohttp import web
from typing_extensions import override

from yizhan_testing.homeserver import HomeserverInProcess, Person

JsonObject = dict[str, Any]
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

AS_TOKEN = "as token of the bridge"
HS_TOKEN = "hs token of the bridge"
WAIT_S = 20.0


@dataclass(frozen=True)
class Taken:
    """One transaction as it arrived."""

    txn_id: str
    raw: bytes
    headers: dict[str, str]

    @property
    def body(self) -> JsonObject:
        parsed: JsonObject = json.loads(self.raw)
        return parsed


@dataclass
class Bridge:
    """The service. `refusals` are the statuses with which the next transactions are answered."""

    id: str = "bridge"
    as_token: str = AS_TOKEN
    hs_token: str = HS_TOKEN
    url: str | None = ""
    refusals: list[int] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    """What is answered to questions, by their path below the prefix."""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Questions: path and query."""
    arrived: list[Taken] = field(default_factory=list)
    """Every transaction that came, also those that were refused."""
    legacy: bool = False
    """It knows only the paths of before v1 of the specification."""
    _events: list[JsonObject] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    hold: asyncio.Event | None = None
    """While set to an event, transactions are answered only after it."""

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        raw_path = request.rel_url.raw_path
        if self.legacy and raw_path.startswith("/_matrix/app/v1"):
            return web.json_response({"errcode": "M_UNRECOGNIZED"}, status=404)
        if request.headers.get("Authorization") != f"Bearer {self.hs_token}":
            return web.json_response({"errcode": "M_FORBIDDEN"}, status=403)
        path = raw_path.removeprefix("/_matrix/app/v1").removeprefix("/_matrix/app/unstable")
        if path.startswith("/transactions/"):
            return await self._take(request, path.rpartition("/")[2])
        path = unquote(path)
        self.asked.append((path, dict(request.query)))
        answer = self.answers.get(path)
        if answer is None:
            return web.json_response({"errcode": "M_NOT_FOUND"}, status=404)
        return await answer(request)

    async def _take(self, request: web.BaseRequest, txn_id: str) -> web.StreamResponse:
        taken = Taken(txn_id, await request.read(), dict(request.headers))
        async with self._news:
            known = any(each.txn_id == txn_id for each in self.arrived)
            self.arrived.append(taken)
            if not known:
                self._events += taken.body["events"]
            self._news.notify_all()
        if self.hold is not None:
            await self.hold.wait()
        if self.refusals:
            return web.json_response({}, status=self.refusals.pop(0))
        return web.json_response({})

    async def until(self, found: Callable[[], bool]) -> None:
        """Wait until something that the homeserver tells makes this true."""
        async with asyncio.timeout(WAIT_S), self._news:
            await self._news.wait_for(found)

    async def hears(self, event_id: str) -> JsonObject:
        """Wait for an event and return it."""
        await self.until(lambda: event_id in self.event_ids())
        return next(each for each in self._events if each["event_id"] == event_id)

    def has_taken(self, count: int) -> bool:
        """Whether so many transactions have arrived, refused ones included."""
        return len(self.arrived) >= count

    def event_ids(self) -> list[str]:
        """Return the events heard so far, each once per transaction id, in order."""
        return [each["event_id"] for each in self._events]

    def parts(self, key: str) -> list[Any]:
        """Return what all transactions held under `key`: lists are joined."""
        found: list[Any] = []
        for taken in self.arrived:
            part = taken.body.get(key, [])
            found += part if isinstance(part, list) else [part]
        return found

    def answers_with(self, path: str, body: Any, status: int = 200) -> None:
        """Answer a question so from now on."""

        async def answer(_request: web.BaseRequest) -> web.StreamResponse:
            return web.json_response(body, status=status)

        self.answers[path] = answer

    def registration(self, **changes: Any) -> JsonObject:
        """Return what the registration file holds."""
        return {
            "id": self.id,
            "url": self.url,
            "as_token": self.as_token,
            "hs_token": self.hs_token,
            "sender_localpart": "_bridge_bot",
            "rate_limited": False,
            "namespaces": {
                "users": [{"regex": "@_bridge_.*", "exclusive": True}],
                "aliases": [{"regex": "#_bridge_.*", "exclusive": True}],
                "rooms": [],
            },
            **changes,
        }

    def writes_registration(self, folder: Path, **changes: Any) -> Path:
        """Write the registration file, which only its owner can read."""
        return write_registration(folder / f"{self.id}.yaml", self.registration(**changes))

    def bot(self, homeserver: HomeserverInProcess) -> Person:
        """Return the service's own user, speaking with the service's token."""
        return self.ghost(homeserver, "_bridge_bot")

    def ghost(self, homeserver: HomeserverInProcess, localpart: str) -> Ghost:
        """Return a user of the service's, whom the service's token speaks for."""
        user_id = f"@{localpart}:{homeserver.server_name}"
        return Ghost(homeserver.http, homeserver.base_url, user_id, "", self.as_token, "")

    async def registers(self, homeserver: HomeserverInProcess, localpart: str) -> Ghost:
        """Register a user without signing in."""
        ghost = self.ghost(homeserver, localpart)
        await Person.call(
            ghost, "POST", "/v3/register",
            {
                "type": "m.login.application_service", "username": localpart,
                "inhibit_login": True,
            },
        )  # fmt: skip
        return ghost


@dataclass
class Ghost(Person):
    """Somebody for whom an application service speaks; `device_id` may be empty."""

    @override
    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> JsonObject:
        params = {"user_id": self.user_id, **(more.pop("params", None) or {})}
        if self.device_id:
            params["device_id"] = self.device_id
        return await super().call(method, path, body, params=params, **more)


def write_registration(file: Path, values: Any) -> Path:
    """Write a registration file, which only its owner can read."""
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@asynccontextmanager
async def running_bridge(bridge: Bridge | None = None) -> AsyncIterator[Bridge]:
    """Run a service on a free port."""
    bridge = bridge or Bridge()
    runner = web.ServerRunner(web.Server(bridge.serve), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        bridge.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield bridge
    finally:
        await runner.cleanup()
