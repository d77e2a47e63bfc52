"""A homeserver over real HTTP whose accounts are looked at closely: every answer, a still clock.

`homeserver` tells stories in which calls succeed; here a call returns its status and body
whatever they are, several devices of one person sign in, and time stands still until a test
moves it.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import ClientSession, web

from yizhan_server.admin.local_socket import (
    SOCKET_NAME,
    bind_admin_socket,
    make_admin_socket_handler,
)
from yizhan_server.app import MIGRATIONS, assembled
from yizhan_testing.conformance import observed
from yizhan_testing.databases import opened_fresh
from yizhan_testing.homeserver import settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from random import Random

    from yizhan_database import Database
    from yizhan_server.admin.administration import UserAdministration
    from yizhan_server.api.services import Services
    from yizhan_server.app import Homeserver
    from yizhan_server.streams import Stream
    from yizhan_testing.databases import Dialect

StartServer = Callable[..., Awaitable["AccountServer"]]
"""Starts a server with settings of one's own: `start(registration__enabled=True)`."""

SERVER_NAME = "home.test"
PASSWORD = "correct horse battery"


@dataclass
class StillClock:
    """Time that a test moves."""

    ms: int = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.ms

    def pass_seconds(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    json: Any

    @property
    def errcode(self) -> str:
        return str(self.json["errcode"])


class AccountServer:
    """One server, and the means to call it."""

    def __init__(
        self, db: Database, clock: StillClock, parts: Homeserver, *, data: Path, url: str
    ) -> None:
        self.db = db
        self.clock = clock
        self.parts = parts
        self.data = data
        self.url = url
        self.http = ClientSession()

    @property
    def services(self) -> Services:
        return self.parts.services

    @property
    def stream(self) -> Stream:
        return self.parts.stream

    @property
    def administration(self) -> UserAdministration:
        return self.parts.flows.administration

    async def call(
        self,
        method: str,
        path: str,
        json: object = None,
        *,
        token: str | None = None,
        raw: bytes | None = None,
        prefix: str = "/_matrix/client",
    ) -> Answer:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = raw if raw is not None else None if json is None else orjson.dumps(json)
        # A stream, because the client warns of (and the server limits) what is large.
        body = None if data is None else io.BytesIO(data)
        async with self.http.request(
            method, self.url + prefix + path, data=body, headers=headers
        ) as response:
            return Answer(response.status, orjson.loads(await response.read()))

    async def has(self, localpart: str, *, admin: bool = False) -> Person:
        """Make an account and sign in."""
        await self.services.accounts.create(localpart, PASSWORD, is_admin=admin)
        return await self.sign_in(localpart)

    async def sign_in(self, localpart: str, **more: Any) -> Person:
        answer = await self.call("POST", "/v3/login", password_login(localpart, **more))
        assert answer.status == 200, answer.json
        return Person(self, answer.json)


@dataclass
class Person:
    """Somebody who is signed in."""

    server: AccountServer
    session: dict[str, Any]

    @property
    def user_id(self) -> str:
        return str(self.session["user_id"])

    @property
    def device_id(self) -> str:
        return str(self.session["device_id"])

    @property
    def token(self) -> str:
        return str(self.session["access_token"])

    async def calls(
        self, method: str, path: str, json: object = None, *, raw: bytes | None = None
    ) -> Answer:
        return await self.server.call(method, path, json, token=self.token, raw=raw)

    async def confirms(
        self, method: str, path: str, body: dict[str, Any], password: str = PASSWORD
    ) -> Answer:
        """Call, and complete the password stage that is asked for."""
        asked = await self.calls(method, path, body)
        assert asked.status == 401, asked.json
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": password,
            "session": asked.json["session"],
        }
        return await self.calls(method, path, {**body, "auth": auth})

    async def device_ids(self) -> list[str]:
        listed = await self.calls("GET", "/v3/devices")
        return [device["device_id"] for device in listed.json["devices"]]

    async def is_signed_in(self) -> bool:
        return (await self.calls("GET", "/v3/account/whoami")).status == 200


def password_login(localpart: str, password: str = PASSWORD, **more: Any) -> dict[str, Any]:
    return {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": localpart},
        "password": password,
        **more,
    }


@asynccontextmanager
async def account_server(
    dialect: Dialect,
    folder: Path,
    overrides: dict[str, object],
    restless: Random | None = None,
) -> AsyncIterator[AccountServer]:
    """Run a server with the given settings, its administrators' socket included."""
    settings = settings_for(folder, **{"server_name": SERVER_NAME, **overrides})
    clock = StillClock()
    async with (
        opened_fresh(dialect, MIGRATIONS, folder / "db", restless) as db,
        assembled(settings, db, clock) as parts,
        _serving(parts, folder) as url,
    ):
        server = AccountServer(db, clock, parts, data=folder, url=url)
        async with server.http:
            yield server
            parts.stream.close()


@asynccontextmanager
async def _serving(parts: Homeserver, folder: Path) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(observed(parts.wrapper)), shutdown_timeout=1)
    admin_handler = make_admin_socket_handler(parts.flows.administration)
    admin = web.ServerRunner(web.Server(admin_handler), shutdown_timeout=1)
    try:
        await runner.setup()
        await admin.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await web.SockSite(admin, bind_admin_socket(folder / SOCKET_NAME)).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()
        await admin.cleanup()
