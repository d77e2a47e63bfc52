"""Takes /keys/signatures/upload: new signatures of one's own keys and of others' master keys.

Each signed object must be what the server holds, but for its signatures, and each new signature
must be right: what is stored here, other people's clients will rely on.

Spec: client-server API, "Cross-signing".
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from yizhan_database import Transaction
from yizhan_server.e2ee.input import check_object
from yizhan_server.e2ee.retrying import until_committed
from yizhan_server.e2ee.signatures import (
    WrongSignature,
    claimed_signatures,
    cross_signing_public_key,
    device_signing_key,
    encode_signed,
    is_signed,
    load_key,
    signed_part,
)
from yizhan_server.protocol.errors import InvalidParam, MatrixError, NotFound
from yizhan_server.protocol.identifiers import parse_user_id
from yizhan_server.storage import e2ee_keys as storage
from yizhan_server.storage.device_changes import NO_DEVICE, ChangeKind
from yizhan_server.storage.e2ee_keys import CrossSigningKeys, DeviceKeys

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.e2ee.device_changes import DeviceChanges
    from yizhan_server.protocol.identifiers import UserID

JsonObject = dict[str, Any]

MAX_TARGETS = 1000
CHECKS_BEFORE_YIELD = 20
"""Each takes about 0.1 ms."""


@dataclass(slots=True)
class _Known:
    """What the server holds of the signer and of everybody whose keys were signed."""

    devices: dict[str, DeviceKeys]
    device_keys: dict[str, str]
    """The signer's devices: device id -> Ed25519 key."""
    identities: dict[str, CrossSigningKeys]


@dataclass(slots=True)
class _Accepted:
    """New signatures that were found right."""

    devices: dict[str, bytes] = field(default_factory=dict)
    """The signer's devices: device id -> key object with the signatures."""
    master: bytes | None = None
    others: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Other users: user id -> (signing key, signed key, signature)."""


class SignatureUploads:
    """Takes signatures."""

    def __init__(self, db: Database, changes: DeviceChanges) -> None:
        self._db = db
        self._changes = changes

    async def upload(self, user_id: UserID, body: JsonObject) -> dict[str, dict[str, JsonObject]]:
        """Store what is right and return the failures: user -> key -> error.

        Answers M_BAD_JSON or M_INVALID_PARAM for a body of another form, and then stores nothing.
        """
        count = 0
        for target, keys in body.items():
            parse_user_id(target)
            # Whoever has none counts too: each is looked for.
            count += max(len(check_object(keys, "Each user's part")), 1)
        if count > MAX_TARGETS:
            raise InvalidParam(f"At most {MAX_TARGETS} signed keys are taken at once")
        return await until_committed(partial(self._store, user_id, body))

    async def _store(self, user_id: UserID, body: JsonObject) -> dict[str, dict[str, JsonObject]]:
        known = await self._read(user_id, body)
        accepted = _Accepted()
        failures: dict[str, dict[str, JsonObject]] = {}
        checked = 0
        for target, keys in body.items():
            for key_id, key in keys.items():
                try:
                    _check(user_id, target, key_id, key, known, accepted)
                except MatrixError as error:
                    failures.setdefault(target, {})[key_id] = error.body()
                checked += 1
                if checked % CHECKS_BEFORE_YIELD == 0:
                    await asyncio.sleep(0)
        await self._commit(user_id, known, accepted)
        return failures

    async def _read(self, user_id: UserID, body: JsonObject) -> _Known:
        devices = await storage.find_all_device_keys(self._db, user_id)
        device_keys = {}
        for device in devices:
            if device.keys is not None:
                key = device_signing_key(load_key(device.keys), device.device_id)
                if key is not None:
                    device_keys[device.device_id] = key
        return _Known(
            {device.device_id: device for device in devices if device.keys is not None},
            device_keys,
            await storage.find_cross_signing(self._db, {user_id, *body}),
        )

    async def _commit(self, user_id: UserID, known: _Known, accepted: _Accepted) -> None:
        if not accepted.devices and accepted.master is None and not accepted.others:
            return
        tx = Transaction()
        for device_id, keys in accepted.devices.items():
            ver = known.devices[device_id].ver
            storage.advance_device_keys(tx, user_id, device_id, keys, ver)
        if accepted.master is not None:
            own = known.identities[user_id]
            storage.advance_cross_signing(
                tx,
                CrossSigningKeys(user_id, accepted.master, own.self_signing, own.user_signing, 0),
                own.ver,
            )
        if accepted.devices:
            self._changes.record(tx, user_id, accepted.devices, ChangeKind.KEYS)
        if accepted.master is not None:
            self._changes.record(tx, user_id, [NO_DEVICE], ChangeKind.CROSS_SIGNING)
        if accepted.others:
            pos = self._changes.position(tx, user_id, for_others=False)
            for target, (signer_key, target_key, signature) in accepted.others.items():
                storage.upsert_master_signature(
                    tx,
                    signer=user_id,
                    signer_key=signer_key,
                    target=target,
                    target_key=target_key,
                    signature=signature,
                    pos=pos,
                )
        await self._db.commit(tx)


def _check(
    user_id: UserID, target: str, key_id: str, key: object, known: _Known, accepted: _Accepted
) -> None:
    """Add the signatures of one signed key to `accepted`, or raise MatrixError."""
    signed = check_object(key, "A signed key")
    own = known.identities.get(user_id)
    identity = known.identities.get(target)
    master = None if identity is None else load_key(identity.master)
    is_master = master is not None and cross_signing_public_key(master) == key_id
    if target == user_id and key_id in known.devices:
        stored = known.devices[key_id].keys
        assert stored is not None
        if own is None or own.self_signing is None:
            raise WrongSignature("There is no self-signing key")
        signer = cross_signing_public_key(load_key(own.self_signing))
        # The device's own signature may come along; it is stored already.
        encoded = _with_signatures(user_id, load_key(stored), signed, {signer: signer})
        if encoded != stored:
            accepted.devices[key_id] = encoded
    elif target == user_id and is_master:
        assert master is not None
        assert own is not None
        encoded = _with_signatures(user_id, master, signed, known.device_keys)
        if encoded != own.master:
            accepted.master = encoded
    elif is_master:
        assert master is not None
        if own is None or own.user_signing is None:
            raise WrongSignature("There is no user-signing key")
        signer = cross_signing_public_key(load_key(own.user_signing))
        _check_same(master, signed)
        if not is_signed(signed, user_id, signer, signer):
            raise WrongSignature("No right signature by the user-signing key")
        signature = claimed_signatures(signed, user_id)[f"ed25519:{signer}"]
        accepted.others[target] = (signer, key_id, signature)
    else:
        raise NotFound("There is no such key")


def _with_signatures(
    user_id: UserID, stored: JsonObject, signed: JsonObject, signers: Mapping[str, str]
) -> bytes:
    """Return `stored` with the signatures in `signed` by `signers`, which must all be right."""
    _check_same(stored, signed)
    claimed = claimed_signatures(signed, user_id)
    offered = [key_id for key_id in signers if f"ed25519:{key_id}" in claimed]
    if not offered:
        raise WrongSignature("No signature by a key that may sign this one")
    for key_id in offered:
        if not is_signed(signed, user_id, signers[key_id], key_id):
            raise WrongSignature(f"The signature of ed25519:{key_id} is wrong")
    signatures = claimed_signatures(stored, user_id)
    added = {f"ed25519:{key_id}": claimed[f"ed25519:{key_id}"] for key_id in offered}
    return encode_signed(signed_part(stored), user_id, {**signatures, **added})


def _check_same(stored: JsonObject, signed: JsonObject) -> None:
    if signed_part(stored) != signed_part(signed):
        raise WrongSignature("The signed key is not the one that the server holds")
