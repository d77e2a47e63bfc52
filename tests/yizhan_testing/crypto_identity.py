"""Keys of devices and cross-signing identities, made and signed as a client does it.

Signs with PyNaCl over the `canonicaljson` package's encoding, so that the server's own code is
checked against somebody else's.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any

from canonicaljson import encode_canonical_json
from nacl.signing import SigningKey

JsonObject = dict[str, Any]


def unpadded(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def public_key(key: SigningKey) -> str:
    return unpadded(key.verify_key.encode())


def signed(obj: JsonObject, user_id: str, key_id: str, key: SigningKey) -> JsonObject:
    """Return `obj` with one more signature, by the user's key `ed25519:KEY_ID`."""
    body = {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}
    signature = unpadded(key.sign(encode_canonical_json(body)).signature)
    signatures = {user: dict(of_user) for user, of_user in obj.get("signatures", {}).items()}
    signatures.setdefault(user_id, {})[f"ed25519:{key_id}"] = signature
    return {**obj, "signatures": signatures}


@dataclass
class CryptoDevice:
    """The long-lived keys of one device."""

    user_id: str
    device_id: str
    signing_key: SigningKey = field(default_factory=SigningKey.generate)
    identity_key: str = field(default_factory=lambda: public_key(SigningKey.generate()))

    def unsigned_keys(self) -> JsonObject:
        return {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"ed25519:{self.device_id}": public_key(self.signing_key),
                f"curve25519:{self.device_id}": self.identity_key,
            },
        }

    def keys(self) -> JsonObject:
        return self.sign(self.unsigned_keys())

    def sign(self, obj: JsonObject) -> JsonObject:
        return signed(obj, self.user_id, self.device_id, self.signing_key)

    def one_time_keys(self, *key_ids: str, **more: Any) -> JsonObject:
        """Return new `signed_curve25519` keys."""
        return {
            f"signed_curve25519:{key_id}": self.sign(
                {"key": public_key(SigningKey.generate()), **more}
            )
            for key_id in key_ids
        }

    def fallback_key(self, key_id: str) -> JsonObject:
        return self.one_time_keys(key_id, fallback=True)


@dataclass
class CrossSigningIdentity:
    """A user's three cross-signing keys."""

    user_id: str
    master: SigningKey = field(default_factory=SigningKey.generate)
    self_signing: SigningKey = field(default_factory=SigningKey.generate)
    user_signing: SigningKey = field(default_factory=SigningKey.generate)

    def master_key(self) -> JsonObject:
        return self._key("master", self.master)

    def body(self) -> JsonObject:
        """Return what is uploaded."""
        return {
            "master_key": self.master_key(),
            "self_signing_key": self.sign_by_master(self._key("self_signing", self.self_signing)),
            "user_signing_key": self.sign_by_master(self._key("user_signing", self.user_signing)),
        }

    def sign_by_master(self, obj: JsonObject) -> JsonObject:
        return signed(obj, self.user_id, public_key(self.master), self.master)

    def sign_device(self, keys: JsonObject) -> JsonObject:
        return signed(keys, self.user_id, public_key(self.self_signing), self.self_signing)

    def sign_user(self, master_key: JsonObject) -> JsonObject:
        return signed(master_key, self.user_id, public_key(self.user_signing), self.user_signing)

    def _key(self, usage: str, key: SigningKey) -> JsonObject:
        return {
            "user_id": self.user_id,
            "usage": [usage],
            "keys": {f"ed25519:{public_key(key)}": public_key(key)},
        }
