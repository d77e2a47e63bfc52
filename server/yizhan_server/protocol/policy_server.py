"""Policy servers: which one a room names, and whether it recommends an event by its signature.

Pure: whether the named server has somebody in the room, as it must, is for the caller to find out.

Spec: server-server API, "Policy Servers"; `m.room.policy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import TooLarge
from yizhan_server.protocol.event import MAX_PDU_BYTES, Pdu
from yizhan_server.protocol.hashes import encode_for_hash
from yizhan_server.protocol.identifiers import InvalidIdentifier, ServerName, parse_server_name
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.signing import (
    InvalidKey,
    InvalidSignature,
    VerifyKey,
    check_event_signature,
)

POLICY = ("m.room.policy", "")
"""The state that names a room's policy server."""

KEY_ID = "ed25519:policy_server"
"""Always, whatever the server calls the key that it publishes."""


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """What a room says of its policy server."""

    name: ServerName
    key: VerifyKey | None
    """None where what the room names is no key: nothing that it signs counts."""


def find_policy_server(content: Mapping[str, Any]) -> PolicyServer | None:
    """Return the server that `m.room.policy` names, or None if its content is not valid.

    So also for a name that no server can have, of which nobody can be in the room.
    """
    via, keys = content.get("via"), content.get("public_keys")
    text = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(via, str) or not isinstance(text, str):
        return None
    try:
        name = parse_server_name(via)
    except InvalidIdentifier:
        return None
    try:
        return PolicyServer(name, VerifyKey.from_base64(KEY_ID, text))
    except InvalidKey:
        return PolicyServer(name, None)


def is_exempt(kind: str, state_key: str | None) -> bool:
    """Whether an event needs no signature: it is by these that a room rids itself of the server."""
    return (kind, state_key) == POLICY


def is_recommended(pdu: Pdu, policy: PolicyServer, version: RoomVersion) -> bool:
    """Whether an event has all that the policy server has to give it."""
    if is_exempt(pdu.type, pdu.state_key):
        return True
    if policy.key is None:
        return False
    try:
        check_event_signature(pdu.raw, version, policy.name, {KEY_ID: policy.key})
    except InvalidSignature:
        return False
    return True


def with_recommendation(
    pdu: Pdu, policy: PolicyServer, answer: JsonObject, version: RoomVersion
) -> Pdu:
    """Return an event with the signature that the policy server answered.

    InvalidSignature where the answer holds none by the key that the room names; TooLarge where the
    event is as large already as any may be.
    """
    given = answer.get(policy.name)
    signature = given.get(KEY_ID) if isinstance(given, dict) else None
    if not isinstance(signature, str):
        raise InvalidSignature("the policy server gave no signature")
    signed = with_signatures(pdu, {policy.name: {KEY_ID: signature}})
    if not is_recommended(signed, policy, version):
        raise InvalidSignature("the signature is not by the key that the room names")
    if len(encode_for_hash(signed.raw, version)) > MAX_PDU_BYTES:
        raise TooLarge("The event is larger than 65536 bytes with its policy server's signature.")
    return signed


def with_signatures(pdu: Pdu, signatures: Mapping[str, Mapping[str, str]]) -> Pdu:
    """Return an event with further signatures; those that it has stay, unless there are others."""
    merged = dict(pdu.raw["signatures"])
    for server, by_key in signatures.items():
        merged[server] = {**merged.get(server, {}), **by_key}
    return replace(pdu, raw={**pdu.raw, "signatures": merged})
