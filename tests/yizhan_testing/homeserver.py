"""Our homeserver under test, and people on it who speak HTTP.

`HomeserverInProcess` serves the real application over loopback HTTP from the test's own event
loop, on a fresh database of either kind: for API stories. `Homeserver` is the real program as a
process of its own: for real clients, kills and measurements.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

import aiohttp
from aiohttp import web
from yarl import URL

from yizhan_config.settings import Settings, load
from yizhan_database import Database
from yizhan_server.app import MIGRATIONS, assembled
from yizhan_server.app import Homeserver as Parts
from yizhan_server.clock import Clock, SystemClock
from yizhan_server.protocol.signing import SigningKey
from yizhan_testing.conformance import observed
from yizhan_testing.databases import Dialect, opened_fresh

JsonObject = dict[str, Any]

SHARED_SECRET = "a secret for tests"


def write_secrets(folder: Path) -> None:
    """Write what `yizhan init` would: the signing key and the registration secret."""
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in (
        ("signing.key", SigningKey.generate("test").serialize()),
        ("registration.secret", SHARED_SECRET),
    ):
        file = secrets / name
        file.touch(mode=0o600)
        file.write_text(text + "\n")


def settings_for(folder: Path, **overrides: object) -> Settings:
    """Return settings for a server in `folder`: any free port, no rate limits."""
    write_secrets(folder)
    return load(
        data=folder,
        overrides={
            "server_name": "test.example",
            "listen.client": "127.0.0.1:0",
            "public.client_baseurl": "http://127.0.0.1",
            "rate_limits.enabled": False,
            "rooms.encrypt_by_default": "off",
            **overrides,
        },
    )


class Refused(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, body: JsonObject) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body

    @property
    def errcode(self) -> str | None:
        return self.body.get("errcode")


@dataclass
class SyncAnswer:
    """One answer of /sync."""

    body: JsonObject

    @property
    def next_batch(self) -> str:
        token: str = self.body["next_batch"]
        return token

    def room(self, room_id: str, kind: str = "join") -> JsonObject:
        section: JsonObject = self.body.get("rooms", {}).get(kind, {}).get(room_id, {})
        return section

    def timeline(self, room_id: str) -> list[JsonObject]:
        events: list[JsonObject] = self.room(room_id).get("timeline", {}).get("events", [])
        return events

    def texts(self, room_id: str) -> list[str]:
        return [
            event["content"].get("body", "")
            for event in self.timeline(room_id)
            if event["type"] == "m.room.message"
        ]

    def state(self, room_id: str) -> dict[tuple[str, str], JsonObject]:
        events = self.room(room_id).get("state", {}).get("events", [])
        return {(event["type"], event["state_key"]): event["content"] for event in events}


@dataclass
class Person:
    """Somebody with an account and one device."""

    http: aiohttp.ClientSession
    base_url: str
    user_id: str
    device_id: str
    token: str
    password: str
    since: str | None = None
    _txn: int = field(default=0)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> JsonObject:
        """Call an endpoint below /_matrix/client (or any path that begins with /_)."""
        url = self.base_url + (path if path.startswith("/_") else "/_matrix/client" + path)
        async with self.http.request(
            method,
            url if "%" not in path else URL(url, encoded=True),
            params=params,
            data=data if data is not None else None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
        ) as response:
            answer = await response.json(content_type=None)
            if response.status >= 400:
                raise Refused(response.status, answer)
            assert isinstance(answer, dict | list)
            return answer  # type: ignore[return-value]

    async def get(self, path: str, **params: str) -> JsonObject:
        return await self.call("GET", path, params=params)

    async def put(self, path: str, body: Any) -> JsonObject:
        return await self.call("PUT", path, body)

    async def post(self, path: str, body: Any) -> JsonObject:
        return await self.call("POST", path, body)

    async def delete(self, path: str, body: Any = None) -> JsonObject:
        return await self.call("DELETE", path, body)

    async def creates_room(self, *, invite: list[Person] | None = None, **wish: Any) -> str:
        if invite:
            wish["invite"] = [person.user_id for person in invite]
        room_id: str = (await self.post("/v3/createRoom", wish))["room_id"]
        return room_id

    async def joins(self, room_id: str) -> None:
        await self.post(f"/v3/join/{quote(room_id, safe='')}", {})

    async def invites(self, room_id: str, other: Person) -> None:
        await self.post(f"/v3/rooms/{quote(room_id)}/invite", {"user_id": other.user_id})

    async def leaves(self, room_id: str) -> None:
        await self.post(f"/v3/rooms/{quote(room_id)}/leave", {})

    async def sends(self, room_id: str, kind: str, content: JsonObject) -> str:
        self._txn += 1
        answer = await self.put(
            f"/v3/rooms/{quote(room_id)}/send/{quote(kind)}/{self.device_id}.{self._txn}", content
        )
        event_id: str = answer["event_id"]
        return event_id

    async def says(self, room_id: str, text: str, **more: Any) -> str:
        return await self.sends(
            room_id, "m.room.message", {"msgtype": "m.text", "body": text, **more}
        )

    async def sets(self, room_id: str, kind: str, content: JsonObject, state_key: str = "") -> str:
        answer = await self.put(
            f"/v3/rooms/{quote(room_id)}/state/{quote(kind)}/{quote(state_key, safe='')}", content
        )
        event_id: str = answer["event_id"]
        return event_id

    async def syncs(self, *, timeout_ms: int = 0, **params: str) -> SyncAnswer:
        """Sync from where the last sync ended."""
        if self.since is not None:
            params.setdefault("since", self.since)
        answer = SyncAnswer(await self.get("/v3/sync", timeout=str(timeout_ms), **params))
        self.since = answer.next_batch
        return answer

    async def refused(self, method: str, path: str, body: Any = None) -> Refused:
        """Call an endpoint that must refuse; returns how."""
        try:
            answer = await self.call(method, path, body)
        except Refused as refused:
            return refused
        raise AssertionError(f"{method} {path} was not refused: {answer}")


class _Accounts:
    """Making accounts by the shared secret, on any server that has the endpoint."""

    base_url: str
    server_name: str
    http: aiohttp.ClientSession

    async def register(
        self, localpart: str, password: str = "correct horse", admin: bool = False
    ) -> str:
        """Make an account; returns the user id."""
        url = f"{self.base_url}/_synapse/admin/v1/register"
        async with self.http.get(url) as response:
            nonce = (await response.json())["nonce"]
        text = "\0".join([nonce, localpart, password, "admin" if admin else "notadmin"])
        body = {
            "nonce": nonce,
            "username": localpart,
            "password": password,
            "admin": admin,
            "inhibit_login": True,
            "mac": hmac.new(SHARED_SECRET.encode(), text.encode(), sha1).hexdigest(),
        }
        async with self.http.post(url, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            user_id: str = answer["user_id"]
            return user_id

    async def person(self, localpart: str, *, admin: bool = False) -> Person:
        """Make an account and sign in on one device."""
        await self.register(localpart, "correct horse", admin)
        return await self.signs_in(localpart)

    async def signs_in(
        self, localpart: str, password: str = "correct horse", *, device_id: str | None = None
    ) -> Person:
        """Sign in, on a new device unless one is named."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": localpart},
            "password": password,
            "device_id": device_id,
        }
        url = f"{self.base_url}/_matrix/client/v3/login"
        async with self.http.post(url, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
        return Person(
            self.http, self.base_url, answer["user_id"], answer["device_id"],
            answer["access_token"], password,
        )  # fmt: skip


class HomeserverInProcess(_Accounts):
    """The application in the test's own loop, behind real HTTP."""

    def __init__(
        self, base_url: str, settings: Settings, http: aiohttp.ClientSession, parts: Parts
    ) -> None:
        self.base_url = base_url
        self.server_name = settings.server_name
        self.http = http
        self.parts = parts


@asynccontextmanager
async def homeserver_in_process(
    folder: Path,
    dialect: Dialect = "sqlite",
    seed: int = 1,
    clock: Clock | None = None,
    /,
    **overrides: object,
) -> AsyncIterator[HomeserverInProcess]:
    """Serve the application on a fresh database whose reads yield to the loop at random."""
    settings = settings_for(folder, **overrides)
    async with (
        opened_fresh(dialect, MIGRATIONS, folder, random.Random(seed)) as db,
        served(settings, db, clock) as homeserver,
    ):
        yield homeserver


@asynccontextmanager
async def served(
    settings: Settings, db: Database, clock: Clock | None = None
) -> AsyncIterator[HomeserverInProcess]:
    """Serve the application on an open database, as after a restart if it is not fresh."""
    async with (
        assembled(settings, db, clock or SystemClock()) as parts,
        aiohttp.ClientSession() as http,
    ):
        runner = web.ServerRunner(web.Server(observed(parts.wrapper)), shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield HomeserverInProcess(f"http://{host}:{port}", settings, http, parts)
        finally:
            parts.stream.close()
            await runner.cleanup()


def configure(folder: Path, **settings: str) -> None:
    """Write what the program reads at its start; `settings` are lines of TOML by key."""
    folder.mkdir(parents=True, exist_ok=True)
    write_secrets(folder)
    lines = {
        "server_name": '"localhost"',
        "listen.client": '"127.0.0.1:0"',
        "rate_limits.enabled": "false",
        "rooms.encrypt_by_default": '"off"',
        **settings,
    }
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    (folder / "yizhan.toml").write_text(text)


class Homeserver(_Accounts):
    """The program as a process of its own, as `yizhan serve` runs it."""

    program: ClassVar[tuple[str, ...]] = ("-m", "yizhan_server")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before: tuple[str, ...] = ()
        """Words before the command, such as those that enter a network namespace."""
        self.server_name = "localhost"
        self.base_url = ""
        self.process: asyncio.subprocess.Process | None = None
        self.http = aiohttp.ClientSession()

    @classmethod
    async def start(cls, folder: Path, **settings: str) -> Self:
        """Write a configuration into `folder` and start; `settings` are lines of TOML by key."""
        configure(folder, **settings)
        server = cls(folder)
        await server.resume()
        return server

    async def resume(self) -> None:
        """Start the process (again) on the same data."""
        self.process = await asyncio.create_subprocess_exec(
            *self.before, sys.executable, "-P", *self.program, "--data", str(self.folder), "serve",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stderr is not None
        log = b""
        while True:
            line = await self.process.stderr.readline()
            log += line
            assert line, f"the homeserver ended at once:\n{log.decode()}"
            found = re.search(rb"homeserver listening.*?127\.0\.0\.1'?, (\d+)", line)
            if found is not None:
                break
        self.base_url = f"http://127.0.0.1:{int(found[1])}"
        self._reader = asyncio.get_running_loop().create_task(self._drain(self.process.stderr))

    async def _drain(self, stderr: asyncio.StreamReader) -> None:
        with (self.folder / "homeserver.log").open("ab") as log:
            while line := await stderr.readline():
                log.write(line)

    def memory(self) -> int:
        """Return how many bytes of memory the process has resident."""
        assert self.process is not None, "it runs"
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None, "every process has memory"
        return int(found[1]) * 1024

    async def stop(self) -> None:
        """End it in an orderly way."""
        await self._end(signal.SIGTERM)
        await self.http.close()

    async def kill(self) -> None:
        """End it as a power cut would."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            if self.process.returncode is None:
                os.kill(self.process.pid, number)
            await self.process.wait()
            await self._reader
            self.process = None
