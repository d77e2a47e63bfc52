r"""Canonical bytes of what is kept for ever: `"yizhan/<kind>/v1\n" || JCS(object)`.

JCS is RFC 8785. The objects here have ASCII keys, strings in NFC, no floats and integers
within ±(2^53 - 1), and nothing else: for these the canonical form is Python's compact JSON
with sorted keys, which is why no dependency is needed. The context line keeps a hash or
signature of one kind from ever being taken for one of another.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence

MAX_INTEGER = 2**53 - 1


def canonical_bytes(kind: str, value: Mapping[str, object]) -> bytes:
    """Return the canonical bytes. ValueError for what has no canonical form."""
    _check(value)
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"yizhan/{kind}/v1\n{text}".encode()


def digest(canonical: bytes) -> str:
    """Return `sha256:` and the hexadecimal hash of canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def split_canonical(canonical: bytes) -> tuple[str, bytes]:
    """Return the kind and the JSON of canonical bytes. ValueError when they are not ours."""
    context, newline, text = canonical.partition(b"\n")
    parts = context.decode("ascii").split("/")
    if not newline or len(parts) != 3 or parts[0] != "yizhan" or parts[2] != "v1":
        raise ValueError("not canonical bytes of this project")
    return parts[1], text


def _check(value: object) -> None:
    match value:
        case bool() | None:
            return
        case str():
            # Two spellings of one text would have two hashes.
            if not unicodedata.is_normalized("NFC", value):
                raise ValueError("a string is not in Unicode normal form C")
            value.encode()
        case int():
            if abs(value) > MAX_INTEGER:
                raise ValueError("an integer does not fit into 53 bits")
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str) or not key.isascii():
                    raise ValueError("a key is not an ASCII string")
                _check(item)
        case Sequence() if not isinstance(value, (bytes, bytearray)):
            for item in value:
                _check(item)
        case _:
            raise ValueError(f"{type(value).__name__} has no canonical form")
