"""Answers about keys of other servers' users: from the kept lists, else from their servers.

Servers are asked at once, each with a bounded number of questions at a time, and nobody waits
longer than the client said. A server that does not answer is named in `failures`; when it is back,
clients are told to ask again. What it says of changes that do not follow what is known has it asked
in the background, so that the list is there when a client comes.

Spec: client-server API, "Key management API"; server-server API, "End-to-End Encryption".
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager
from enum import IntEnum
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import orjson

from yizhan_database import DatabaseUnavailable
from yizhan_server.e2ee.cross_signing import check_key
from yizhan_server.e2ee.remote_forms import encode_device_keys
from yizhan_server.federation_client.errors import (
    PeerNotAllowed,
    RemoteFailure,
    RemoteRefused,
    RemoteUnavailable,
)
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import ServerName, UserID, server_name_of
from yizhan_server.storage import remote_devices as storage

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Iterable,
        Iterator,
    )

    from yizhan_config.tasks import Background
    from yizhan_database import Database
    from yizhan_server.e2ee.remote_lists import Missing, RemoteLists
    from yizhan_server.federation_client.destinations import Destinations
    from yizhan_server.federation_client.queries import DeviceKeys, QueryRequests

T = TypeVar("T")
JsonObject = dict[str, Any]
Wanted = dict[str, set[str]]
"""Device ids by user; none: all devices."""

DEFAULT_TIMEOUT_MS = 10_000
MAX_TIMEOUT_MS = 30_000
QUESTIONS = 50
"""To all servers at once, for all clients."""
QUESTIONS_TO_ONE = 8
"""To one server at once, for one client."""
QUESTIONS_TO_EACH = 10
"""To one server at once, for all clients: one that lets them wait must leave some to others."""
USERS_AT_ONCE = 200
MAX_MISSED = 10_000
"""Users of one server of whom it is remembered that they could not be asked for."""
RETRY_S = 5.0

NOT_FEDERATED = {"errcode": "M_UNKNOWN", "error": "This server is not connected to that one"}
NOT_ANSWERED = {"errcode": "M_UNKNOWN", "error": "That server did not answer"}


class _Tell(IntEnum):
    """Whether clients are told of a list once it is here."""

    NOBODY = 0
    IF_ASKED = 1
    """Unless a client has brought about that it is here, and so has it."""
    ANYHOW = 2
    """A client has been answered that it could not be had."""


class RemoteKeys:
    """Asks other servers."""

    def __init__(
        self,
        db: Database,
        lists: RemoteLists,
        requests: QueryRequests,
        destinations: Destinations,
        background: Background,
        *,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._lists = lists
        self._requests = requests
        self._destinations = destinations
        self._background = background
        self._server_name = server_name
        self._slots = asyncio.Semaphore(QUESTIONS)
        self._slots_of: WeakValueDictionary[ServerName, asyncio.Semaphore] = WeakValueDictionary()
        # Order: a user's lock before a slot.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._missed: dict[ServerName, dict[UserID, _Tell]] = {}
        """Whom to ask for, by server."""

    async def update(self, origin: ServerName, content: JsonObject) -> None:
        """Take m.device_list_update; ask for the list if that does not follow what is known."""
        self._note_missing(origin, await self._lists.update(origin, content))

    async def update_signing_keys(self, origin: ServerName, content: JsonObject) -> None:
        """Take m.signing_key_update; ask for the list if that does not follow what is known."""
        self._note_missing(origin, await self._lists.update_signing_keys(origin, content))

    async def query(self, wanted: Wanted, timeout_ms: int) -> tuple[set[str], JsonObject]:
        """Look for keys; returns the users whose lists are kept now, and the rest of the answer.

        The rest is `device_keys`, `master_keys`, `self_signing_keys` and `failures` of the others.
        """
        sharing: set[str] = set()
        kept: set[str] = set()
        for users in portions(wanted):
            sharing |= await storage.users_sharing(self._db, self._server_name, users)
            kept |= await storage.users_kept(self._db, self._server_name, users)
        answer: JsonObject = {
            "device_keys": {}, "master_keys": {}, "self_signing_keys": {}, "failures": {}
        }  # fmt: skip
        asked = {user: devices for user, devices in wanted.items() if user not in kept}
        failures = await _of_servers(
            asked, timeout_ms, lambda server, users: self._query_server(
                server, users, sharing, wanted, answer
            ),
        )  # fmt: skip
        answer["failures"] = failures
        missed: dict[ServerName, list[str]] = defaultdict(list)
        for users in portions(u for u in asked if u in sharing and server_name_of(u) in failures):
            # A server that did not give all has given some, which are in the answer.
            kept = await storage.users_kept(self._db, self._server_name, users)
            for user in users:
                server = server_name_of(user)
                if server is not None and user not in kept:
                    missed[server].append(user)
        for server, users in missed.items():
            self._note_missed(server, users, _Tell.ANYHOW)
        return sharing, answer

    async def _query_server(
        self,
        server: ServerName,
        users: list[str],
        sharing: set[str],
        wanted: Wanted,
        answer: JsonObject,
    ) -> None:
        others = {UserID(user): sorted(wanted[user]) for user in users if user not in sharing}
        limit = asyncio.Semaphore(QUESTIONS_TO_ONE)

        async def fetch(user: str) -> None:
            async with limit:
                await self._fetch(UserID(user), server)

        # Not a group: the first failure is the answer about the server, the others go on.
        fetches = [fetch(user) for user in users if user in sharing]
        results = await asyncio.gather(*fetches, return_exceptions=True)
        if others:
            async with self._slot(server):
                found = await self._requests.device_keys(server, others)
            _add_found(answer, found, others)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _fetch(self, user_id: UserID, server: ServerName) -> bool:
        """Make a list kept; whether that took a question."""
        lock = self._locks.setdefault(user_id, asyncio.Lock())
        async with lock:
            if await storage.users_kept(self._db, self._server_name, [user_id]):
                return False  # another client has asked meanwhile
            try:
                async with self._slot(server):
                    await self._lists.fetch(user_id, server)
            except RemoteRefused:
                return False  # the server knows no such user
            return True

    @asynccontextmanager
    async def _slot(self, server: ServerName) -> AsyncIterator[None]:
        """Have one question to the server; waits until there are few enough."""
        of_server = self._slots_of.setdefault(server, asyncio.Semaphore(QUESTIONS_TO_EACH))
        async with of_server, self._slots:
            yield

    def _note_missing(self, server: ServerName, missing: Missing | None) -> None:
        if missing is not None:
            tell = _Tell.NOBODY if missing.is_told else _Tell.IF_ASKED
            self._note_missed(server, [missing.user_id], tell)

    def _note_missed(self, server: ServerName, users: Collection[str], tell: _Tell) -> None:
        """Ask for users, one after the other, as soon as their server answers."""
        if not users:
            return
        waiting = self._missed.get(server)
        if waiting is None:
            waiting = self._missed[server] = {}
            self._background.keep(f"device lists of {server}", partial(self._retry, server))
        for user_id in map(UserID, users):
            if user_id in waiting or len(waiting) < MAX_MISSED:
                waiting[user_id] = max(tell, waiting.get(user_id, tell))

    async def _retry(self, server: ServerName) -> None:
        waiting = self._missed[server]
        while waiting:
            await self._destinations.wait_until_due(server)
            user_id = next(iter(waiting))
            # Before it is asked for: what changes meanwhile has it asked for once more.
            tell = waiting.pop(user_id)
            try:
                if await self._fetch(user_id, server) and tell is _Tell.IF_ASKED:
                    # Whoever comes back to this finds the list here.
                    tell = _Tell.ANYHOW
                if tell is _Tell.ANYHOW:
                    await self._lists.tell_changed(user_id)
            except (RemoteUnavailable, TimeoutError, DatabaseUnavailable):
                waiting[user_id] = max(tell, waiting.get(user_id, tell))
                await asyncio.sleep(RETRY_S)
            except RemoteFailure:
                continue
        del self._missed[server]

    async def claim(
        self, wanted: Iterable[tuple[str, str, str]], timeout_ms: int
    ) -> tuple[JsonObject, JsonObject]:
        """Take keys for (user, device, algorithm); returns those by user and the failures."""
        by_user: dict[str, dict[str, str]] = defaultdict(dict)
        for user, device, algorithm in wanted:
            by_user[user][device] = algorithm
        given: JsonObject = {}

        async def claim_of(server: ServerName, users: list[str]) -> None:
            async with self._slot(server):
                found = await self._requests.claim_keys(
                    server, {UserID(user): by_user[user] for user in users}
                )
            for user in users:
                _add_claimed(given, user, by_user[user], found.one_time_keys.get(user, {}))

        return given, await _of_servers(by_user, timeout_ms, claim_of)


async def _of_servers(
    users: Iterable[str],
    timeout_ms: int,
    ask: Callable[[ServerName, list[str]], Awaitable[None]],
) -> JsonObject:
    """Ask each server of these users, at once; returns the failures by server."""
    by_server: dict[ServerName, list[str]] = defaultdict(list)
    for user in users:
        server = server_name_of(user)
        if server is not None:
            by_server[server].append(user)
    failures: JsonObject = {}

    async def ask_one(server: ServerName) -> None:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await ask(server, by_server[server])
        except PeerNotAllowed:
            failures[server] = NOT_FEDERATED
        except (RemoteFailure, TimeoutError):
            failures[server] = NOT_ANSWERED

    async with asyncio.TaskGroup() as group:
        for server in by_server:
            group.create_task(ask_one(server))
    return failures


def timeout_of(body: JsonObject) -> int:
    """Return how long a client wants to wait for other servers, in ms."""
    timeout = body.get("timeout")
    if not isinstance(timeout, int) or isinstance(timeout, bool):
        return DEFAULT_TIMEOUT_MS
    return min(max(timeout, 0), MAX_TIMEOUT_MS)


def portions(users: Iterable[str]) -> Iterator[list[str]]:
    """Yield users in lists of a size that one statement takes."""
    iterator = iter(users)
    while portion := list(islice(iterator, USERS_AT_ONCE)):
        yield portion


def _add_found(answer: JsonObject, found: DeviceKeys, wanted: dict[UserID, list[str]]) -> None:
    """Add what was asked for, and nothing else, to an answer."""
    for user, device_ids in wanted.items():
        devices = answer["device_keys"].setdefault(user, {})
        for device_id, keys in found.device_keys.get(user, {}).items():
            if not device_ids or device_id in device_ids:
                try:
                    devices[device_id] = orjson.Fragment(encode_device_keys(user, device_id, keys))
                except (MatrixError, ValueError):
                    continue
        for name, usage in (("master_keys", "master"), ("self_signing_keys", "self_signing")):
            key = getattr(found, name).get(user)
            if key is not None:
                try:
                    check_key(user, usage, key)  # type: ignore[arg-type]
                except (MatrixError, ValueError):
                    continue
                answer[name][user] = key


def _add_claimed(
    given: JsonObject, user: str, wanted: dict[str, str], found: dict[str, JsonObject]
) -> None:
    """Add one key of the wanted algorithm for each device that was asked for."""
    for device_id, algorithm in wanted.items():
        keys = found.get(device_id, {})
        for name, key in keys.items():
            if name.partition(":")[0] == algorithm and isinstance(key, dict | str):
                given.setdefault(user, {})[device_id] = {name: key}
                break
