"""What may come from a client as part of a key: names, JSON, public keys, signatures."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

from yizhan_server.protocol.canonical_json import check_strict, encode_canonical
from yizhan_server.protocol.errors import BadJson, InvalidParam, TooLarge

JsonObject = dict[str, Any]

MAX_NAME_BYTES = 255
PUBLIC_KEY_BYTES = 32


def is_name(value: object) -> bool:
    """Tell whether `value` is a text that can be a key of the database: short, no NUL."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        return len(value.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def check_name(value: object, what: str) -> str:
    """Return `value`, or answer M_INVALID_PARAM unless `is_name`."""
    if not isinstance(value, str) or not is_name(value):
        raise InvalidParam(f"{what} must be a text of 1 to {MAX_NAME_BYTES} bytes without NUL")
    return value


def check_object(value: object, what: str) -> JsonObject:
    """Return `value`, or answer M_BAD_JSON unless it is an object."""
    if not isinstance(value, dict):
        raise BadJson(f"{what} must be an object")
    return value


def encode_key(value: JsonObject | str, what: str, max_bytes: int) -> bytes:
    """Return canonical JSON, or answer M_BAD_JSON or M_TOO_LARGE."""
    check_strict(value)
    encoded = encode_canonical(value)
    if len(encoded) > max_bytes:
        raise TooLarge(f"{what} is longer than {max_bytes} bytes")
    return encoded


def is_public_key(value: object) -> bool:
    """Tell whether `value` is an Ed25519 or Curve25519 public key in unpadded base64."""
    if not isinstance(value, str) or len(value) != 43:
        return False
    try:
        return len(b64decode(value + "=", validate=True)) == PUBLIC_KEY_BYTES
    except (binascii.Error, ValueError):
        return False
