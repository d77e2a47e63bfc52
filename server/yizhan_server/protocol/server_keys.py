"""The signing keys that a server publishes: its own answer, and what others' answers say.

Pure. A `verify key` signs requests and events; an old one has signed events until it expired and
signs nothing any more. What a server publishes is signed by its own keys, so that a notary can
hand it on.

Spec: server-server API, "Retrieving server keys"; room version 5, "Signing key validity period".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from yizhan_server.protocol.canonical_json import (
    MAX_INTEGER,
    JsonObject,
    NotCanonical,
    check_strict,
)
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.signing import (
    InvalidKey,
    InvalidSignature,
    SigningKey,
    VerifyKey,
    sign_json,
    verify_signed_json,
)

LONGEST_VALIDITY_MS: Final = 7 * 24 * 3600 * 1000
"""However long a server says that its keys are valid, they are not believed for longer."""

PUBLISHED_FOR_MS: Final = 24 * 3600 * 1000
"""For how long ours may be relied upon: so long a stolen key keeps working elsewhere."""

MAX_KEYS: Final = 50
"""Of each kind in one answer. Servers in use have one or two, and a handful of old ones."""

_KEY_ID = re.compile(r"ed25519:[!-~]{1,247}", re.ASCII)


class InvalidServerKeys(ValueError):
    """The answer is not what a server publishes, or is not signed by the keys in it."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """One key of a server."""

    key: VerifyKey
    valid_until_ms: int
    """An event of a later time is not signed by it."""
    is_old: bool
    """It signs no requests."""

    def signs_requests_at(self, now_ms: int) -> bool:
        """Tell whether a request that arrives now may be signed by it."""
        return not self.is_old and now_ms <= self.valid_until_ms


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key that this server has used; only its public half is left."""

    key: VerifyKey
    expired_ms: int

    @classmethod
    def parse(cls, line: str) -> OldKey:
        """Return the key of a line `ed25519:VERSION PUBLIC_KEY EXPIRED_MS`. Raises InvalidKey."""
        words = line.split()
        if len(words) != 3 or re.fullmatch("[0-9]{1,15}", words[2], re.ASCII) is None:
            raise InvalidKey("an old key is written as: ed25519:VERSION PUBLIC_KEY EXPIRED_MS")
        return cls(VerifyKey.from_base64(words[0], words[1]), int(words[2]))

    def serialize(self) -> str:
        """Return the line that `parse` reads."""
        return f"{self.key.key_id} {self.key.to_base64()} {self.expired_ms}"


class OwnKeys:
    """The keys of this server."""

    def __init__(
        self, server_name: ServerName, signing_key: SigningKey, old_keys: Iterable[OldKey] = ()
    ) -> None:
        self.server_name = server_name
        self.signing_key = signing_key
        # While a rotation is not complete, the key in use is in both files.
        self._old = {
            old.key.key_id: old for old in old_keys if old.key.key_id != signing_key.key_id
        }

    def publish(self, now_ms: int) -> JsonObject:
        """Return what `/_matrix/key/v2/server` answers."""
        answer: JsonObject = {
            "server_name": self.server_name,
            "verify_keys": {
                self.signing_key.key_id: {"key": self.signing_key.verify_key.to_base64()}
            },
            "old_verify_keys": {
                key_id: {"key": old.key.to_base64(), "expired_ts": old.expired_ms}
                for key_id, old in self._old.items()
            },
            "valid_until_ts": now_ms + PUBLISHED_FOR_MS,
        }
        return self.sign(answer)

    def sign(self, obj: JsonObject) -> JsonObject:
        """Return a copy of `obj` with this server's signature added."""
        return sign_json(obj, self.server_name, self.signing_key)

    def as_known(self, now_ms: int) -> dict[str, ServerKey]:
        """Return the keys in the form in which those of other servers are kept."""
        keys = {
            key_id: ServerKey(old.key, old.expired_ms, is_old=True)
            for key_id, old in self._old.items()
        }
        key = self.signing_key.verify_key
        keys[key.key_id] = ServerKey(key, now_ms + LONGEST_VALIDITY_MS, is_old=False)
        return keys


def check_server_keys(
    answer: object, server: ServerName, fetched_ms: int
) -> tuple[dict[str, ServerKey], int]:
    """Return the keys by ID that `server` published, and until when the answer can be relied on.

    Raises InvalidServerKeys unless the answer is of that server, well formed, and signed by at
    least one of the keys that it says are in use. Keys of other algorithms are left out.
    """
    if not isinstance(answer, dict) or answer.get("server_name") != server:
        raise InvalidServerKeys("not the keys of that server")
    try:
        check_strict(answer)
    except NotCanonical as error:
        raise InvalidServerKeys(str(error)) from None
    valid_until_ms = _time(answer.get("valid_until_ts"), "valid_until_ts")
    valid_until_ms = min(valid_until_ms, fetched_ms + LONGEST_VALIDITY_MS)
    in_use = {
        key_id: ServerKey(key, valid_until_ms, is_old=False)
        for key_id, (key, _) in _keys(answer.get("verify_keys")).items()
    }
    old = {
        key_id: ServerKey(
            key, min(_time(fields.get("expired_ts"), "expired_ts"), fetched_ms), is_old=True
        )
        for key_id, (key, fields) in _keys(answer.get("old_verify_keys", {})).items()
        if key_id not in in_use
    }
    try:
        verify_signed_json(answer, server, {key_id: each.key for key_id, each in in_use.items()})
    except InvalidSignature as error:
        raise InvalidServerKeys(str(error)) from None
    return old | in_use, valid_until_ms


def usable_keys(
    keys: Mapping[str, ServerKey], key_ids: Iterable[str], valid_at_ms: int | None
) -> dict[str, VerifyKey]:
    """Return those of `key_ids` whose signatures of an event count.

    `valid_at_ms` is the event's time, or None in rooms whose version does not ask for it.
    """
    found = {}
    for key_id in key_ids:
        known = keys.get(key_id)
        if known is not None and (valid_at_ms is None or valid_at_ms <= known.valid_until_ms):
            found[key_id] = known.key
    return found


def _keys(section: object) -> dict[str, tuple[VerifyKey, JsonObject]]:
    if not isinstance(section, dict) or len(section) > MAX_KEYS:
        raise InvalidServerKeys(f"keys are an object of at most {MAX_KEYS}")
    found = {}
    for key_id, fields in section.items():
        if _KEY_ID.fullmatch(key_id) is None:
            continue
        text = fields.get("key") if isinstance(fields, dict) else None
        if not isinstance(text, str):
            raise InvalidServerKeys(f"{key_id} has no key")
        try:
            found[key_id] = (VerifyKey.from_base64(key_id, text), fields)
        except InvalidKey as error:
            raise InvalidServerKeys(str(error)) from None
    return found


def _time(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise InvalidServerKeys(f"{name} is a time in milliseconds")
    return value
