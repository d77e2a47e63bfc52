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
from yizhan_server.protocol.signing import (
    InvalidSignature,
    VerifyKey,
    check_signatures,
    required_signers,
)

if TYPE_CHECKING:
    from yizhan_server.protocol.room_version import RoomVersion

MAX_KEY_IDS = 20
"""Of one server on one event; more than one or two are nobody's habit."""


@dataclass(frozen=True, slots=True)
class Check:
    """An event with the keys that count for it, of each server that has to have signed it."""

    event: JsonObject
    version: RoomVersion
    keys: Mapping[ServerName, Mapping[str, VerifyKey]]


def find_signers(event: JsonObject, version: RoomVersion) -> frozenset[ServerName] | None:
    """Return the servers that have to have signed an event; None if it is too malformed to say."""
    try:
        if type(event["origin_server_ts"]) is not int:
            return None
        return required_signers(event, version)
    except (KeyError, TypeError, AttributeError):
        return None


def claimed_key_ids(obj: JsonObject, server: str) -> list[str]:
    """Return the IDs of the keys by which `obj` says that it is signed."""
    signatures = obj.get("signatures")
    own = signatures.get(server) if isinstance(signatures, dict) else None
    key_ids = own if isinstance(own, dict) else {}
    return [key_id for key_id in key_ids if key_id.startswith("ed25519:")][:MAX_KEY_IDS]


def check_all(checks: Sequence[Check | None]) -> list[InvalidSignature | None]:
    """Return what is wrong with each, None where nothing is. May run in a thread."""
    return [_find_fault(check) for check in checks]


def _find_fault(check: Check | None) -> InvalidSignature | None:
    if check is None:
        return InvalidSignature("the event is malformed")
    try:
        signed = essential_bytes(check.event, check.version)
        for server, keys in check.keys.items():
            check_signatures(check.event, server, keys, signed)
    except InvalidSignature as fault:
        return fault
    except (NotCanonical, KeyError, TypeError, AttributeError):
        return InvalidSignature("the event is malformed")
    return None
