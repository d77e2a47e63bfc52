"""Ed25519 signatures of JSON objects and of events.

Pure: the keys are arguments, the key ring and the validity of keys in time are the caller's.
All functions may run in worker threads; PyNaCl releases the GIL.

Spec: appendices, "Signing JSON"; server-server API, "Signing Events".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice, product

from nacl.bindings import crypto_sign, crypto_sign_BYTES, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError
from nacl.utils import random as random_bytes

from yizhan_server.protocol.canonical_json import JsonObject, NotCanonical, encode_transient
from yizhan_server.protocol.hashes import (
    content_hash,
    decode_base64,
    essential_bytes,
    has_right_content_hash,
    unpadded_base64,
)
from yizhan_server.protocol.identifiers import ServerName, server_name_of
from yizhan_server.protocol.redaction import redact_content
from yizhan_server.protocol.room_version import EventIdFormat, RoomVersion

_SEED_BYTES = 32
_PUBLIC_KEY_BYTES = 32
_KEY_VERSION = re.compile(r"[a-zA-Z0-9_]+")
MAX_TRIALS = 1000
"""Pairs of a signature and a key, of which it is not said that they belong together."""
_NOT_SIGNED = frozenset(("signatures", "unsigned"))


class InvalidSignature(ValueError):
    """A signature is missing, made by an unknown key, malformed or wrong."""


class NoKeys(InvalidSignature):
    """No key of the server is known that has to have signed it: nothing can be said for now."""


class InvalidKey(ValueError):
    """The text is not an Ed25519 key."""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """The public half of a key: `key_id` is `ed25519:VERSION`, `public_key` has 32 bytes."""

    key_id: str
    public_key: bytes

    @classmethod
    def from_base64(cls, key_id: str, text: str) -> "VerifyKey":
        """Return the key that other servers publish as `text`. Raises InvalidKey."""
        try:
            public_key = decode_base64(text)
        except ValueError:
            raise InvalidKey("a verify key is base64") from None
        if len(public_key) != _PUBLIC_KEY_BYTES or not key_id.startswith("ed25519:"):
            raise InvalidKey("an Ed25519 verify key has 32 bytes and an ed25519: identifier")
        return cls(key_id, public_key)

    def to_base64(self) -> str:
        """Return the form in which the key is published."""
        return unpadded_base64(self.public_key)

    def check(self, signature: bytes, signed: bytes) -> None:
        """Raise InvalidSignature unless `signature` is this key's over the bytes `signed`."""
        if len(signature) != crypto_sign_BYTES:
            raise InvalidSignature("an Ed25519 signature has 64 bytes")
        try:
            crypto_sign_open(signature + signed, self.public_key)
        except BadSignatureError:
            raise InvalidSignature(f"the signature of {self.key_id} is wrong") from None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A server's signing key. Its secret halves never appear in a repr."""

    key_id: str
    seed: bytes = field(repr=False)
    verify_key: VerifyKey = field(init=False, compare=False)
    _secret: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        algorithm, _, version = self.key_id.partition(":")
        if algorithm != "ed25519" or _KEY_VERSION.fullmatch(version) is None:
            raise InvalidKey("a signing key's identifier is ed25519: and letters, digits, _")
        if len(self.seed) != _SEED_BYTES:
            raise InvalidKey("an Ed25519 seed has 32 bytes")
        public_key, secret = crypto_sign_seed_keypair(self.seed)
        object.__setattr__(self, "verify_key", VerifyKey(self.key_id, public_key))
        object.__setattr__(self, "_secret", secret)

    @classmethod
    def generate(cls, version: str) -> "SigningKey":
        """Return a new key named `ed25519:VERSION`, from the system's random source."""
        return cls(f"ed25519:{version}", random_bytes(_SEED_BYTES))

    @classmethod
    def parse(cls, line: str) -> "SigningKey":
        """Return the key of a line `ed25519 VERSION SEED`, the format of Synapse's key file.

        Raises InvalidKey, whose text never holds the seed.
        """
        words = line.split()
        if len(words) != 3 or words[0] != "ed25519":
            raise InvalidKey("a signing key is written as: ed25519 VERSION SEED")
        try:
            seed = decode_base64(words[2])
        except ValueError:
            raise InvalidKey("the seed of a signing key is base64") from None
        return cls(f"ed25519:{words[1]}", seed)

    def serialize(self) -> str:
        """Return the line that `parse` reads (secret)."""
        return f"ed25519 {self.key_id.partition(':')[2]} {unpadded_base64(self.seed)}"

    def sign(self, data: bytes) -> str:
        """Return the signature over `data` in unpadded base64."""
        return unpadded_base64(crypto_sign(data, self._secret)[:crypto_sign_BYTES])


def sign_json(obj: JsonObject, name: str, key: SigningKey) -> JsonObject:
    """Return a copy of `obj` signed for the entity `name`; earlier signatures and unsigned stay."""
    signed = {k: v for k, v in obj.items() if k not in _NOT_SIGNED}
    return _with_signature(obj, name, key, key.sign(encode_transient(signed)))


def verify_signed_json(obj: JsonObject, name: str, keys: Mapping[str, VerifyKey]) -> None:
    """Raise InvalidSignature unless `name` signed `obj` with a key in `keys` (by key ID).

    Signatures by keys that are not in `keys` are skipped; every one that is must be right.
    """
    signed = {k: v for k, v in obj.items() if k not in _NOT_SIGNED}
    try:
        encoded = encode_transient(signed)
    except NotCanonical:
        raise InvalidSignature("nobody can have signed what is not canonical JSON") from None
    check_signatures(obj, name, keys, encoded)


def sign_event(
    raw: JsonObject, version: RoomVersion, server_name: ServerName, key: SigningKey
) -> JsonObject:
    """Return a copy of an event that has its content hash, with this server's signature added."""
    return _with_signature(raw, server_name, key, key.sign(essential_bytes(raw, version)))


def hash_and_sign_event(
    raw: JsonObject, version: RoomVersion, server_name: ServerName, key: SigningKey
) -> JsonObject:
    """Return a copy of `raw` with content hash and signature, as the sender's server makes it."""
    hashed = {**raw, "hashes": {"sha256": content_hash(raw, version)}}
    return sign_event(hashed, version, server_name, key)


def check_event_signature(
    raw: JsonObject,
    version: RoomVersion,
    server_name: ServerName,
    keys: Mapping[str, VerifyKey],
) -> None:
    """Raise InvalidSignature unless `server_name` signed this event with a key in `keys`.

    The caller leaves out keys that were not valid at the event's time. To check several servers'
    signatures of one event, encode once with `hashes.essential_bytes` and use `check_signatures`.
    """
    check_signatures(raw, server_name, keys, essential_bytes(raw, version))


def check_signatures(
    obj: JsonObject, name: str, keys: Mapping[str, VerifyKey], signed: bytes
) -> None:
    """Raise InvalidSignature unless the signatures of `name` in `obj` are right over `signed`."""
    known = [
        (keys[key_id], signature)
        for key_id, signature in _signatures_of(obj, name)
        if key_id in keys
    ]
    if not known:
        raise InvalidSignature(f"no signature of {name} by a known key")
    for key, signature in known:
        key.check(_decode_signature(signature), signed)


def has_signature_by(raw: JsonObject, name: str) -> bool:
    """Tell whether `raw` carries something that claims to be an Ed25519 signature of `name`."""
    return any(True for _ in _signatures_of(raw, name))


def is_signed_by_any(obj: JsonObject, public_keys: Iterable[str]) -> bool:
    """Tell whether any signature in `obj`, of whatever entity, is by one of the keys (base64).

    At most MAX_TRIALS are tried: an event has room for hundreds of either, which would take a
    minute.
    """
    try:
        signed = encode_transient({k: v for k, v in obj.items() if k not in _NOT_SIGNED})
    except NotCanonical:
        return False
    signatures = obj.get("signatures")
    given = [
        signature
        for name in (signatures if isinstance(signatures, dict) else ())
        for _, signature in _signatures_of(obj, name)
    ]
    # Each once: were many the same, the first of the others would not be tried.
    trials = product(dict.fromkeys(given), dict.fromkeys(public_keys))
    return any(_is_by(key, signature, signed) for signature, key in islice(trials, MAX_TRIALS))


def _is_by(public_key: str, signature: str, signed: bytes) -> bool:
    try:
        key = VerifyKey.from_base64("ed25519:any", public_key)
        key.check(_decode_signature(signature), signed)
    except (InvalidKey, InvalidSignature):
        return False
    return True


def required_signers(raw: JsonObject, version: RoomVersion) -> frozenset[ServerName]:
    """Return the servers whose signatures a well-formed event must carry to be processed.

    The sender's server; not for a third-party invite, which another server may send. In versions
    1 and 2 also the server in the event's ID, and the server that authorised a restricted join.
    """
    content = raw["content"]
    is_member = raw["type"] == "m.room.member"
    is_third_party_invite = is_member and _is_third_party_invite(raw, version)
    names = [] if is_third_party_invite else [server_name_of(raw["sender"])]
    if version.event_id_format is EventIdFormat.FIELD:
        names.append(server_name_of(raw["event_id"]))
    if version.restricted_joins and is_member:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):
            names.append(server_name_of(authoriser))
    return frozenset(name for name in names if name is not None)


def _is_third_party_invite(raw: JsonObject, version: RoomVersion) -> bool:
    """Tell whether this is one also after its content hash has been checked.

    Without the right hash it is redacted. What is left may be a plain invitation, in the name of
    whomever it says.
    """
    content = raw["content"]
    if content.get("membership") != "invite" or "third_party_invite" not in content:
        return False
    if has_right_content_hash(raw, version):
        return True
    return "third_party_invite" in redact_content(raw["type"], content, version)


def _with_signature(obj: JsonObject, name: str, key: SigningKey, signature: str) -> JsonObject:
    signatures = obj.get("signatures") or {}
    own = {**signatures.get(name, {}), key.key_id: signature}
    return {**obj, "signatures": {**signatures, name: own}}


def _signatures_of(obj: JsonObject, name: str) -> Iterable[tuple[str, str]]:
    signatures = obj.get("signatures")
    own = signatures.get(name) if isinstance(signatures, dict) else None
    if not isinstance(own, dict):
        return ()
    return [
        (key_id, signature)
        for key_id, signature in own.items()
        if key_id.startswith("ed25519:") and isinstance(signature, str)
    ]


def _decode_signature(text: str) -> bytes:
    try:
        return decode_base64(text)
    except ValueError:
        raise InvalidSignature("a signature is base64") from None
