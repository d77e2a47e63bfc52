"""Signatures within key objects: which of them are right, and which the server keeps.

Only signatures that were found right are stored (but for that of a device on its own keys), so that
nobody can make the server hand out bytes under another one's name, and a key object cannot grow
without end.

Spec: appendices, "Signing JSON"; client-server API, "Cross-signing".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from yizhan_server.protocol.canonical_json import encode_canonical, encode_transient
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.hashes import decode_base64
from yizhan_server.protocol.signing import InvalidKey, InvalidSignature, VerifyKey

if TYPE_CHECKING:
    from collections.abc import Mapping

JsonObject = dict[str, Any]

_NOT_SIGNED = frozenset(("signatures", "unsigned"))


class WrongSignature(MatrixError):
    """A signature is missing, wrong, or of something else."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "M_INVALID_SIGNATURE", message)


def signed_part(key: JsonObject) -> JsonObject:
    """Return what signatures of a key object cover."""
    return {name: value for name, value in key.items() if name not in _NOT_SIGNED}


def claimed_signatures(key: JsonObject, user_id: str) -> JsonObject:
    """Return what `key` presents as signatures of a user's keys: key id -> signature."""
    signatures = key.get("signatures")
    own = signatures.get(user_id) if isinstance(signatures, dict) else None
    return own if isinstance(own, dict) else {}


def is_signed(key: JsonObject, user_id: str, public_key: str, key_id: str) -> bool:
    """Tell whether `key` carries a right signature of the user's key `ed25519:KEY_ID`."""
    signature = claimed_signatures(key, user_id).get(f"ed25519:{key_id}")
    if not isinstance(signature, str):
        return False
    try:
        signer = VerifyKey.from_base64(f"ed25519:{key_id}", public_key)
        signer.check(decode_base64(signature), encode_transient(signed_part(key)))
    except (InvalidKey, InvalidSignature, ValueError):
        return False
    return True


def right_signatures(
    key: JsonObject, user_id: str, public_keys: Mapping[str, str]
) -> dict[str, str]:
    """Return those signatures of `key` that are right and by one of the user's keys.

    `public_keys` maps what follows `ed25519:` in a key id to the key.
    """
    claimed = claimed_signatures(key, user_id)
    return {
        f"ed25519:{key_id}": claimed[f"ed25519:{key_id}"]
        for key_id, public_key in public_keys.items()
        if is_signed(key, user_id, public_key, key_id)
    }


def encode_signed(body: JsonObject, user_id: str, signatures: Mapping[str, str]) -> bytes:
    """Return the canonical JSON of `body` with exactly these signatures of the user's keys."""
    if not signatures:
        return encode_canonical(body)
    return encode_canonical({**body, "signatures": {user_id: dict(signatures)}})


def load_key(stored: bytes) -> JsonObject:
    """Return a stored key object."""
    key: JsonObject = orjson.loads(stored)
    return key


def device_signing_key(key: JsonObject, device_id: str) -> str | None:
    """Return the Ed25519 key in a device's identity keys."""
    public_key = key["keys"].get(f"ed25519:{device_id}")
    return public_key if isinstance(public_key, str) else None


def cross_signing_public_key(key: JsonObject) -> str:
    """Return the public key of a stored cross-signing key, which holds exactly one."""
    public_key: str = next(iter(key["keys"].values()))
    return public_key
