"""Identities and their chains: what a /keys/query answer proves, and what it does not."""

from __future__ import annotations

import json
import stat
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import vodozemac
from hypothesis import given
from hypothesis import strategies as st

from yizhan_bots.matrix.cross_signing import (
    Identity,
    OwnIdentity,
    canonical_json,
    fingerprint,
    is_signed,
    read_identity,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JsonObject = dict[str, Any]
ALICE = "@alice:localhost"


class KeysAnswer:
    """A /keys/query answer of a homeserver that has Alice's identity and one signed device."""

    def __init__(self) -> None:
        self.account = vodozemac.Account()
        self.own = OwnIdentity.generate(ALICE)
        device = {
            "user_id": ALICE,
            "device_id": "PHONE",
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": {
                "ed25519:PHONE": self.account.ed25519_key.to_base64(),
                "curve25519:PHONE": self.account.curve25519_key.to_base64(),
            },
        }
        self_signature = self.account.sign(canonical_json(device)).to_base64()
        signed = self.own.sign_device(device)
        signed["signatures"][ALICE]["ed25519:PHONE"] = self_signature
        public = self.own.public_keys()
        self.answer: JsonObject = {
            "master_keys": {ALICE: public["master_key"]},
            "self_signing_keys": {ALICE: public["self_signing_key"]},
            "device_keys": {ALICE: {"PHONE": signed | {"unsigned": {"device_display_name": "x"}}}},
        }

    def read(self) -> Identity:
        return read_identity(ALICE, self.answer)

    @property
    def master(self) -> JsonObject:
        return self.part("master_keys")

    @property
    def self_signing(self) -> JsonObject:
        return self.part("self_signing_keys")

    @property
    def device(self) -> JsonObject:
        return dict.__getitem__(self.part("device_keys"), "PHONE")

    def part(self, kind: str) -> JsonObject:
        found: JsonObject = self.answer[kind][ALICE]
        return found


def test_a_whole_chain_makes_the_device_its_owners() -> None:
    keys = KeysAnswer()
    identity = keys.read()

    assert identity.master_key == keys.own.master_key
    device = identity.devices["PHONE"]
    assert device.signed
    assert identity.find_device(device.curve25519, device.ed25519) is device
    assert identity.find_device(device.curve25519, "another") is None


def of_another_identity(keys: KeysAnswer) -> None:
    other = OwnIdentity.generate(ALICE).public_keys()
    keys.answer["self_signing_keys"][ALICE] = other["self_signing_key"]


def unsigned_self_signing_key(keys: KeysAnswer) -> None:
    del keys.self_signing["signatures"]


def another_master(keys: KeysAnswer) -> None:
    keys.answer["master_keys"][ALICE] = OwnIdentity.generate(ALICE).public_keys()["master_key"]


def no_master(keys: KeysAnswer) -> None:
    del keys.answer["master_keys"]


def master_of_another_user(keys: KeysAnswer) -> None:
    keys.master["user_id"] = "@mallory:localhost"


def master_under_another_name(keys: KeysAnswer) -> None:
    keys.master["keys"] = {"ed25519:name": keys.own.master_key}


def master_without_its_usage(keys: KeysAnswer) -> None:
    keys.master["usage"] = ["self_signing"]


def two_master_keys(keys: KeysAnswer) -> None:
    other = OwnIdentity.generate(ALICE).master_key
    keys.master["keys"][f"ed25519:{other}"] = other


def device_signed_by_the_user_signing_key(keys: KeysAnswer) -> None:
    own = keys.own
    mixed = OwnIdentity(ALICE, own.master, own.user_signing, own.user_signing)
    signature = mixed.sign_device(keys.device)["signatures"][ALICE]
    kept = keys.device["signatures"][ALICE]["ed25519:PHONE"]
    keys.device["signatures"][ALICE] = signature | {"ed25519:PHONE": kept}


def signature_of_something_else(keys: KeysAnswer) -> None:
    changed = deepcopy(keys.device) | {"algorithms": []}
    signatures = keys.device["signatures"][ALICE]
    for name, signature in keys.own.sign_device(changed)["signatures"][ALICE].items():
        signatures[name] = signature


@pytest.mark.parametrize(
    "lie",
    [
        of_another_identity,
        unsigned_self_signing_key,
        another_master,
        no_master,
        master_of_another_user,
        master_under_another_name,
        master_without_its_usage,
        two_master_keys,
        device_signed_by_the_user_signing_key,
        signature_of_something_else,
    ],
)
def test_a_broken_chain_leaves_the_device_listed_and_unsigned(
    lie: Callable[[KeysAnswer], None],
) -> None:
    keys = KeysAnswer()
    lie(keys)

    device = keys.read().devices["PHONE"]
    assert not device.signed


def device_of_another_user(keys: KeysAnswer) -> None:
    keys.device["user_id"] = "@mallory:localhost"


def device_under_another_id(keys: KeysAnswer) -> None:
    keys.answer["device_keys"][ALICE]["TABLET"] = keys.answer["device_keys"][ALICE].pop("PHONE")


def device_with_another_curve25519_key(keys: KeysAnswer) -> None:
    keys.device["keys"]["curve25519:PHONE"] = vodozemac.Account().curve25519_key.to_base64()


@pytest.mark.parametrize(
    "lie", [device_of_another_user, device_under_another_id, device_with_another_curve25519_key]
)
def test_a_device_whose_keys_it_did_not_sign_itself_does_not_exist(
    lie: Callable[[KeysAnswer], None],
) -> None:
    keys = KeysAnswer()
    lie(keys)

    assert keys.read().devices == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_no_answer_of_a_homeserver_makes_the_reader_fail(data: st.DataObject) -> None:
    keys = KeysAnswer()
    target: Any = keys.answer
    # Put something unexpected at a random place of an otherwise good answer.
    while isinstance(target, dict) and target:
        name = data.draw(st.sampled_from(sorted(target)))
        if data.draw(st.booleans()) or not isinstance(target[name], dict):
            target[name] = data.draw(json_values)
            break
        target = target[name]

    identity = keys.read()
    assert all(device.user_id == ALICE for device in identity.devices.values())


def test_a_signature_with_a_lone_surrogate_in_the_text_is_no_signature() -> None:
    assert not is_signed(
        {"a": "\ud800", "signatures": {ALICE: {"ed25519:k": "AA"}}}, ALICE, "k", ""
    )


def test_the_private_keys_are_for_the_owner_only_and_come_back(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    own = OwnIdentity.generate(ALICE)
    own.save(file)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = OwnIdentity.load(file, ALICE)
    assert again is not None
    assert again.public_keys() == own.public_keys()
    with pytest.raises(ValueError, match=r"keys\.json holds the keys of another account"):
        OwnIdentity.load(file, "@bob:localhost")
    assert OwnIdentity.load(tmp_path / "none", ALICE) is None


def test_private_keys_do_not_show_in_what_is_printed() -> None:
    own = OwnIdentity.generate(ALICE)
    assert bytes(own.master).hex() not in repr(own)
    assert repr(own) == f"OwnIdentity(user_id={ALICE!r})"


def test_a_fingerprint_is_written_in_groups_of_four() -> None:
    assert fingerprint("abcdefghij") == "abcd efgh ij"


def test_canonical_json_is_that_of_the_specification() -> None:
    value = json.loads('{"b": "日", "a": {"z": 1, "y": [true, null]}}')
    assert canonical_json(value) == '{"a":{"y":[true,null],"z":1},"b":"日"}'.encode()
