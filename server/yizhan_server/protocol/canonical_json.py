"""Canonical JSON: the one encoding of a value that servers hash and sign.

orjson sorts keys by their UTF-8 bytes, which is the order of code points that the specification
asks for. What orjson does not do is refuse what canonical JSON forbids: it encodes floats, and it
silently reads an integer beyond 64 bits as a float. `check_strict` is that missing half, and room
versions 6 and later demand it.

Rooms of versions 1 to 5 may hold floats and integers of any size. Their hashes depend on how
Python's own json module spells those, because that is what the first server used; hence
`encode_lenient` and `parse_exactly`.

Spec: appendices, "Canonical JSON".
"""

import json
import re
from typing import Any, NoReturn, TypeAlias

import orjson

from yizhan_server.protocol.errors import BadJson, NotJson

JsonValue: TypeAlias = Any
JsonObject: TypeAlias = dict[str, Any]

MAX_INTEGER = 2**53 - 1
# orjson encodes 254 levels and no more; a value that we accept must be one that we can encode,
# also after it was put a few levels deeper into a response.
MAX_NESTING = 200

# datetime and dataclass objects are mistakes here, not JSON.
_CANONICAL = (
    orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)

_LONG_NUMBER = re.compile(rb"[0-9]{19}")
"""Perhaps an integer beyond 64 bits, which orjson would read as a float."""


class NotCanonical(BadJson):
    """The value has no canonical encoding: a float, an integer out of range, too deep, ..."""


def encode_canonical(value: JsonValue) -> bytes:
    """Return the canonical encoding of `value`, in bytes of exactly that size.

    Raises NotCanonical for what cannot be JSON; does not look for floats (`check_strict` does).
    """
    # Bytes made by orjson keep a buffer of some 4 KB; whoever caches a thousand of them would pay.
    return memoryview(encode_transient(value)).tobytes()


def encode_transient(value: JsonValue) -> bytes:
    """Return the canonical encoding for use at once (hash, sign, measure), not to be kept."""
    try:
        return orjson.dumps(value, option=_CANONICAL)
    except orjson.JSONEncodeError as error:
        raise NotCanonical(f"not canonical JSON: {error}") from None


def encode_lenient(value: JsonValue) -> bytes:
    """Return the encoding that rooms of versions 1 to 5 hash: floats and huge integers kept."""
    try:
        return json.dumps(
            value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
        ).encode()
    except (TypeError, ValueError, RecursionError):
        raise NotCanonical("not JSON") from None


def check_strict(value: JsonValue) -> None:
    """Raise NotCanonical unless every part of `value` is allowed in canonical JSON.

    Allowed: null, booleans, integers within +-(2^53-1), strings of Unicode scalar values, lists,
    and dicts with string keys, nested at most MAX_NESTING deep.
    """
    level = [value]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise NotCanonical(f"JSON nested deeper than {MAX_NESTING} levels")
        below: list[JsonValue] = []
        for part in level:
            kind = type(part)
            if kind is str:
                if not part.isascii():
                    _check_scalar_values(part)
            elif kind is dict:
                for key in part:
                    if type(key) is not str:
                        raise NotCanonical("a key that is not a string")
                    if not key.isascii():
                        _check_scalar_values(key)
                below.extend(part.values())
            elif kind is list:
                below.extend(part)
            elif part is not None and kind is not bool:
                _check_integer(part)
        level = below


def check_nesting(value: JsonValue) -> None:
    """Raise NotCanonical for what could be stored, but not be served a few levels deeper."""
    level = [value]
    for _ in range(MAX_NESTING):
        below: list[JsonValue] = []
        for part in level:
            if isinstance(part, dict):
                below.extend(part.values())
            elif isinstance(part, list):
                below.extend(part)
        if not below:
            return
        level = below
    raise NotCanonical(f"JSON nested deeper than {MAX_NESTING} levels")


def holds_nul(value: JsonValue) -> bool:
    """Tell whether a string anywhere in `value` holds NUL, which no column of text can store."""
    level = [value]
    while level:
        below: list[JsonValue] = []
        for part in level:
            if isinstance(part, str):
                if "\0" in part:
                    return True
            elif isinstance(part, dict):
                below.extend(part)
                below.extend(part.values())
            elif isinstance(part, list):
                below.extend(part)
        level = below
    return False


def parse_json(data: bytes | str, *, strict: bool = False) -> JsonValue:
    """Return the value that `data` (UTF-8) spells; with `strict` only if it is canonical JSON.

    Raises NotJson, or with `strict` NotCanonical. Without `strict`, integers beyond 64 bits arrive
    as floats.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise NotJson from None
    if strict:
        check_strict(value)
    return value


def parse_exactly(data: bytes | str) -> JsonValue:
    """Return the value that `data` spells, with integers of any size, for rooms of version 1 to 5.

    Raises NotJson. About ten times slower than `parse_json`.
    """
    try:
        # Decoded here, because json.loads would guess UTF-16 and skip a byte order mark.
        text = data if isinstance(data, str) else data.decode()
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise NotJson from None
    try:
        encode_lenient(value)  # refuses lone surrogates, which json.loads lets through
    except NotCanonical:
        raise NotJson from None
    return value


def encode_any(value: JsonValue) -> bytes:
    """Return JSON of `value`, whose integers may be of any size."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # What json cannot encode either is no JSON, and raises the same error.
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def parse_any(data: bytes) -> JsonValue:
    """Return the value that JSON of `encode_any` spells."""
    return json.loads(data) if _LONG_NUMBER.search(data) else orjson.loads(data)


def parse_roughly(data: bytes) -> JsonValue:
    """Return the value that JSON of `encode_any` spells, with floats for what exceeds 64 bits.

    For those who look inside of an event, and may hand on what they find: whatever this returns
    orjson can encode. A number beyond all floats comes to be null then.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data, parse_int=_nearest)


def _nearest(digits: str) -> int | float:
    number = float(digits)
    return int(digits) if -(2**63) <= number < 2**63 else number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _check_integer(value: JsonValue) -> None:
    if type(value) is not int:
        raise NotCanonical(f"a value of type {type(value).__name__}")
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise NotCanonical("an integer beyond 2^53-1")


def _check_scalar_values(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotCanonical("a string with a lone surrogate") from None
