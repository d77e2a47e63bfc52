"""Checking the signatures of many events with keys at hand: what runs in a thread.

Spec: server-server API, "Validating hashes and signatures on received events".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.canonical_json import JsonObject, NotCanonical
from yizhan_server.protocol.hashes import essential_bytes
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.server_keys import ServerKey, usable_keys
from yizhan_server.protocol.signing import (
    InvalidSignature,
    NoKeys,
    check_signatures,
    required_signers,
)

if TYPE_CHECKING:
    from yizhan_server.protocol.room_version import RoomVersion

MAX_KEY_IDS = 20
"""Of one server on one event; more than one or two are nobody's habit."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Which keys an event says it is signed with, of each server that has to have signed it."""

    event: JsonObject
    valid_at_ms: int | None
    """When the keys have to be valid; None in rooms that do not ask for it."""
    key_ids: Mapping[ServerName, tuple[str, ...]]


def read_claims(events: Sequence[JsonObject], version: RoomVersion) -> list[Claim | None]:
    """Return what each event claims; None for one that is too malformed to say."""
    return [_read_claim(event, version) for event in events]


def check_claims(
    claims: Sequence[Claim | None],
    version: RoomVersion,
    keys: Mapping[ServerName, Mapping[str, ServerKey]],
) -> list[InvalidSignature | None]:
    """Return what is wrong with each event's signatures, None where nothing is."""
    return [_find_fault(claim, version, keys) for claim in claims]


def claimed_key_ids(obj: JsonObject, server: str) -> tuple[str, ...]:
    """Return the IDs of the keys by which `obj` says that `server` has signed it."""
    signatures = obj.get("signatures")
    own = signatures.get(server) if isinstance(signatures, dict) else None
    key_ids = own if isinstance(own, dict) else {}
    return tuple(key_id for key_id in key_ids if key_id.startswith("ed25519:"))[:MAX_KEY_IDS]


def _read_claim(event: JsonObject, version: RoomVersion) -> Claim | None:
    try:
        signers = required_signers(event, version)
        ts_ms = event["origin_server_ts"]
    except (KeyError, TypeError, AttributeError):
        return None
    if type(ts_ms) is not int:
        return None
    return Claim(
        event,
        ts_ms if version.enforces_key_validity else None,
        {server: claimed_key_ids(event, server) for server in signers},
    )


def _find_fault(
    claim: Claim | None,
    version: RoomVersion,
    keys: Mapping[ServerName, Mapping[str, ServerKey]],
) -> InvalidSignature | None:
    if claim is None:
        return InvalidSignature("the event is malformed")
    try:
        signed = essential_bytes(claim.event, version)
        for server, key_ids in claim.key_ids.items():
            if key_ids and not keys[server]:
                return NoKeys(f"no key of {server} is known")
            usable = usable_keys(keys[server], key_ids, claim.valid_at_ms)
            check_signatures(claim.event, server, usable, signed)
    except InvalidSignature as fault:
        return fault
    except (NotCanonical, KeyError, TypeError, AttributeError):
        return InvalidSignature("the event is malformed")
    return None
