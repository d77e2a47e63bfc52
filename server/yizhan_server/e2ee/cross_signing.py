"""Cross-signing: a user's master, self-signing and user-signing keys, and who signed what.

A first set of keys is taken without further proof, and so is the same set again; anything else
replaces an identity that others may trust, and its owner must confirm.

Spec: client-server API, "Cross-signing".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from yizhan_database import Transaction
from yizhan_server.e2ee.input import check_object, encode_key, is_public_key
from yizhan_server.e2ee.retrying import until_committed
from yizhan_server.e2ee.signatures import (
    WrongSignature,
    cross_signing_public_key,
    device_signing_key,
    encode_signed,
    is_signed,
    load_key,
    right_signatures,
    signed_part,
)
from yizhan_server.protocol.errors import BadJson, Forbidden, InvalidParam, MissingParam
from yizhan_server.storage import devices as stored_devices
from yizhan_server.storage import e2ee_keys as storage
from yizhan_server.storage.device_changes import NO_DEVICE, ChangeKind
from yizhan_server.storage.e2ee_keys import CrossSigningKeys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yizhan_database import Database
    from yizhan_server.e2ee.device_changes import DeviceChanges
    from yizhan_server.protocol.identifiers import UserID

JsonObject = dict[str, Any]

Usage = Literal["master", "self_signing", "user_signing"]
USAGES: tuple[Usage, ...] = get_args(Usage)
MAX_KEY_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class CrossSigningKey:
    """A cross-signing key, offered or stored."""

    public_key: str
    content: JsonObject


class CrossSigning:
    """Takes cross-signing keys."""

    def __init__(self, db: Database, changes: DeviceChanges) -> None:
        self._db = db
        self._changes = changes

    async def upload(
        self, user_id: UserID, body: JsonObject, confirm: Callable[[], Awaitable[object]]
    ) -> None:
        """Store the keys of a /keys/device_signing/upload body.

        `confirm` returns when the owner has confirmed, or raises; it is called only where the
        keys replace others, after every other check, once. Answers M_BAD_JSON, M_INVALID_PARAM,
        M_MISSING_PARAM, M_INVALID_SIGNATURE or M_FORBIDDEN.
        """
        offered = {
            usage: check_key(user_id, usage, body[f"{usage}_key"])
            for usage in USAGES
            if body.get(f"{usage}_key") is not None
        }
        is_confirmed = False

        async def store() -> None:
            nonlocal is_confirmed
            found = await storage.find_cross_signing(self._db, [user_id])
            stored = found.get(user_id)
            keys = {} if stored is None else _stored_keys(stored)
            if "master" not in offered and "master" not in keys:
                raise MissingParam("There is no master signing key")
            new = {
                usage: key
                for usage, key in offered.items()
                if usage not in keys or keys[usage].public_key != key.public_key
            }
            if not new:
                return
            await self._check_new(user_id, keys, offered, new)
            if stored is not None and not is_confirmed:
                await confirm()
                is_confirmed = True
            await self._replace(user_id, stored, new)

        await until_committed(store)

    async def _check_new(
        self,
        user_id: UserID,
        known: dict[Usage, CrossSigningKey],
        offered: dict[Usage, CrossSigningKey],
        new: dict[Usage, CrossSigningKey],
    ) -> None:
        master = (offered.get("master") or known["master"]).public_key
        for usage, key in offered.items():
            if usage != "master" and not is_signed(key.content, user_id, master, master):
                raise WrongSignature(f"The {usage} key is not signed by the master key")
        after = known | new
        if len({key.public_key for key in after.values()}) < len(after):
            raise InvalidParam("Each cross-signing key must be another one")
        for key in new.values():
            # Device ids and these keys share one name space in signatures.
            device = await stored_devices.find_device(self._db, user_id, key.public_key)
            if device is not None:
                raise Forbidden("Key ID in use")

    async def _replace(
        self, user_id: UserID, stored: CrossSigningKeys | None, new: dict[Usage, CrossSigningKey]
    ) -> None:
        # With the master key goes what it signed.
        keeps_others = stored is not None and "master" not in new
        if "master" in new:
            key = new["master"]
            by_devices = right_signatures(key.content, user_id, await self._device_keys(user_id))
            master = encode_signed(signed_part(key.content), user_id, by_devices)
            signer = key.public_key
        else:
            assert stored is not None
            master = stored.master
            signer = cross_signing_public_key(load_key(master))
        encoded: dict[Usage, bytes | None] = {}
        for usage in USAGES[1:]:
            if usage in new:
                content = new[usage].content
                signatures = right_signatures(content, user_id, {signer: signer})
                encoded[usage] = encode_signed(signed_part(content), user_id, signatures)
            else:
                encoded[usage] = getattr(stored, usage) if keeps_others else None
        tx = Transaction()
        storage.advance_cross_signing(
            tx,
            CrossSigningKeys(user_id, master, encoded["self_signing"], encoded["user_signing"], 0),
            0 if stored is None else stored.ver,
        )
        if "master" in new:
            storage.delete_signatures_of(tx, user_id)
        if "master" in new or "user_signing" in new:
            storage.delete_signatures_by(tx, user_id)
        seen_by_others = new.keys() != {"user_signing"}
        self._changes.record(
            tx,
            user_id,
            [NO_DEVICE],
            ChangeKind.CROSS_SIGNING if seen_by_others else ChangeKind.OWN,
        )
        await self._db.commit(tx)

    async def _device_keys(self, user_id: UserID) -> dict[str, str]:
        """Return the Ed25519 keys of the user's devices by device id."""
        found: dict[str, str] = {}
        for device in await storage.find_all_device_keys(self._db, user_id):
            if device.keys is not None:
                key = device_signing_key(load_key(device.keys), device.device_id)
                if key is not None:
                    found[device.device_id] = key
        return found


def check_key(user_id: UserID, usage: Usage, value: object) -> CrossSigningKey:
    """Return a key that is in order, whatever its signatures, or answer M_BAD_JSON and such."""
    key = check_object(value, f"'{usage}_key'")
    if key.get("user_id") != user_id:
        raise InvalidParam(f"'{usage}_key' is of another user")
    usages = key.get("usage")
    if not isinstance(usages, list) or usage not in usages:
        raise InvalidParam(f"'{usage}_key.usage' must name {usage}")
    keys = check_object(key.get("keys"), f"'{usage}_key.keys'")
    if len(keys) != 1:
        raise InvalidParam(f"'{usage}_key.keys' must hold exactly one key")
    [(key_id, public_key)] = keys.items()
    if not is_public_key(public_key) or key_id != f"ed25519:{public_key}":
        raise InvalidParam(f"'{usage}_key.keys' must map ed25519:KEY to KEY in unpadded base64")
    signatures = key.get("signatures")
    if signatures is not None and not isinstance(signatures, dict):
        raise BadJson(f"'{usage}_key.signatures' must be an object")
    encode_key(key, f"'{usage}_key'", MAX_KEY_BYTES)
    return CrossSigningKey(public_key, key)


def _stored_keys(stored: CrossSigningKeys) -> dict[Usage, CrossSigningKey]:
    keys: dict[Usage, CrossSigningKey] = {}
    for usage in USAGES:
        encoded: bytes | None = getattr(stored, usage)
        if encoded is not None:
            content = load_key(encoded)
            keys[usage] = CrossSigningKey(cross_signing_public_key(content), content)
    return keys
