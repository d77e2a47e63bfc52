"""Events in the form in which servers exchange them (PDUs): reading, checking the format, making.

A `Pdu` says nothing about being signed, authorised or accepted. `parse_pdu` checks the format
only: signatures are `signing`, content hashes `hashes`, permission `auth_rules`.

Spec: room versions, "Event format"; client-server API, "Size limits".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from yizhan_server.protocol.canonical_json import (
    MAX_INTEGER,
    JsonObject,
    JsonValue,
    NotCanonical,
    check_nesting,
    check_strict,
)
from yizhan_server.protocol.errors import TooLarge
from yizhan_server.protocol.hashes import (
    encode_for_hash,
    event_id_from_hash,
    event_id_of,
    has_right_content_hash,
    unpadded_base64,
)
from yizhan_server.protocol.identifiers import (
    EventID,
    InvalidIdentifier,
    RoomID,
    ServerName,
    UserID,
    parse_event_id,
    parse_room_id,
    parse_user_id,
    server_name_of,
)
from yizhan_server.protocol.redaction import redact
from yizhan_server.protocol.room_version import EventIdFormat, RoomVersion
from yizhan_server.protocol.signing import SigningKey

MAX_PDU_BYTES = 65_536
MAX_FIELD_BYTES = 255
MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10
MAX_DEPTH_BEFORE_STRICT_JSON = 2**63 - 1

# What `hashes` and `signatures` add to the bytes that are content-hashed, generously: below this
# distance from the limit an event is measured, above it it need not be.
_MARGIN = 1024


class InvalidPdu(ValueError):
    """The event does not have the format of its room version; a receiver drops it."""


@dataclass(frozen=True, slots=True)
class Pdu:
    """An event as federated. Its parts, `raw` included, are shared and must not be changed."""

    event_id: EventID
    room_id: RoomID
    type: str
    sender: UserID
    state_key: str | None
    content: JsonObject = field(repr=False)
    origin_server_ts: int
    depth: int
    prev_events: tuple[EventID, ...]
    auth_events: tuple[EventID, ...]
    redacts: EventID | None
    # The complete event without `unsigned`; a version 12 create event has no room_id here.
    raw: JsonObject = field(repr=False, compare=False)

    @property
    def is_state(self) -> bool:
        """Tell whether this is a state event."""
        return self.state_key is not None

    @property
    def key(self) -> tuple[str, str]:
        """Return (type, state_key) of a state event. Raises ValueError for others."""
        if self.state_key is None:
            raise ValueError("not a state event")
        return self.type, self.state_key

    @property
    def membership(self) -> str | None:
        """Return `content.membership` if it is a string."""
        value = self.content.get("membership")
        return value if isinstance(value, str) else None


def parse_pdu(raw: JsonValue, version: RoomVersion) -> Pdu:
    """Return the event that another server (or our own database, long ago) spells.

    Raises InvalidPdu where types, sizes or identifiers are not those of the room version. The
    event ID, and in version 12 a create event's room ID, are computed from the reference hash.
    """
    if not isinstance(raw, dict):
        raise InvalidPdu("an event is a JSON object")
    if "unsigned" in raw:
        raw = {key: value for key, value in raw.items() if key != "unsigned"}
    try:
        if version.strict_canonical_json:
            check_strict(raw)
        else:
            check_nesting(raw)
        if len(encode_for_hash(raw, version)) > MAX_PDU_BYTES:
            raise InvalidPdu("an event is not longer than 65536 bytes")
        _check_common_fields(raw, version)
        _check_references(raw, version)
        _check_hashes_and_signatures(raw)
        return trust_pdu(raw, version)
    except (NotCanonical, InvalidIdentifier) as error:
        raise InvalidPdu(str(error)) from None


def trust_pdu(raw: JsonObject, version: RoomVersion, event_id: EventID | None = None) -> Pdu:
    """Return the event of a `raw` that `parse_pdu` or `build_pdu` made before, unchecked.

    `event_id` spares the hash where it is already known.
    """
    if event_id is None:
        event_id = event_id_of(raw, version)
    event_type = raw["type"]
    if version.room_id_is_create_hash and event_type == "m.room.create":
        room_id = RoomID("!" + event_id[1:])
    else:
        room_id = raw["room_id"]
    prev_events, auth_events = raw["prev_events"], raw["auth_events"]
    if version.references_carry_hashes:
        prev_events = [reference[0] for reference in prev_events]
        auth_events = [reference[0] for reference in auth_events]
    content = raw["content"]
    return Pdu(
        event_id,
        room_id,
        event_type,
        raw["sender"],
        raw.get("state_key"),
        content,
        raw["origin_server_ts"],
        raw["depth"],
        tuple(prev_events),
        tuple(auth_events),
        redacts_of(raw, version) if event_type == "m.room.redaction" else None,
        raw,
    )


def build_pdu(
    version: RoomVersion,
    *,
    type: str,  # noqa: A002 - the event's own word
    sender: UserID,
    state_key: str | None,
    content: JsonObject,
    room_id: RoomID | None,
    origin_server_ts: int,
    depth: int,
    prev_events: Sequence[EventID],
    auth_events: Sequence[EventID],
    server_name: ServerName,
    signing_key: SigningKey,
    redacts: EventID | None = None,
    event_id: EventID | None = None,
    reference_hashes: Mapping[EventID, bytes] | None = None,
) -> Pdu:
    """Return a new event of ours, hashed and signed.

    `room_id` is None exactly for the create event of a room whose ID is that event's hash.
    Versions 1 and 2 also need the `event_id` to give, and the `reference_hashes` of all events
    that it refers to. `content` becomes part of the event and must not be changed afterwards.

    Raises TooLarge, NotCanonical (content), InvalidPdu (a type, state key or reference that no
    room version allows).
    """
    # As a part of the event: who receives it counts that level, too.
    if version.strict_canonical_json:
        check_strict([content])
    else:
        check_nesting([content])
    raw: JsonObject = {
        "type": type,
        "sender": sender,
        "content": content,
        "origin_server_ts": origin_server_ts,
        "depth": min(depth, _max_depth(version)),
    }
    if (room_id is None) != (version.room_id_is_create_hash and type == "m.room.create"):
        raise InvalidPdu("exactly a create event whose hash is the room ID has no room_id")
    if room_id is not None:
        raw["room_id"] = room_id
    if state_key is not None:
        raw["state_key"] = state_key
    _check_length(raw, "type")
    _check_length(raw, "state_key")
    if len(prev_events) > MAX_PREV_EVENTS or len(auth_events) > MAX_AUTH_EVENTS:
        raise InvalidPdu("too many prev_events or auth_events")
    if redacts is not None:
        if version.redacts_in_content:
            raw["content"] = {**content, "redacts": redacts}
        else:
            raw["redacts"] = redacts
    if version.references_carry_hashes:
        raw["prev_events"] = _with_hashes(prev_events, reference_hashes)
        raw["auth_events"] = _with_hashes(auth_events, reference_hashes)
    else:
        raw["prev_events"] = list(prev_events)
        raw["auth_events"] = list(auth_events)
    if version.event_id_format is EventIdFormat.FIELD:
        if event_id is None:
            raise InvalidPdu("an event of this room version is given its ID")
        raw["event_id"] = event_id

    # Two encodings in all: the whole event for the content hash, and what redaction leaves for
    # both the signature and the event ID.
    hashed = encode_for_hash(raw, version)
    raw["hashes"] = {"sha256": unpadded_base64(sha256(hashed).digest())}
    essential = encode_for_hash(redact(raw, version), version)
    raw["signatures"] = {server_name: {signing_key.key_id: signing_key.sign(essential)}}
    if len(hashed) > MAX_PDU_BYTES - _MARGIN and len(encode_for_hash(raw, version)) > MAX_PDU_BYTES:
        raise TooLarge("The event is larger than 65536 bytes.")
    if version.event_id_format is not EventIdFormat.FIELD:
        event_id = event_id_from_hash(sha256(essential).digest(), version)
    return trust_pdu(raw, version, event_id)


def redact_pdu(pdu: Pdu, version: RoomVersion) -> Pdu:
    """Return what redaction leaves of an event; event ID and signatures stay valid.

    Also what a receiver goes on with when the content hash is wrong.
    """
    return trust_pdu(redact(pdu.raw, version), version, pdu.event_id)


def with_content_hash_checked(pdu: Pdu, version: RoomVersion) -> Pdu:
    """Return the event itself if its content hash is right, else its redacted form."""
    return pdu if has_right_content_hash(pdu.raw, version) else redact_pdu(pdu, version)


def _check_common_fields(raw: JsonObject, version: RoomVersion) -> None:
    event_type = _get(raw, "type", str)
    _check_length(raw, "type")
    parse_user_id(_get(raw, "sender", str))
    _get(raw, "content", dict)
    if "state_key" in raw:
        _get(raw, "state_key", str)
        _check_length(raw, "state_key")
    if "\0" in event_type or "\0" in raw.get("state_key", ""):
        raise InvalidPdu("type or state_key hold a NUL character, which no column of text can")
    if not (version.room_id_is_create_hash and event_type == "m.room.create"):
        parse_room_id(_get(raw, "room_id", str))
    timestamp = _get(raw, "origin_server_ts", int)
    if not -MAX_DEPTH_BEFORE_STRICT_JSON <= timestamp <= MAX_DEPTH_BEFORE_STRICT_JSON:
        raise InvalidPdu("origin_server_ts is out of range")
    if not 0 <= _get(raw, "depth", int) <= _max_depth(version):
        raise InvalidPdu("depth is out of range")
    if version.event_id_format is EventIdFormat.FIELD:
        if server_name_of(parse_event_id(_get(raw, "event_id", str))) is None:
            # Nobody would have to have signed it, and it may be that of another room's event.
            raise InvalidPdu("event_id does not name its server")
    elif "event_id" in raw:
        # It would be covered by the event's own hash, and is not part of this format.
        raise InvalidPdu("events of this room version do not carry their ID")


def _check_references(raw: JsonObject, version: RoomVersion) -> None:
    for name, limit in (("prev_events", MAX_PREV_EVENTS), ("auth_events", MAX_AUTH_EVENTS)):
        references = _get(raw, name, list)
        if len(references) > limit:
            raise InvalidPdu(f"{name} has more than {limit} entries")
        for reference in references:
            event_id = reference
            if version.references_carry_hashes:
                if not (
                    isinstance(reference, list)
                    and len(reference) == 2
                    and isinstance(reference[1], dict)
                ):
                    raise InvalidPdu(f"{name} holds pairs of event ID and hashes")
                event_id = reference[0]
            if not isinstance(event_id, str):
                raise InvalidPdu(f"{name} holds event IDs")
            parse_event_id(event_id)


def _check_hashes_and_signatures(raw: JsonObject) -> None:
    if not isinstance(_get(raw, "hashes", dict).get("sha256"), str):
        raise InvalidPdu("hashes.sha256 is a string")
    for by_server in _get(raw, "signatures", dict).values():
        if not isinstance(by_server, dict) or not all(
            isinstance(signature, str) for signature in by_server.values()
        ):
            raise InvalidPdu("signatures maps servers to keys to strings")


def _get(raw: JsonObject, key: str, kind: type) -> Any:
    value = raw.get(key)
    if type(value) is not kind:  # not isinstance: true is not an integer
        raise InvalidPdu(f"{key} is missing or not of type {kind.__name__}")
    return value


def _check_length(raw: JsonObject, key: str) -> None:
    value = raw.get(key)
    if value is not None and len(value) * 4 > MAX_FIELD_BYTES:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidPdu(f"{key} holds a lone surrogate") from None
        if size > MAX_FIELD_BYTES:
            raise InvalidPdu(f"{key} is longer than {MAX_FIELD_BYTES} bytes")


def _max_depth(version: RoomVersion) -> int:
    return MAX_INTEGER if version.strict_canonical_json else MAX_DEPTH_BEFORE_STRICT_JSON


def redacts_of(raw: JsonObject, version: RoomVersion) -> EventID | None:
    """Return what a redaction says it redacts, where its room version has it said."""
    target = (raw["content"] if version.redacts_in_content else raw).get("redacts")
    try:
        return parse_event_id(target) if isinstance(target, str) else None
    except InvalidIdentifier:
        return None  # there can be no such event


def _with_hashes(
    event_ids: Sequence[EventID], reference_hashes: Mapping[EventID, bytes] | None
) -> list[list[Any]]:
    if event_ids and reference_hashes is None:
        raise InvalidPdu("references of this room version carry hashes")
    hashes = reference_hashes or {}
    return [[event_id, {"sha256": unpadded_base64(hashes[event_id])}] for event_id in event_ids]
