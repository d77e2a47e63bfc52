"""The driver: people who send plain requests, with as little work of its own as possible."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import orjson
from nacl.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

_CLIENT = "/_matrix/client/v3"
SLIDING_SYNC = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0"

PASSWORD = "a password of the benchmark"
JsonObject = dict[str, Any]
_numbers = count(1)


@dataclass(frozen=True)
class Person:
    user_id: str
    device_id: str
    token: str


class Api:
    """Requests to one server over kept-alive connections, without a limit on their number."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=120),
            # Synapse compresses nothing by itself: the same bytes are compared.
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: JsonObject | None = None,
        person: Person | None = None,
        *,
        expect: int = 200,
    ) -> JsonObject:
        """Send one request; anything but the expected status is an error of the benchmark."""
        headers = _authorization(person) if person else {}
        data = None if body is None else orjson.dumps(body)
        if data is not None:
            headers["Content-Type"] = "application/json"
        content = await self._request(method, _CLIENT + path, data, headers, expect)
        return orjson.loads(content)  # type: ignore[no-any-return]

    async def _request(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], expect: int = 200
    ) -> bytes:
        assert self._session is not None
        url = self._base_url + path
        async with self._session.request(method, url, data=data, headers=headers) as answer:
            content = await answer.read()
            if answer.status != expect:
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]!r}")
        return content

    async def register(self, name: str) -> Person:
        wanted = {"username": name, "password": PASSWORD}
        session = (await self.ask("POST", "/register", wanted, expect=401))["session"]
        auth = {"type": "m.login.dummy", "session": session}
        made = await self.ask("POST", "/register", {**wanted, "auth": auth})
        return Person(made["user_id"], made["device_id"], made["access_token"])

    async def log_in(self, person: Person) -> Person:
        """Sign in one more device of the person."""
        identifier = {"type": "m.id.user", "user": person.user_id}
        body = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        made = await self.ask("POST", "/login", body)
        return Person(made["user_id"], made["device_id"], made["access_token"])

    async def create_public_room(self, owner: Person, members: Iterable[Person]) -> str:
        body = {"preset": "public_chat", "name": f"room {next(_numbers)}"}
        room = str((await self.ask("POST", "/createRoom", body, owner))["room_id"])
        await at_once(16, [partial(self.join, person, room) for person in members])
        return room

    async def join(self, person: Person, room: str) -> None:
        await self.ask("POST", f"/join/{room}", {}, person)

    async def send(self, person: Person, room: str, text: str = "") -> None:
        number = next(_numbers)
        words = text or "all work and no play " * 3
        body = {"msgtype": "m.text", "body": f"message {number}: {words}"}
        await self.ask("PUT", f"/rooms/{room}/send/m.room.message/b{number}", body, person)

    async def sync(self, person: Person, query: str) -> JsonObject:
        return await self.ask("GET", f"/sync?{query}", person=person)

    async def sliding_sync(self, person: Person, wish: JsonObject) -> None:
        await self._request("POST", SLIDING_SYNC, orjson.dumps(wish), _authorization(person))

    async def upload(self, person: Person, file: bytes) -> str:
        headers = {**_authorization(person), "Content-Type": "application/octet-stream"}
        answer = await self._request("POST", "/_matrix/media/v3/upload", file, headers)
        return str(orjson.loads(answer)["content_uri"])

    async def download(self, person: Person, uri: str) -> None:
        path = "/_matrix/client/v1/media/download/" + uri.removeprefix("mxc://")
        await self._request("GET", path, None, _authorization(person))


async def at_once(width: int, calls: Sequence[Callable[[], Awaitable[object]]]) -> list[float]:
    """Make all calls, at most `width` at the same time; returns the seconds that each took."""
    taken: list[float] = []
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            began = time.perf_counter()
            await call()
            taken.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(work())
    return taken


def device_keys(person: Person, one_time_keys: int) -> JsonObject:
    """Make a properly signed body of /keys/upload; the Curve25519 keys are never used."""
    signer = SigningKey.generate()
    algorithms = ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"]
    device = {
        "user_id": person.user_id,
        "device_id": person.device_id,
        "algorithms": algorithms,
        "keys": {
            f"curve25519:{person.device_id}": _public_key(),
            f"ed25519:{person.device_id}": _base64(bytes(signer.verify_key)),
        },
    }
    keys = {
        f"signed_curve25519:AAA{number:03}": _signed({"key": _public_key()}, signer, person)
        for number in range(one_time_keys)
    }
    return {"device_keys": _signed(device, signer, person), "one_time_keys": keys}


def _authorization(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}"}


def _signed(content: JsonObject, signer: SigningKey, person: Person) -> JsonObject:
    text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    signature = _base64(signer.sign(text).signature)
    name = f"ed25519:{person.device_id}"
    return {**content, "signatures": {person.user_id: {name: signature}}}


def _public_key() -> str:
    return _base64(bytes(SigningKey.generate().verify_key.to_curve25519_public_key()))


def _base64(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")
