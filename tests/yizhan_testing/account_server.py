"""The account part of a homeserver over real HTTP, without rooms: for tests of accounts alone.

Composed as `app` does it; what rooms would do is recorded, so that a test can see that they were
asked. Time stands still until a test moves it.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import orjson
from aiohttp import ClientSession, web

import yizhan_server.storage.migrations
from yizhan_config.settings import load
from yizhan_server.account_services import (
    AccountFlows,
    PersonalServices,
    assemble_flows,
    assemble_personal_services,
    assemble_room_flows,
)
from yizhan_server.admin.local_socket import (
    SOCKET_NAME,
    bind_admin_socket,
    make_admin_socket_handler,
)
from yizhan_server.api import (
    account,
    account_data,
    devices,
    discovery,
    login,
    profiles,
    push_rules,
    registration,
)
from yizhan_server.api.limits import RateLimits
from yizhan_server.api.routing import Router, Wrapper
from yizhan_server.storage.numbers import Numbers
from yizhan_server.streams import Stream
from yizhan_testing.databases import opened_fresh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from random import Random

    from yizhan_database import Database, Transaction
    from yizhan_server.api.services import Services
    from yizhan_server.protocol.identifiers import DeviceID, UserID
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


@dataclass
class AskedRooms:
    """What rooms were asked to do."""

    renamed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    async def replace_own_member_event(self, user_id: UserID) -> None:
        self.renamed.append(user_id)

    async def leave_all(self, user_id: UserID) -> None:
        self.left.append(user_id)


class AccountServer:
    """One server, and the means to call it."""

    def __init__(
        self,
        *,
        db: Database,
        clock: StillClock,
        personal: PersonalServices,
        flows: AccountFlows,
        stream: Stream,
        data: Path,
    ) -> None:
        self.db = db
        self.clock = clock
        self.personal = personal
        self.flows = flows
        self.stream = stream
        self.data = data
        self.rooms = AskedRooms()
        self.ended_devices: list[tuple[str, str]] = []
        self.url = ""
        self.http: ClientSession

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
        await self.personal.accounts.create(localpart, PASSWORD, is_admin=admin)
        return await self.sign_in(localpart)

    async def sign_in(self, localpart: str, **more: object) -> Person:
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

    async def is_signed_in(self) -> bool:
        return (await self.calls("GET", "/v3/account/whoami")).status == 200


def password_login(localpart: str, password: str = PASSWORD, **more: object) -> dict[str, Any]:
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
    """Run a server with the given settings."""
    settings = load(
        data=folder, overrides={"server_name": SERVER_NAME, "listen.client": ":0", **overrides}
    )
    async with opened_fresh(dialect, _migrations(folder), folder / "db", restless) as db:
        clock, stream, numbers = StillClock(), Stream(db.epoch, db.position), Numbers(db)
        rates = settings.rate_limits
        limits = RateLimits(
            {"login": rates.login, "registration": rates.registration} if rates.enabled else {},
            clock,
        )
        personal = assemble_personal_services(
            db, numbers, stream, clock, settings=settings, limits=limits
        )
        ended: list[tuple[str, str]] = []

        def forget(tx: Transaction, user_id: UserID, device_ids: Sequence[DeviceID]) -> None:
            # In the same transaction as the rest: only what is committed is noted.
            tx.after_commit(lambda _: ended.extend((user_id, device) for device in device_ids))

        flows = assemble_flows(db, numbers, clock, personal, forgetters=[forget])
        server = AccountServer(
            db=db, clock=clock, personal=personal, flows=flows, stream=stream, data=folder
        )
        server.ended_devices = ended
        profile_change, deactivation = assemble_room_flows(db, personal, flows, server.rooms)
        services = SimpleNamespace(
            **{name: getattr(personal, name) for name in PersonalServices.__slots__},
            discovery=discovery.make_discovery(settings),
            turn=discovery.Turn(clock, settings.turn.uris, "turn secret", 3600),
            logout=flows.logout,
            password_change=flows.password_change,
            profile_change=profile_change,
            deactivation=deactivation,
        )
        modules = [
            login.routes,
            registration.routes,
            registration.admin_routes,
            account.routes,
            devices.routes,
            profiles.routes,
            account_data.routes,
            push_rules.routes,
            discovery.routes,
            discovery.well_known_routes,
        ]
        wrapper = Wrapper(
            Router(modules), cast("Services", services), limits, personal.sessions.authenticate
        )
        async with (
            _listening(wrapper) as server.url,
            _listening_for_administrators(server),
            ClientSession() as server.http,
        ):
            yield server
        personal.passwords.close()


@asynccontextmanager
async def _listening(wrapper: Wrapper) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(wrapper))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _listening_for_administrators(server: AccountServer) -> AsyncIterator[None]:
    runner = web.ServerRunner(web.Server(make_admin_socket_handler(server.flows.administration)))
    await runner.setup()
    await web.SockSite(runner, bind_admin_socket(server.data / SOCKET_NAME)).start()
    try:
        yield
    finally:
        await runner.cleanup()


def _migrations(folder: Path) -> Path:
    """Return the migrations of accounts alone, numbered from 1: of no other table is there use."""
    chosen = folder / "migrations"
    chosen.mkdir()
    source = Path(next(iter(yizhan_server.storage.migrations.__path__))) / "0002_accounts.sql"
    shutil.copy(source, chosen / "0001_accounts.sql")
    return chosen
