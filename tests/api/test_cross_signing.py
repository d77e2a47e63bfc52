"""Cross-signing keys and signatures, over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from yizhan_testing.crypto_identity import (
    CrossSigningIdentity,
    CryptoDevice,
    public_key,
    signed,
)
from yizhan_testing.homeserver import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from yizhan_testing.homeserver import HomeserverInProcess, Person

JsonObject = dict[str, Any]

UPLOAD = "/v3/keys/device_signing/upload"
SIGNATURES = "/v3/keys/signatures/upload"


async def queries(person: Person, other: Person) -> JsonObject:
    answer = await person.post("/v3/keys/query", {"device_keys": {other.user_id: []}})
    for keys in answer["device_keys"][other.user_id].values():
        assert keys.pop("unsigned") == {}
    return answer


async def master_key(person: Person, other: Person) -> JsonObject:
    found: JsonObject = (await queries(person, other))["master_keys"][other.user_id]
    return found


def confirmed(body: JsonObject, person: Person) -> JsonObject:
    identifier = {"type": "m.id.user", "user": person.user_id}
    auth = {"type": "m.login.password", "identifier": identifier, "password": person.password}
    return {**body, "auth": auth}


async def with_device(person: Person) -> CryptoDevice:
    device = CryptoDevice(person.user_id, person.device_id)
    await person.post("/v3/keys/upload", {"device_keys": device.keys()})
    return device


@pytest_asyncio.fixture
async def identity(alice: Person) -> CrossSigningIdentity:
    identity = CrossSigningIdentity(alice.user_id)
    await alice.post(UPLOAD, identity.body())
    return identity


async def test_a_first_identity_needs_no_confirmation_nor_does_the_same_again(
    alice: Person, bob: Person
) -> None:
    identity = CrossSigningIdentity(alice.user_id)
    body = identity.body()
    for _ in range(2):
        assert await alice.post(UPLOAD, body) == {}
    assert await alice.post(UPLOAD, {"self_signing_key": body["self_signing_key"]}) == {}
    assert await alice.post("/unstable/keys/device_signing/upload", body) == {}

    own = await queries(alice, alice)
    assert own["master_keys"] == {alice.user_id: body["master_key"]}
    assert own["self_signing_keys"] == {alice.user_id: body["self_signing_key"]}
    assert own["user_signing_keys"] == {alice.user_id: body["user_signing_key"]}
    seen = await queries(bob, alice)
    assert seen["master_keys"] == own["master_keys"]
    assert seen["self_signing_keys"] == own["self_signing_keys"]
    assert seen["user_signing_keys"] == {}


async def test_replacing_an_identity_or_a_part_of_it_needs_the_password(
    alice: Person, identity: CrossSigningIdentity
) -> None:
    other = CrossSigningIdentity(alice.user_id)
    part = CrossSigningIdentity(alice.user_id, master=identity.master)
    for body in (other.body(), {"user_signing_key": part.body()["user_signing_key"]}):
        refused = await alice.refused("POST", UPLOAD, body)
        assert refused.status == 401
        assert refused.body["flows"] == [{"stages": ["m.login.password"]}]
        wrong = confirmed(body, alice)
        wrong["auth"]["password"] = "wrong"
        assert (await alice.refused("POST", UPLOAD, wrong)).status == 401
        assert (await queries(alice, alice))["user_signing_keys"] == {
            alice.user_id: identity.body()["user_signing_key"]
        }
    await alice.post(UPLOAD, confirmed(part.body(), alice))
    own = await queries(alice, alice)
    assert own["user_signing_keys"] == {alice.user_id: part.body()["user_signing_key"]}
    await alice.post(UPLOAD, confirmed(other.body(), alice))
    assert await master_key(alice, alice) == other.master_key()


async def test_a_new_master_key_alone_ends_the_keys_that_the_old_one_signed(
    alice: Person, identity: CrossSigningIdentity
) -> None:
    other = CrossSigningIdentity(alice.user_id)
    await alice.post(UPLOAD, confirmed({"master_key": other.master_key()}, alice))
    own = await queries(alice, alice)
    assert own["master_keys"] == {alice.user_id: other.master_key()}
    assert own["self_signing_keys"] == own["user_signing_keys"] == {}


async def test_of_two_first_identities_at_once_one_must_be_confirmed(alice: Person) -> None:
    identities = [CrossSigningIdentity(alice.user_id) for _ in range(4)]

    async def attempt(call: Awaitable[JsonObject]) -> int:
        try:
            await call
        except Refused as refused:
            return refused.status
        return 200

    statuses = await asyncio.gather(
        *(attempt(alice.post(UPLOAD, identity.body())) for identity in identities)
    )
    assert sorted(statuses) == [200, 401, 401, 401]
    assert await master_key(alice, alice) == identities[statuses.index(200)].master_key()


async def test_keys_that_are_not_in_order_are_refused(alice: Person, bob: Person) -> None:
    identity, other = CrossSigningIdentity(alice.user_id), CrossSigningIdentity(alice.user_id)
    body = identity.body()
    master = body["master_key"]
    padded = {"ed25519:" + public_key(identity.master): public_key(identity.master) + "="}
    same = identity.sign_by_master({**master, "usage": ["self_signing"]})
    for changed, errcode in (
        ({"master_key": CrossSigningIdentity(bob.user_id).master_key()}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "usage": ["self_signing"]}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "keys": {}}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "keys": padded}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "keys": {"ed25519:A": "A"}}}, "M_INVALID_PARAM"),
        ({"master_key": {**master, "n": 1.5}}, "M_BAD_JSON"),
        ({"master_key": "key"}, "M_BAD_JSON"),
        ({"self_signing_key": other.body()["self_signing_key"]}, "M_INVALID_SIGNATURE"),
        ({"user_signing_key": {**body["user_signing_key"], "x": 1}}, "M_INVALID_SIGNATURE"),
        ({"self_signing_key": same}, "M_INVALID_PARAM"),
        ({"auth": "x"}, "M_BAD_JSON"),
    ):
        refused = await alice.refused("POST", UPLOAD, {**body, **changed})
        assert (refused.status, refused.errcode) == (400, errcode)
    for without in ({}, {"self_signing_key": body["self_signing_key"]}):
        refused = await alice.refused("POST", UPLOAD, without)
        assert (refused.status, refused.errcode) == (400, "M_MISSING_PARAM")
    assert (await queries(alice, alice))["master_keys"] == {}


async def test_no_key_may_have_the_id_of_a_device_nor_a_device_that_of_a_key(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    identity = CrossSigningIdentity(alice.user_id)
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": alice.password,
        "device_id": public_key(identity.self_signing),
    }
    device = await alice.post("/v3/login", login)
    refused = await alice.refused("POST", UPLOAD, identity.body())
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")

    other = CrossSigningIdentity(alice.user_id)
    await alice.post(UPLOAD, other.body())
    device = await alice.post("/v3/login", {**login, "device_id": public_key(other.master)})
    alice.token = device["access_token"]
    keys = CryptoDevice(alice.user_id, device["device_id"]).keys()
    refused = await alice.refused("POST", "/v3/keys/upload", {"device_keys": keys})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


async def test_a_device_signed_by_its_owner_is_seen_so_by_others(
    alice: Person, bob: Person, identity: CrossSigningIdentity
) -> None:
    device = await with_device(alice)
    keys = identity.sign_device(device.keys())
    answer = await alice.post(SIGNATURES, {alice.user_id: {alice.device_id: keys}})
    assert answer == {"failures": {}}
    assert (await queries(bob, alice))["device_keys"][alice.user_id] == {alice.device_id: keys}
    # The device uploads its own part again, as clients do after an update.
    await alice.post("/v3/keys/upload", {"device_keys": device.keys()})
    assert (await queries(bob, alice))["device_keys"][alice.user_id] == {alice.device_id: keys}


async def test_a_signature_may_come_with_the_upload_of_the_device(
    alice: Person, bob: Person, identity: CrossSigningIdentity
) -> None:
    device = CryptoDevice(alice.user_id, alice.device_id)
    keys = identity.sign_device(device.keys())
    await alice.post("/v3/keys/upload", {"device_keys": keys})
    assert (await queries(bob, alice))["device_keys"][alice.user_id] == {alice.device_id: keys}


async def test_a_device_may_sign_its_owners_master_key(
    alice: Person, bob: Person, identity: CrossSigningIdentity
) -> None:
    device = await with_device(alice)
    key = device.sign(identity.master_key())
    upload = {alice.user_id: {public_key(identity.master): key}}
    assert await alice.post(SIGNATURES, upload) == {"failures": {}}
    assert await master_key(bob, alice) == key


async def test_only_the_signer_sees_that_they_trust_somebody(
    homeserver: HomeserverInProcess, alice: Person, bob: Person, identity: CrossSigningIdentity
) -> None:
    his = CrossSigningIdentity(bob.user_id)
    await bob.post(UPLOAD, his.body())
    key = his.sign_user(identity.master_key())
    upload = {alice.user_id: {public_key(identity.master): key}}
    assert await bob.post(SIGNATURES, upload) == {"failures": {}}
    assert await master_key(bob, alice) == key
    carol = await homeserver.person("carol")
    for other in (alice, carol):
        assert await master_key(other, alice) == identity.master_key()

    # The signature ends with the key that was signed.
    new = CrossSigningIdentity(alice.user_id)
    await alice.post(UPLOAD, confirmed(new.body(), alice))
    assert await master_key(bob, alice) == new.master_key()
    # And with the key that signed.
    key = his.sign_user(new.master_key())
    await bob.post(SIGNATURES, {alice.user_id: {public_key(new.master): key}})
    assert await master_key(bob, alice) == key
    await bob.post(UPLOAD, confirmed(CrossSigningIdentity(bob.user_id).body(), bob))
    assert await master_key(bob, alice) == new.master_key()


async def test_signatures_that_are_not_right_fail_each_by_itself(
    alice: Person, bob: Person, identity: CrossSigningIdentity
) -> None:
    device = await with_device(alice)
    his = CrossSigningIdentity(bob.user_id)
    await bob.post(UPLOAD, his.body())
    master = public_key(identity.master)
    good = identity.sign_device(device.keys())
    stranger = CrossSigningIdentity(alice.user_id)
    self_signing = public_key(identity.self_signing)
    wrong = signed(device.keys(), alice.user_id, self_signing, stranger.self_signing)
    for key_id, key, errcode in (
        (alice.device_id, wrong, "M_INVALID_SIGNATURE"),
        (alice.device_id, stranger.sign_device(device.keys()), "M_INVALID_SIGNATURE"),
        (alice.device_id, device.keys(), "M_INVALID_SIGNATURE"),
        (alice.device_id, identity.sign_device({**device.keys(), "x": 1}), "M_INVALID_SIGNATURE"),
        (alice.device_id, {}, "M_INVALID_SIGNATURE"),
        (alice.device_id, [], "M_BAD_JSON"),
        (master, identity.sign_by_master(identity.master_key()), "M_INVALID_SIGNATURE"),
        ("UNKNOWN", good, "M_NOT_FOUND"),
    ):
        answer = await alice.post(SIGNATURES, {alice.user_id: {key_id: key}})
        assert answer["failures"][alice.user_id][key_id]["errcode"] == errcode
    assert (await queries(bob, alice))["device_keys"][alice.user_id] == {
        alice.device_id: device.keys()
    }
    assert await master_key(bob, alice) == identity.master_key()

    # Nobody signs for somebody else, and what is right among them is kept.
    forged = his.sign_user(identity.master_key())
    upload = {
        alice.user_id: {alice.device_id: good},
        bob.user_id: {public_key(his.master): forged},
        "@nobody:test.example": {"A": {}},
    }
    answer = await alice.post(SIGNATURES, upload)
    assert answer["failures"].keys() == {bob.user_id, "@nobody:test.example"}
    assert (await queries(bob, alice))["device_keys"][alice.user_id] == {alice.device_id: good}


@pytest.mark.parametrize(
    "body",
    [
        {"alice": {}}, {"@alice:test.example": []}, {"@a\0:test.example": {}},
        {f"@u{number}:a.test": {} for number in range(35_000)},
    ],
    ids=["no user", "a list", "NUL", "too many"],
)  # fmt: skip
async def test_malformed_signature_uploads_are_refused(alice: Person, body: JsonObject) -> None:
    refused = await alice.refused("POST", SIGNATURES, body)
    assert refused.status == 400
    assert refused.errcode in ("M_BAD_JSON", "M_INVALID_PARAM")
