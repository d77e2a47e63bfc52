"""The key ring: has the right key of another server at hand, or fetches it, and checks with it.

A key is fetched from the server itself and, where that fails, from the notaries that the
administrator named. Whoever asks for a key that is already on its way waits for it; a server that
did not give one is left alone for a while. What a stranger can cause so is bounded: one request
per server and minute, after a few in a row, and so many servers at once.

Spec: server-server API, "Retrieving server keys", "Validating hashes and signatures on received
events"; room version 5, "Signing key validity period".
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from yizhan_server.federation_client.errors import RemoteFailure, RemoteRefused
from yizhan_server.federation_client.event_signatures import (
    Claim,
    check_claims,
    claimed_key_ids,
    read_claims,
)
from yizhan_server.federation_client.key_attempts import Attempts
from yizhan_server.federation_client.known_keys import Keys, KnownKeys, load_answer
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.request_signing import (
    RequestSignature,
    check_body_signature,
    check_request_signature,
)
from yizhan_server.protocol.server_keys import (
    LONGEST_VALIDITY_MS,
    InvalidServerKeys,
    OwnKeys,
    usable_keys,
)
from yizhan_server.protocol.signing import InvalidSignature, VerifyKey, verify_signed_json

if TYPE_CHECKING:
    from yizhan_config.tasks import Background, Started
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.room_version import RoomVersion
    from yizhan_server.storage.server_keys import StoredAnswer

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

FETCH_SECONDS = 20
"""For one answer: requests and events wait for it."""
MAX_FETCHES = 200
"""Servers asked at the same time."""
MAX_STRANGERS = 150
"""Of these, servers of which no key is known: anybody can name ever more that never answer."""
FETCHES_OF_ONE = 100
"""Of these, for one who asks for the keys of many."""
THREADS = 2
PORTION = 50
"""Events checked by a thread at a time. A few are checked where they are asked for: the way to a
thread and back costs as much as two signatures."""
FEW = 2


class KeySource(Protocol):
    """Asks other servers for keys; both methods raise RemoteFailure."""

    async def server_keys(self, server: ServerName) -> JsonObject:
        """Return what the server publishes at `/_matrix/key/v2/server`."""
        ...

    async def notary_keys(
        self, notary: ServerName, wanted: Mapping[ServerName, Mapping[str, int]]
    ) -> Sequence[JsonObject]:
        """Return the `server_keys` of a notary; `wanted` are times by server and key ID."""
        ...


@dataclass(frozen=True, slots=True)
class Want:
    """A use for keys of a server: at least one of `key_ids`, valid at some time if one is given."""

    key_ids: frozenset[str]
    valid_at_ms: int | None
    for_request: bool = False

    def pick(self, keys: Keys) -> dict[str, VerifyKey]:
        """Return those keys that serve it."""
        if not self.for_request or self.valid_at_ms is None:
            return usable_keys(keys, self.key_ids, self.valid_at_ms)
        return {
            key_id: keys[key_id].key
            for key_id in self.key_ids
            if key_id in keys and keys[key_id].signs_requests_at(self.valid_at_ms)
        }


class KeyRing:
    """The keys of all servers, this one included."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        background: Background,
        source: KeySource,
        own: OwnKeys,
        notaries: Sequence[ServerName] = (),
    ) -> None:
        self._clock = clock
        self._background = background
        self._source = source
        self._own = own
        self._notaries = tuple(notary for notary in notaries if notary != own.server_name)
        self._known = KnownKeys(db)
        self._fetches: dict[ServerName, Started] = {}
        self._strangers: set[ServerName] = set()
        """Servers that are being asked and of which no key is known."""
        self._attempts = Attempts()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="signatures")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # region checking

    async def keys_for_event(
        self, server: ServerName, key_ids: Collection[str], at_ms: int, version: RoomVersion
    ) -> Mapping[str, VerifyKey]:
        """Return those of `key_ids` with which `server` may have signed an event of that time.

        The time only counts in room versions that enforce it. Fetches if none is known.
        """
        want = Want(frozenset(key_ids), at_ms if version.enforces_key_validity else None)
        return want.pick(await self._keys_of(server, [want]))

    async def check_events(
        self, events: Sequence[JsonObject], version: RoomVersion
    ) -> list[InvalidSignature | None]:
        """Return what is wrong with each event's signatures, None where nothing is.

        Asked for are the signatures that an event has to carry. The missing keys of all servers
        are fetched at the same time, and the events checked in threads, in portions. An event may
        be malformed; then that is what is wrong with it.
        """
        claims = await self._in_portions(partial(read_claims, version=version), events)
        servers = _wants_of(claims)
        found = await asyncio.gather(
            *(self._keys_of(server, wants) for server, wants in servers.items())
        )
        keys = dict(zip(servers, found, strict=True))
        return await self._in_portions(partial(check_claims, version=version, keys=keys), claims)

    async def fetch_keys(
        self, uses: Mapping[ServerName, Mapping[tuple[str, ...], int]], version: RoomVersion
    ) -> None:
        """Fetch what is not known of the keys that many servers are going to be checked with.

        `uses` has, by server and by the IDs of its keys, the time of the latest event. Some
        servers at a time: of too many at once none would be asked.
        """
        servers = list(uses)
        for start in range(0, len(servers), FETCHES_OF_ONE):
            wanted = {
                server: [
                    Want(frozenset(key_ids), at_ms if version.enforces_key_validity else None)
                    for key_ids, at_ms in uses[server].items()
                ]
                for server in servers[start : start + FETCHES_OF_ONE]
            }
            await asyncio.gather(
                *(self._keys_of(server, wants) for server, wants in wanted.items())
            )

    async def check_json(
        self, obj: JsonObject, server: ServerName, valid_at_ms: int | None = None
    ) -> None:
        """Raise InvalidSignature unless `server` signed `obj` with a key valid at that time."""
        want = Want(frozenset(claimed_key_ids(obj, server)), valid_at_ms)
        verify_signed_json(obj, server, want.pick(await self._keys_of(server, [want])))

    async def check_request(
        self,
        claimed: RequestSignature,
        *,
        method: str,
        uri: str,
        content: JsonObject | None,
        is_large: bool = False,
    ) -> None:
        """Raise InvalidSignature unless the origin has signed this request to this server.

        With `is_large` it is checked in a thread, since encoding the content takes its time.
        """
        check = partial(
            check_request_signature,
            claimed,
            method=method,
            uri=uri,
            destination=self._own.server_name,
            content=content,
            keys=await self._keys_for_request(claimed),
        )
        if is_large:
            await asyncio.get_running_loop().run_in_executor(self._threads, check)
        else:
            check()

    async def has_signed_body(
        self, claimed: RequestSignature, *, method: str, uri: str, body: bytes
    ) -> bool:
        """Whether the origin has signed this request, and sent the body as it signed it.

        It is found out in a thread: the body is large.
        """
        check = partial(
            check_body_signature,
            claimed,
            method=method,
            uri=uri,
            destination=self._own.server_name,
            body=body,
            keys=await self._keys_for_request(claimed),
        )
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, check)
        except InvalidSignature:
            return False
        return True

    async def _keys_for_request(self, claimed: RequestSignature) -> dict[str, VerifyKey]:
        want = Want(frozenset([claimed.key_id]), self._clock.now_ms(), for_request=True)
        return want.pick(await self._keys_of(claimed.origin, [want]))

    async def _in_portions(
        self, work: Callable[[Sequence[T]], list[R]], items: Sequence[T]
    ) -> list[R]:
        """Return the results of `work` over all items, made in threads if they are many."""
        if len(items) <= FEW:
            return work(items)
        loop = asyncio.get_running_loop()
        portions = await asyncio.gather(
            *(
                loop.run_in_executor(self._threads, work, items[start : start + PORTION])
                for start in range(0, len(items), PORTION)
            )
        )
        return [result for portion in portions for result in portion]

    # endregion
    # region fetching

    async def find_published(
        self, server: ServerName, key_ids: Collection[str], minimum_valid_until_ms: int | None
    ) -> list[JsonObject]:
        """Return what `server` last published, asked anew when half of its time is over.

        With `minimum_valid_until_ms` when it is not valid until then; and when it says nothing of
        one of `key_ids`. Before it comes what the server published while it listed those of them
        that it has dropped. Empty if it could never be asked.
        """
        if server == self._own.server_name:
            return [self._own.publish(self._clock.now_ms())]
        found = await self._published(server, key_ids)
        if not self._is_enough(found, key_ids, minimum_valid_until_ms):
            await self._fetch_once(server, [], is_known=found is not None)
            found = await self._published(server, key_ids)
        return [] if found is None else [*found.dropped, found.last]

    async def _published(self, server: ServerName, key_ids: Collection[str]) -> _Published | None:
        stored = await self._known.find_answer(server)
        if stored is None:
            return None
        last = load_answer(stored)
        gone = set(key_ids) - _listed(last)
        return _Published(stored, last, await self._known.find_dropped(server, gone))

    def _is_enough(
        self, found: _Published | None, key_ids: Collection[str], until_ms: int | None
    ) -> bool:
        """Whether what is known of a server need not be asked for again."""
        if found is None or set(key_ids) - _listed(found.last, *found.dropped):
            return False
        if until_ms is not None:
            return found.stored.valid_until_ms >= until_ms
        return 2 * self._clock.now_ms() <= found.stored.fetched_ms + found.stored.valid_until_ms

    async def _keys_of(self, server: ServerName, wants: Collection[Want]) -> Keys:
        """Return the keys of `server`, fetched if any of `wants` is not met by what is known."""
        if server == self._own.server_name:
            return self._own.as_known(self._clock.now_ms())
        keys = await self._known.of(server)
        if all(want.pick(keys) for want in wants):
            return keys
        keys = await self._known.read(server)
        unmet = [want for want in wants if want.key_ids and not want.pick(keys)]
        if not unmet:
            return keys
        await self._fetch_once(server, unmet, is_known=bool(keys))
        return await self._known.of(server)

    async def _fetch_once(
        self, server: ServerName, unmet: Collection[Want], *, is_known: bool
    ) -> None:
        """Ask for the keys of a server, or wait for the answer that is on its way."""
        fetch = self._fetches.get(server)
        if fetch is None:
            if len(self._fetches) >= MAX_FETCHES:
                return
            if not is_known and len(self._strangers) >= MAX_STRANGERS:
                return
            if not self._attempts.may_ask(server, self._clock.now_ms()):
                return
            if not is_known:
                self._strangers.add(server)
            fetch = self._background.spawn("server keys", self._fetch(server, unmet))
            self._fetches[server] = fetch
        await fetch.wait()

    async def _fetch(self, server: ServerName, unmet: Collection[Want]) -> None:
        try:
            answered = await self._ask_itself(server)
            # A notary's own keys come from itself only: two that vouched for each other would
            # wait for each other.
            for notary in () if server in self._notaries else self._notaries:
                keys = await self._known.of(server)
                if all(want.pick(keys) for want in unmet):
                    break
                answered = await self._ask_notary(notary, server, unmet) or answered
            self._attempts.note(server, self._clock.now_ms(), answered=answered)
        finally:
            del self._fetches[server]
            self._strangers.discard(server)

    async def _ask_itself(self, server: ServerName) -> bool:
        """Ask a server for its keys; whether it is there."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                answer = await self._source.server_keys(server)
            await self._known.learn(server, answer, self._clock.now_ms(), from_itself=True)
        except (RemoteFailure, InvalidServerKeys, TimeoutError) as error:
            log.info("no keys from server", extra={"server": server, "reason": str(error)})
            return isinstance(error, RemoteRefused)
        return True

    async def _ask_notary(
        self, notary: ServerName, server: ServerName, unmet: Collection[Want]
    ) -> bool:
        """Ask a notary for the keys of a server; whether it had any."""
        now_ms = self._clock.now_ms()
        wanted: dict[str, int] = {}
        for want in unmet:
            # An event may claim any time; no key is valid for longer than a week.
            at_ms = now_ms if want.valid_at_ms is None else want.valid_at_ms
            for key_id in want.key_ids:
                at_ms = max(wanted.get(key_id, 0), at_ms)
                wanted[key_id] = min(at_ms, now_ms + LONGEST_VALIDITY_MS)
        found = False
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                answers = await self._source.notary_keys(notary, {server: wanted})
            for answer in answers:
                if answer.get("server_name") == server:
                    # Both have signed it: the notary, and the server itself by the keys therein.
                    await self.check_json(answer, notary, now_ms)
                    await self._known.learn(server, answer, now_ms, from_itself=False)
                    found = True
        except (RemoteFailure, InvalidServerKeys, InvalidSignature, TimeoutError) as error:
            log.info("no keys from notary", extra={"server": notary, "reason": str(error)})
        return found

    # endregion


@dataclass(frozen=True, slots=True)
class _Published:
    """What a server published last, and before."""

    stored: StoredAnswer
    last: JsonObject
    dropped: list[JsonObject]


def _listed(*answers: JsonObject) -> set[str]:
    """Return the IDs of all keys that these answers name."""
    return {
        key_id
        for answer in answers
        for part in ("verify_keys", "old_verify_keys")
        for key_id in answer.get(part, ())
    }


def _wants_of(claims: Iterable[Claim | None]) -> dict[ServerName, list[Want]]:
    """Return what is wanted of each server: for the same keys, up to the latest time."""
    times: dict[ServerName, dict[tuple[str, ...], int | None]] = defaultdict(dict)
    for claim in claims:
        if claim is not None:
            for server, key_ids in claim.key_ids.items():
                at_ms = claim.valid_at_ms
                latest_ms = times[server].get(key_ids)
                if at_ms is not None and latest_ms is not None:
                    at_ms = max(at_ms, latest_ms)
                times[server][key_ids] = at_ms
    return {
        server: [Want(frozenset(key_ids), at_ms) for key_ids, at_ms in uses.items()]
        for server, uses in times.items()
    }
