"""Hashes and signatures: the specification's vectors, and the reference packages."""

import json
import time
from base64 import b64encode, urlsafe_b64encode
from copy import deepcopy
from typing import Any

import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.canonical_json import MAX_INTEGER
from yizhan_server.protocol.hashes import (
    content_hash,
    decode_base64,
    essential_bytes,
    event_id_of,
    has_right_content_hash,
    reference_hash,
    unpadded_base64,
)
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.room_version import V1, V3, V4, V12, RoomVersion
from yizhan_server.protocol.signing import (
    InvalidKey,
    InvalidSignature,
    SigningKey,
    VerifyKey,
    check_event_signature,
    check_signatures,
    has_signature_by,
    hash_and_sign_event,
    is_signed_by_any,
    required_signers,
    sign_event,
    sign_json,
    verify_signed_json,
)
from yizhan_testing.protocol_room import ALICE, ALL_VERSIONS, BOB, ProtocolRoom, key_of, versions

SEED = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"
DOMAIN = ServerName("domain")
KEY = SigningKey.parse(f"ed25519 1 {SEED}")
KEYS = {KEY.key_id: KEY.verify_key}
REFERENCE_KEY = signedjson.key.decode_signing_key_base64("ed25519", "1", SEED)

JSON = st.dictionaries(
    st.text(),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(min_value=-MAX_INTEGER, max_value=MAX_INTEGER)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
).map(lambda value: {k: v for k, v in value.items() if k not in {"signatures", "unsigned"}})


@pytest.mark.parametrize(
    ("value", "signature"),
    [
        (
            {},
            "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ",
        ),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
)
def test_json_signing_vectors(value: dict[str, Any], signature: str) -> None:
    signed = sign_json(value, DOMAIN, KEY)
    assert signed == {**value, "signatures": {"domain": {"ed25519:1": signature}}}
    verify_signed_json(signed, DOMAIN, KEYS)


MINIMAL = {
    "room_id": "!x:domain",
    "sender": "@a:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "signatures": {},
    "hashes": {},
    "type": "X",
    "content": {},
    "prev_events": [],
    "auth_events": [],
    "depth": 3,
    "unsigned": {"age_ts": 1000000},
}
REDACTABLE = {
    "content": {"body": "Here is the message content"},
    "event_id": "$0:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "type": "m.room.message",
    "room_id": "!r:domain",
    "sender": "@u:domain",
    "signatures": {},
    "unsigned": {"age_ts": 1000000},
}


@pytest.mark.parametrize(
    ("event", "sha256", "signature"),
    [
        (
            MINIMAL,
            "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
            "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
        ),
        (
            REDACTABLE,
            "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
            "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
        ),
    ],
)
def test_event_signing_vectors(event: dict[str, Any], sha256: str, signature: str) -> None:
    signed = hash_and_sign_event(event, V1, DOMAIN, KEY)
    assert signed == {
        **event,
        "hashes": {"sha256": sha256},
        "signatures": {"domain": {"ed25519:1": signature}},
    }
    check_event_signature(signed, V1, DOMAIN, KEYS)
    assert has_right_content_hash(signed, V1)


@given(JSON)
def test_signatures_are_those_of_the_reference_package(value: dict[str, Any]) -> None:
    reference = signedjson.sign.sign_json(deepcopy(value), "domain", REFERENCE_KEY)
    ours = sign_json({**value, "unsigned": {"age": 1}}, DOMAIN, KEY)
    assert ours["signatures"] == reference["signatures"]
    signedjson.sign.verify_signed_json(ours, "domain", signedjson.key.get_verify_key(REFERENCE_KEY))
    verify_signed_json(reference, DOMAIN, KEYS)


@given(JSON, st.text(), st.integers())
def test_whatever_is_changed_the_signature_breaks(
    value: dict[str, Any], name: str, number: int
) -> None:
    signed = sign_json(value, DOMAIN, KEY)
    changed = {**signed, name: number}
    if name in {"signatures", "unsigned"} or value.get(name, "absent") == number:
        return
    with pytest.raises(InvalidSignature):
        verify_signed_json(changed, DOMAIN, KEYS)


def test_earlier_signatures_and_unsigned_stay_and_the_original_is_left_alone() -> None:
    once = sign_json({"a": 1, "unsigned": {"age": 1}}, "one", KEY)
    frozen = deepcopy(once)
    other = SigningKey.generate("2")
    twice = sign_json(sign_json(once, "two", other), "one", other)
    assert once == frozen
    assert twice["unsigned"] == {"age": 1}
    assert set(twice["signatures"]["one"]) == {"ed25519:1", "ed25519:2"}
    verify_signed_json(twice, "one", {**KEYS, "ed25519:2": other.verify_key})
    verify_signed_json(twice, "two", {"ed25519:2": other.verify_key})


@pytest.mark.parametrize(
    "signatures",
    [
        None,
        [],
        {},
        {"domain": None},
        {"domain": {}},
        {"other": {"ed25519:1": "x"}},
        {"domain": {"ed25519:2": "x"}},
        {"domain": {"rsa:1": "x"}},
        {"domain": {"ed25519:1": 1}},
        {"domain": {"ed25519:1": "!!"}},
        {"domain": {"ed25519:1": "张"}},
        {"domain": {"ed25519:1": "AAAA"}},
        {"domain": {"ed25519:1": "A" * 86}},
        {"domain": {"ed25519:1": "A" * 85}},
    ],
)
def test_a_missing_or_malformed_signature_is_none(signatures: Any) -> None:
    with pytest.raises(InvalidSignature):
        verify_signed_json({"signatures": signatures}, DOMAIN, KEYS)


def test_every_signature_by_a_known_key_must_be_right() -> None:
    signed = sign_json({}, DOMAIN, KEY)
    other = SigningKey.generate("other")
    signed["signatures"]["domain"]["ed25519:other"] = "A" * 86
    verify_signed_json(signed, DOMAIN, KEYS)  # an unknown key is skipped
    with pytest.raises(InvalidSignature):
        verify_signed_json(signed, DOMAIN, {**KEYS, "ed25519:other": other.verify_key})


def test_keys_survive_their_file_and_their_publication() -> None:
    key = SigningKey.generate("a_1")
    assert SigningKey.parse(key.serialize() + "\n") == key
    assert VerifyKey.from_base64(key.key_id, key.verify_key.to_base64()) == key.verify_key
    reference = signedjson.key.read_signing_keys([key.serialize()])[0]
    assert key.verify_key.to_base64() == signedjson.key.encode_verify_key_base64(
        signedjson.key.get_verify_key(reference)
    )


def test_a_seed_is_in_no_representation_and_no_error() -> None:
    key = SigningKey.generate("a")
    seed = unpadded_base64(key.seed)
    assert seed not in repr(key)
    assert repr(key.seed) not in repr(key)
    for line in (f"ed25519 a {seed}x", f"ed25519 a-b {seed}", f"rsa a {seed}", f"ed25519 {seed}"):
        with pytest.raises(InvalidKey) as refused:
            SigningKey.parse(line)
        assert seed not in str(refused.value)


@pytest.mark.parametrize("line", ["", "ed25519 1", "ed25519 1 AAAA", "ed25519 1 张", "a b c d"])
def test_other_lines_are_no_signing_keys(line: str) -> None:
    with pytest.raises(InvalidKey):
        SigningKey.parse(line)


def test_other_texts_are_no_verify_keys() -> None:
    right = KEY.verify_key.to_base64()
    for key_id, text in (("ed25519:1", "AAAA"), ("ed25519:1", "!"), ("rsa:1", right)):
        with pytest.raises(InvalidKey):
            VerifyKey.from_base64(key_id, text)


@given(st.binary())
def test_base64_is_read_in_both_alphabets_padded_or_not(data: bytes) -> None:
    text = unpadded_base64(data)
    assert "=" not in text
    assert decode_base64(text) == data
    assert decode_base64(b64encode(data).decode()) == data
    assert decode_base64(urlsafe_b64encode(data).decode()) == data


@pytest.mark.parametrize("text", ["A", "A A=", "张", "AA\n", "A.AA"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_base64(text)


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_hash_signature_and_id_of_an_event_survive_its_redaction_but_not_a_change(
    version: RoomVersion,
) -> None:
    room = ProtocolRoom(version)
    raw = room.event("m.room.message", ALICE, {"body": "hello"}).raw
    keys = {"ed25519:test": key_of("a.test").verify_key}
    server = ServerName("a.test")

    assert has_right_content_hash(raw, version)
    check_event_signature(raw, version, server, keys)

    edited = {**raw, "content": {"body": "goodbye"}}
    assert not has_right_content_hash(edited, version)
    check_event_signature(edited, version, server, keys)  # only the content hash notices
    assert event_id_of(edited, version) == event_id_of(raw, version)

    forged = {**raw, "sender": BOB}
    with pytest.raises(InvalidSignature):
        check_event_signature(forged, version, server, keys)
    if version in versions(3):
        assert event_id_of(forged, version) != event_id_of(raw, version)


@pytest.mark.parametrize("hashes", [None, {}, {"sha256": 1}, {"sha256": "!"}, {"sha256": "AAAA"}])
def test_a_malformed_content_hash_is_wrong(hashes: Any) -> None:
    room = ProtocolRoom(V12)
    raw = {**room.event("m.room.message", ALICE, {}).raw, "hashes": hashes}
    assert not has_right_content_hash(raw, V12)


def test_event_ids_of_the_three_formats() -> None:
    raw = dict(REDACTABLE, hashes={"sha256": "x"})
    digest = reference_hash(raw, V3)
    assert event_id_of(raw, V1) == "$0:domain"
    assert event_id_of(raw, V3) == "$" + b64encode(digest).decode().rstrip("=")
    assert event_id_of(raw, V4) == "$" + urlsafe_b64encode(digest).decode().rstrip("=")


def test_old_rooms_hash_huge_integers_and_floats_as_the_first_server_did() -> None:
    # Written by hand, independent of our encoder: what canonicaljson 1 produced.
    text = '{"content":{"big":100000000000000000000,"float":1e+16},"type":"x"}'
    raw = json.loads(text)
    from hashlib import sha256  # noqa: PLC0415 - this test's own oracle

    assert content_hash(raw, V1) == unpadded_base64(sha256(text.encode()).digest())


def test_several_servers_signatures_need_one_encoding() -> None:
    room = ProtocolRoom(V12)
    raw = room.event("m.room.message", ALICE, {}).raw
    raw = sign_event(raw, V12, ServerName("b.test"), key_of("b.test"))
    signed = essential_bytes(raw, V12)
    for server in ("a.test", "b.test"):
        assert has_signature_by(raw, server)
        check_signatures(raw, server, {"ed25519:test": key_of(server).verify_key}, signed)
    assert not has_signature_by(raw, "c.test")


def test_any_listed_key_may_have_signed_an_invitation() -> None:
    signed = sign_json({"mxid": "@a:b", "token": "t"}, "identity.test", KEY)
    right = KEY.verify_key.to_base64()
    other = SigningKey.generate("x").verify_key.to_base64()
    assert is_signed_by_any(signed, [other, "nonsense", right])
    assert not is_signed_by_any(signed, [other, "nonsense"])
    assert not is_signed_by_any(signed, [])
    assert not is_signed_by_any({**signed, "mxid": "@c:d"}, [right])
    assert not is_signed_by_any({"mxid": "@a:b", "signatures": "none"}, [right])
    assert not is_signed_by_any({**signed, "huge": 2**70}, [right])  # from a room of version 1


def test_hundreds_of_signatures_and_keys_are_not_all_tried() -> None:
    signed = sign_json({"mxid": "@a:b", "token": "t"}, "a.test", KEY)
    (right,) = signed["signatures"]["a.test"].values()
    others = {f"ed25519:{n}": right[:-4] + f"{n:04}"[:4] for n in range(500)}
    keys = [SigningKey.generate(f"x{n}").verify_key.to_base64() for n in range(1000)]
    many = {**signed, "signatures": {"a.test": others}}
    began = time.monotonic()
    assert not is_signed_by_any(many, keys)
    assert time.monotonic() - began < 5
    twice = {**signed, "signatures": {"b.test": {"ed25519:x": right}, **signed["signatures"]}}
    assert is_signed_by_any(twice, [*keys[:1] * 2000, KEY.verify_key.to_base64()])


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_which_servers_must_have_signed(version: RoomVersion) -> None:
    room = ProtocolRoom(version)
    message = room.event("m.room.message", BOB, {})
    assert required_signers(message.raw, version) == {"b.test"}

    joined = room.member_event(BOB, "join", join_authorised_via_users_server=ALICE)
    expected = {"a.test", "b.test"} if version in versions(8) else {"b.test"}
    assert required_signers(joined.raw, version) == expected

    invited = room.member_event(BOB, "invite", ALICE, third_party_invite={})
    assert required_signers(invited.raw, version) == (
        {"a.test"} if version in versions(1, 2) else set()
    )
    # With a wrong hash it is redacted; only what is by address even then is not signed for.
    altered = {**invited.raw, "content": {**invited.raw["content"], "reason": "x"}}
    assert ("a.test" in required_signers(altered, version)) == (version not in versions(11))
    bare = {**altered, "content": {**altered["content"], "third_party_invite": 1}}
    assert "a.test" in required_signers(bare, version)
    if version in versions(1, 2):
        foreign = room.event("m.room.message", BOB, {}, event_id="$x:c.test")
        assert required_signers(foreign.raw, version) == {"b.test", "c.test"}
