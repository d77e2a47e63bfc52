"""Content hashes, reference hashes and event IDs.

The content hash covers the whole event; the signature and the reference hash cover what redaction
leaves of it, the content hash included. Signature and reference hash are over the *same* bytes
(`essential_bytes`), so who needs both encodes once.

Spec: server-server API, "Signing Events"; room versions, "Event IDs".
"""

from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from binascii import b2a_base64
from hashlib import sha256

from yizhan_server.protocol.canonical_json import JsonObject, encode_lenient, encode_transient
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.redaction import redact
from yizhan_server.protocol.room_version import EventIdFormat, RoomVersion

_NOT_CONTENT_HASHED = frozenset(("unsigned", "signatures", "hashes"))


def content_hash(raw: JsonObject, version: RoomVersion) -> str:
    """Return the hash that belongs into `hashes.sha256` of this event, in unpadded base64."""
    return unpadded_base64(_content_digest(raw, version))


def has_right_content_hash(raw: JsonObject, version: RoomVersion) -> bool:
    """Tell whether the event's own `hashes.sha256` is true; if not, it was redacted or altered."""
    hashes = raw.get("hashes")
    claimed = hashes.get("sha256") if isinstance(hashes, dict) else None
    if not isinstance(claimed, str):
        return False
    try:
        return decode_base64(claimed) == _content_digest(raw, version)
    except ValueError:
        return False


def essential_bytes(raw: JsonObject, version: RoomVersion) -> bytes:
    """Return the bytes that are signed and that make the reference hash."""
    essence = redact(raw, version)
    essence.pop("signatures", None)
    return encode_for_hash(essence, version)


def reference_hash(raw: JsonObject, version: RoomVersion) -> bytes:
    """Return the SHA-256 over what is essential in the event."""
    return sha256(essential_bytes(raw, version)).digest()


def event_id_of(raw: JsonObject, version: RoomVersion) -> EventID:
    """Return the event's ID: its field in versions 1 and 2, from its reference hash later.

    Raises KeyError if a version 1 or 2 event has no `event_id`.
    """
    if version.event_id_format is EventIdFormat.FIELD:
        return EventID(raw["event_id"])
    return event_id_from_hash(reference_hash(raw, version), version)


def event_id_from_hash(digest: bytes, version: RoomVersion) -> EventID:
    """Return the event ID that a reference hash makes in this version (3 or later)."""
    if version.event_id_format is EventIdFormat.HASH:
        return EventID("$" + unpadded_base64(digest))
    return EventID("$" + urlsafe_b64encode(digest).rstrip(b"=").decode())


def encode_for_hash(value: JsonObject, version: RoomVersion) -> bytes:
    """Return the encoding that this room version hashes, not to be kept (see canonical_json)."""
    return encode_transient(value) if version.strict_canonical_json else encode_lenient(value)


def unpadded_base64(data: bytes) -> str:
    """Return `data` in standard base64 without padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").decode()


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 in either alphabet, padded or not. Raises ValueError."""
    try:
        unpadded = text.rstrip("=").translate(_TO_STANDARD_ALPHABET).encode("ascii")
        return b64decode(unpadded + b"=" * (-len(unpadded) % 4), validate=True)
    except (UnicodeEncodeError, Base64Error):
        raise ValueError("not base64") from None


def _content_digest(raw: JsonObject, version: RoomVersion) -> bytes:
    hashed = {key: value for key, value in raw.items() if key not in _NOT_CONTENT_HASHED}
    return sha256(encode_for_hash(hashed, version)).digest()


_TO_STANDARD_ALPHABET = str.maketrans("-_", "+/")
