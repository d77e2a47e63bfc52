"""The keys of devices: identity keys, one-time keys, fallback keys.

A one-time key is given out once, whatever happens: the key is chosen inside the commit that
takes it, that commit is durable before the key is shown to anybody, and a claimed key is
remembered for some time, so that an upload repeated after a lost answer does not revive it.

Spec: client-server API, "Uploading keys", "One-time and fallback keys".
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from yizhan_database import Transaction
from yizhan_server.e2ee.input import (
    check_name,
    check_object,
    encode_key,
    is_name,
)
from yizhan_server.e2ee.retrying import ATTEMPTS, until_committed
from yizhan_server.e2ee.signatures import (
    claimed_signatures,
    cross_signing_public_key,
    encode_signed,
    load_key,
    right_signatures,
    signed_part,
)
from yizhan_server.protocol.errors import (
    BadJson,
    Forbidden,
    InvalidParam,
    MatrixError,
    UnknownToken,
)
from yizhan_server.protocol.identifiers import ServerName, parse_user_id, server_name_of
from yizhan_server.storage import devices as stored_devices
from yizhan_server.storage import e2ee_keys as storage
from yizhan_server.storage.device_changes import ChangeKind
from yizhan_server.storage.e2ee_keys import DeviceKeys, OneTimeKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yizhan_database import Database
    from yizhan_server.e2ee.device_changes import DeviceChanges
    from yizhan_server.protocol.identifiers import DeviceID, UserID

JsonObject = dict[str, Any]

ALWAYS_COUNTED = "signed_curve25519"
MAX_IDENTITY_BYTES = 16_384
MAX_ONE_TIME_KEY_BYTES = 4096
MAX_ONE_TIME_KEYS = 1000
"""Unclaimed, per device. Clients keep 50 to 100."""
MAX_FALLBACK_KEYS = 10
MAX_CLAIMS = 10_000
"""Devices in one call."""
MAX_ALGORITHMS = 20
"""In one call: each is looked up by itself."""


class RemoteClaims(Protocol):
    """Takes keys of other servers' users."""

    async def claim(
        self, wanted: Iterable[tuple[str, str, str]], timeout_ms: int
    ) -> tuple[JsonObject, JsonObject]:
        """Take keys for (user, device, algorithm); returns those by user and the failures."""
        ...


@dataclass(frozen=True, slots=True)
class _Upload:
    """A checked upload."""

    user_id: UserID
    device_id: DeviceID
    identity: JsonObject | None
    one_time: list[OneTimeKey]
    fallback: list[OneTimeKey]


class Keys:
    """Takes, counts and gives out the keys of devices."""

    def __init__(
        self, db: Database, changes: DeviceChanges, remote: RemoteClaims, *, server_name: ServerName
    ) -> None:
        self._db = db
        self._changes = changes
        self._remote = remote
        self._server_name = server_name

    async def counts(
        self, user_id: UserID, device_id: DeviceID | str
    ) -> tuple[dict[str, int], list[str]]:
        """Return (unclaimed one-time keys by algorithm, algorithms of unused fallback keys)."""
        counts = {ALWAYS_COUNTED: 0}
        fallback = []
        for algorithm, count in await storage.count_keys(self._db, user_id, device_id):
            if count < 0:
                fallback.append(algorithm)
            else:
                counts[algorithm] = count
        return counts, sorted(fallback)

    async def upload(
        self, user_id: UserID, device_id: DeviceID, body: JsonObject
    ) -> dict[str, int]:
        """Store the keys of a /keys/upload body and return the counts of one-time keys.

        All or nothing. Answers M_BAD_JSON or M_INVALID_PARAM for keys that are not in order, and
        M_UNKNOWN for another one-time key under an id used before.
        """
        upload = _check_upload(user_id, device_id, body)
        await until_committed(partial(self._store, upload))
        counts, _ = await self.counts(user_id, device_id)
        return counts

    async def _store(self, upload: _Upload) -> None:
        user_id, device_id = upload.user_id, upload.device_id
        if await stored_devices.find_device(self._db, user_id, device_id) is None:
            raise UnknownToken  # signed out meanwhile
        stored = await storage.find_device_keys(self._db, user_id, device_id)
        if stored is None:
            stored = DeviceKeys(user_id, device_id, None, 0)
        keys, is_new_identity = stored.keys, False
        if upload.identity is not None:
            keys, is_new_identity = await self._merge_identity(stored, upload.identity)
        one_time = upload.one_time
        if not is_new_identity:
            one_time = await self._unknown_keys(upload)
        if keys == stored.keys and not one_time and not upload.fallback:
            return
        tx = Transaction()
        number = storage.advance_device_keys(tx, user_id, device_id, keys, stored.ver)
        if is_new_identity and stored.ver:
            storage.delete_one_time_and_fallback_keys(tx, user_id, device_id)
        if one_time:
            storage.forget_claimed_keys(tx, user_id, device_id, number)
            storage.insert_one_time_keys(tx, one_time, number)
        storage.upsert_fallback_keys(tx, upload.fallback)
        if keys != stored.keys:
            self._changes.record(tx, user_id, [device_id], ChangeKind.KEYS)
        await self._db.commit(tx)

    async def _merge_identity(self, stored: DeviceKeys, identity: JsonObject) -> tuple[bytes, bool]:
        """Return the identity keys to store, and whether they replace others.

        The same keys uploaded again keep the signatures that came by other ways. Other keys in
        their place make all that the old ones signed worthless, one-time keys included.
        """
        user_id, device_id = stored.user_id, stored.device_id
        signers: dict[str, str] = {}
        known = (await storage.find_cross_signing(self._db, [user_id])).get(user_id)
        if known is not None:
            mine = [key for key in (known.master, known.self_signing, known.user_signing) if key]
            public_keys = [cross_signing_public_key(load_key(key)) for key in mine]
            if device_id in public_keys:
                raise Forbidden("The device id is the public key of a cross-signing key")
            if known.self_signing is not None:
                self_signing = cross_signing_public_key(load_key(known.self_signing))
                signers[self_signing] = self_signing
        body = signed_part(identity)
        signatures = right_signatures(identity, user_id, signers)
        # What a device says of itself is handed on as it is: others check it anyhow.
        own = claimed_signatures(identity, user_id).get(f"ed25519:{device_id}")
        if isinstance(own, str):
            signatures[f"ed25519:{device_id}"] = own
        unsigned = {**body, "signatures": {}}  # which readers may count on, be it empty
        if stored.keys is None:
            return encode_signed(unsigned, user_id, signatures), True
        before = load_key(stored.keys)
        if signed_part(before) == body:
            signatures = right_signatures(before, user_id, signers) | signatures
        is_other = before["keys"] != identity["keys"]
        return encode_signed(unsigned, user_id, signatures), is_other

    async def _unknown_keys(self, upload: _Upload) -> list[OneTimeKey]:
        """Return the one-time keys that the device has not uploaded before."""
        if not upload.one_time:
            return []
        found = await storage.find_one_time_keys(
            self._db, upload.user_id, upload.device_id, {k.key_id for k in upload.one_time}
        )
        known = {(k.algorithm, k.key_id): k.key for k in found}
        unknown = []
        for key in upload.one_time:
            before = known.get((key.algorithm, key.key_id))
            if before is None:
                unknown.append(key)
            elif before != key.key:
                # Clients recognise this text, and report that they lost their state.
                name = f"{key.algorithm}:{key.key_id}"
                raise MatrixError(400, "M_UNKNOWN", f"One time key {name} already exists")
        counts, _ = await self.counts(upload.user_id, upload.device_id)
        if sum(counts.values()) + len(unknown) > MAX_ONE_TIME_KEYS:
            raise InvalidParam(f"A device has at most {MAX_ONE_TIME_KEYS} one-time keys")
        return unknown

    async def claim(self, wanted: JsonObject, timeout_ms: int = 0) -> JsonObject:
        """Take a key per device (user -> device -> algorithm) and return the /keys/claim answer.

        A fallback key where no one-time key is left. Other servers are waited for so long. Answers
        M_BAD_JSON or M_INVALID_PARAM.
        """
        missing, remote = self._check_wanted(wanted)
        given: dict[str, dict[str, dict[str, orjson.Fragment]]] = {}
        for key in await self._claim_one_time_keys(missing):
            missing.discard((key.user_id, key.device_id, key.algorithm))
            _give(given, key)
        for key in await self._use_fallback_keys(missing):
            _give(given, key)
        of_others, failures = await self._remote.claim(remote, timeout_ms)
        return {"one_time_keys": {**given, **of_others}, "failures": failures}

    async def _claim_one_time_keys(self, wanted: set[tuple[str, str, str]]) -> list[OneTimeKey]:
        missing = set(wanted)
        claimed: list[OneTimeKey] = []
        # Once is enough, unless a claim in another process took the same key in that moment.
        for _ in range(ATTEMPTS):
            available = set()
            for algorithm in {algorithm for _, _, algorithm in missing}:
                users = {user for user, _, wanted_one in missing if wanted_one == algorithm}
                available |= await storage.devices_with_unclaimed_keys(self._db, users, algorithm)
            available &= missing
            if not available:
                break
            claim = secrets.randbits(62)
            tx = Transaction()
            storage.claim_one_time_keys(tx, sorted(available), claim)
            await self._db.commit(tx)
            got = await storage.find_claimed(self._db, claim)
            claimed += got
            missing -= {(key.user_id, key.device_id, key.algorithm) for key in got}
        return claimed

    async def _use_fallback_keys(self, wanted: set[tuple[str, str, str]]) -> list[OneTimeKey]:
        if not wanted:
            return []
        users = {user_id for user_id, _, _ in wanted}
        found = [
            (key, used)
            for key, used in await storage.find_fallback_keys(self._db, users)
            if (key.user_id, key.device_id, key.algorithm) in wanted
        ]
        fresh = [key for key, used in found if not used]
        if fresh:
            tx = Transaction()
            storage.mark_fallback_keys_used(tx, fresh)
            await self._db.commit(tx)
        return [key for key, _ in found]

    def _check_wanted(
        self, wanted: JsonObject
    ) -> tuple[set[tuple[str, str, str]], set[tuple[str, str, str]]]:
        """Return (user, device, algorithm) of users of this server and of others."""
        local: set[tuple[str, str, str]] = set()
        remote: set[tuple[str, str, str]] = set()
        for user_id, devices in wanted.items():
            server = server_name_of(parse_user_id(user_id))
            for device_id, algorithm in check_object(devices, "Each user's part").items():
                check_name(algorithm, "An algorithm")
                if is_name(device_id):
                    part = local if server == self._server_name else remote
                    part.add((user_id, device_id, algorithm))
        if len(local) + len(remote) > MAX_CLAIMS:
            raise InvalidParam(f"At most {MAX_CLAIMS} keys are claimed at once")
        if len({algorithm for _, _, algorithm in local}) > MAX_ALGORITHMS:
            raise InvalidParam(f"Keys of at most {MAX_ALGORITHMS} algorithms are claimed at once")
        return local, remote


def _give(given: dict[str, dict[str, dict[str, orjson.Fragment]]], key: OneTimeKey) -> None:
    of_device = given.setdefault(key.user_id, {}).setdefault(key.device_id, {})
    of_device[f"{key.algorithm}:{key.key_id}"] = orjson.Fragment(key.key)


def _check_upload(user_id: UserID, device_id: DeviceID, body: JsonObject) -> _Upload:
    identity = body.get("device_keys")
    if identity is not None:
        _check_identity(user_id, device_id, check_object(identity, "'device_keys'"))
    one_time = _check_keys(user_id, device_id, body.get("one_time_keys"), "one_time_keys")
    if len(one_time) > MAX_ONE_TIME_KEYS:
        raise InvalidParam(f"A device has at most {MAX_ONE_TIME_KEYS} one-time keys")
    fallback = _check_keys(user_id, device_id, body.get("fallback_keys"), "fallback_keys")
    if len(fallback) > MAX_FALLBACK_KEYS:
        raise InvalidParam(f"A device has at most {MAX_FALLBACK_KEYS} fallback keys")
    if len({key.algorithm for key in fallback}) < len(fallback):
        raise InvalidParam("There is at most one fallback key of each algorithm")
    return _Upload(user_id, device_id, identity, one_time, fallback)


def _check_identity(user_id: UserID, device_id: DeviceID, identity: JsonObject) -> None:
    if identity.get("user_id") != user_id or identity.get("device_id") != device_id:
        raise InvalidParam("These are the keys of another user or device")
    algorithms = identity.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(a, str) for a in algorithms):
        raise BadJson("'device_keys.algorithms' must be a list of names")
    keys = check_object(identity.get("keys"), "'device_keys.keys'")
    if not all(isinstance(key, str) for key in keys.values()):
        raise BadJson("'device_keys.keys' maps key ids to texts")
    # Whether the keys are any good is for other devices to judge: they trust no server in this.
    encode_key(identity, "'device_keys'", MAX_IDENTITY_BYTES)


def _check_keys(user_id: UserID, device_id: DeviceID, value: object, what: str) -> list[OneTimeKey]:
    keys = []
    for name, key in check_object({} if value is None else value, f"'{what}'").items():
        algorithm, _, key_id = name.partition(":")
        if not is_name(algorithm) or not is_name(key_id):
            raise InvalidParam(f"The names in '{what}' have the form ALGORITHM:KEY_ID")
        if not isinstance(key, str) and not (
            isinstance(key, dict) and isinstance(key.get("key"), str)
        ):
            raise BadJson(f"'{what}.{name}' must be a key or an object with one")
        encoded = encode_key(key, "A key", MAX_ONE_TIME_KEY_BYTES)
        keys.append(OneTimeKey(user_id, device_id, algorithm, key_id, encoded))
    return keys
