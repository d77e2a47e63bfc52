"""Device keys, one-time keys and fallback keys, over HTTP."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from yizhan_testing.crypto_identity import CryptoDevice, signed
from yizhan_testing.databases import StatementRecorder
from yizhan_testing.homeserver import homeserver_in_process

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.homeserver import HomeserverInProcess, Person

JsonObject = dict[str, Any]

UPLOAD = "/v3/keys/upload"
TABLES = re.compile("device_keys|one_time_key|fallback_key|device_change|to_device|membership")
"""Statements about other things are other tests' business."""


def database_in(folder: Path) -> Path:
    [file] = folder.glob("test*.db")
    return file


def device_of(person: Person) -> CryptoDevice:
    return CryptoDevice(person.user_id, person.device_id)


async def queries(person: Person, other: Person, *device_ids: str) -> JsonObject:
    body = {"device_keys": {other.user_id: list(device_ids)}}
    answer = await person.post("/v3/keys/query", body)
    found: JsonObject = answer["device_keys"][other.user_id]
    for keys in found.values():
        if not keys["unsigned"]:
            del keys["unsigned"]
    return found


async def claims(person: Person, other: Person) -> JsonObject:
    """Claim a key of `other`'s device; the object of the one key, or {}."""
    body = {"one_time_keys": {other.user_id: {other.device_id: "signed_curve25519"}}}
    answer = await person.post("/v3/keys/claim", body)
    found: JsonObject = answer["one_time_keys"].get(other.user_id, {}).get(other.device_id, {})
    return found


async def test_uploaded_keys_are_found_by_others_with_the_devices_name(
    alice: Person, bob: Person
) -> None:
    device = device_of(bob)
    answer = await bob.post(UPLOAD, {"device_keys": device.keys()})
    assert answer == {"one_time_key_counts": {"signed_curve25519": 0}}
    assert await queries(alice, bob) == {bob.device_id: device.keys()}

    await bob.put(f"/v3/devices/{bob.device_id}", {"display_name": "鲍勃的电脑"})
    named = device.keys() | {"unsigned": {"device_display_name": "鲍勃的电脑"}}
    assert await queries(alice, bob) == {bob.device_id: named}
    assert await queries(alice, bob, bob.device_id, "OTHER") == {bob.device_id: named}
    assert await queries(alice, bob, "OTHER") == {}


async def test_a_query_names_unknown_users_without_devices_and_other_servers_as_failed(
    alice: Person,
) -> None:
    wanted: JsonObject = {
        alice.user_id: [],
        "@nobody:test.example": [],
        "@carol:elsewhere.example": [],
    }
    answer = await alice.post("/v3/keys/query", {"device_keys": wanted})
    assert answer["device_keys"] == {alice.user_id: {}, "@nobody:test.example": {}}
    assert list(answer["failures"]) == ["elsewhere.example"]
    claim = {"@carol:elsewhere.example": {"DEVICE": "signed_curve25519"}}
    answer = await alice.post("/v3/keys/claim", {"one_time_keys": claim})
    assert answer["one_time_keys"] == {}
    assert list(answer["failures"]) == ["elsewhere.example"]


async def test_keys_must_be_the_devices_own(alice: Person, bob: Person) -> None:
    device = device_of(bob)
    for keys, errcode in (
        (device_of(alice).keys(), "M_INVALID_PARAM"),
        (CryptoDevice(bob.user_id, "OTHER").keys(), "M_INVALID_PARAM"),
        (device.keys() | {"keys": {f"ed25519:{bob.device_id}": 1}}, "M_BAD_JSON"),
        (device.keys() | {"algorithms": "m.olm"}, "M_BAD_JSON"),
    ):
        body = {"device_keys": keys, "one_time_keys": device.one_time_keys("AAAAAQ")}
        refused = await bob.refused("POST", UPLOAD, body)
        assert (refused.status, refused.errcode) == (400, errcode)
    assert await queries(alice, bob) == {}
    assert await claims(alice, bob) == {}


async def test_what_a_device_says_of_itself_is_handed_on_for_others_to_judge(
    alice: Person, bob: Person
) -> None:
    device = device_of(bob)
    forged = signed(
        device.unsigned_keys(), bob.user_id, bob.device_id, device_of(alice).signing_key
    )
    for keys in (device.unsigned_keys(), forged):
        await bob.post(UPLOAD, {"device_keys": keys})
        assert await queries(alice, bob) == {bob.device_id: {"signatures": {}, **keys}}


async def test_signatures_that_the_server_cannot_find_right_are_not_handed_out(
    alice: Person, bob: Person
) -> None:
    device = device_of(bob)
    keys = device.keys()
    keys["signatures"][alice.user_id] = {"ed25519:WHATEVER": "AAAA"}
    keys["signatures"][bob.user_id]["ed25519:UNKNOWN"] = "AAAA"
    await bob.post(UPLOAD, {"device_keys": {**keys, "unsigned": {"device_display_name": "x"}}})
    assert await queries(alice, bob) == {bob.device_id: device.keys()}


async def test_one_time_keys_are_counted_and_given_out_once_oldest_first(
    alice: Person, bob: Person
) -> None:
    device = device_of(bob)
    first = device.one_time_keys("ZZZZZZ")
    second = device.one_time_keys("AAAAAA")
    await bob.post(UPLOAD, {"device_keys": device.keys(), "one_time_keys": first})
    answer = await bob.post(UPLOAD, {"one_time_keys": second})
    assert answer == {"one_time_key_counts": {"signed_curve25519": 2}}
    synced = (await bob.syncs()).body
    assert synced["device_one_time_keys_count"] == {"signed_curve25519": 2}
    assert synced["device_unused_fallback_key_types"] == []

    assert await claims(alice, bob) == first
    assert await claims(alice, bob) == second
    assert await claims(alice, bob) == {}
    synced = (await bob.syncs()).body
    assert synced["device_one_time_keys_count"] == {"signed_curve25519": 0}


async def test_an_upload_may_be_repeated_but_not_changed_and_revives_no_claimed_key(
    alice: Person, bob: Person
) -> None:
    device = device_of(bob)
    body = {"device_keys": device.keys(), "one_time_keys": device.one_time_keys("A", "B")}
    await bob.post(UPLOAD, body)
    assert await bob.post(UPLOAD, body) == {"one_time_key_counts": {"signed_curve25519": 2}}
    given = await claims(alice, bob)
    assert await bob.post(UPLOAD, body) == {"one_time_key_counts": {"signed_curve25519": 1}}
    assert given | await claims(alice, bob) == body["one_time_keys"]
    more = {"one_time_keys": body["one_time_keys"] | device.one_time_keys("D")}
    for _ in range(2):
        assert await bob.post(UPLOAD, more) == {"one_time_key_counts": {"signed_curve25519": 1}}
    assert list(await claims(alice, bob)) == ["signed_curve25519:D"]
    assert await claims(alice, bob) == {}

    for key_id in ("A", "B"):
        other = {"one_time_keys": device.one_time_keys(key_id, "C")}
        refused = await bob.refused("POST", UPLOAD, other)
        assert (refused.status, refused.errcode) == (400, "M_UNKNOWN")
        assert "already exists" in refused.body["error"]
    assert await bob.post(UPLOAD, {}) == {"one_time_key_counts": {"signed_curve25519": 0}}


async def test_claims_at_the_same_time_never_get_the_same_key(alice: Person, bob: Person) -> None:
    device = device_of(bob)
    keys = device.one_time_keys(*(f"{number:06}" for number in range(25)))
    fallback = device.fallback_key("last")
    await bob.post(
        UPLOAD, {"device_keys": device.keys(), "one_time_keys": keys, "fallback_keys": fallback}
    )
    given = await asyncio.gather(*(claims(alice, bob) for _ in range(30)))
    assert all(len(each) == 1 for each in given)
    names = [name for each in given for name in each]
    assert sorted(name for name in names if name not in fallback) == sorted(keys)
    assert names.count(*fallback) == 5


async def test_the_same_keys_uploaded_twice_at_once_are_stored_once(bob: Person) -> None:
    device = device_of(bob)
    body = {
        "device_keys": device.keys(),
        "one_time_keys": device.one_time_keys(*(f"{number:06}" for number in range(20))),
    }
    answers = await asyncio.gather(*(bob.post(UPLOAD, body) for _ in range(5)))
    assert answers == [{"one_time_key_counts": {"signed_curve25519": 20}}] * 5


async def test_of_different_keys_uploaded_at_once_under_one_id_one_is_refused(
    alice: Person, bob: Person
) -> None:
    device = device_of(bob)
    await bob.post(UPLOAD, {"device_keys": device.keys()})
    offered = [device.one_time_keys("SAME") for _ in range(4)]
    results = await asyncio.gather(
        *(bob.post(UPLOAD, {"one_time_keys": keys}) for keys in offered), return_exceptions=True
    )
    [kept] = [
        keys
        for keys, result in zip(offered, results, strict=True)
        if not isinstance(result, BaseException)
    ]
    assert await claims(alice, bob) == kept
    assert await claims(alice, bob) == {}


async def test_the_fallback_key_serves_when_no_one_time_key_is_left_and_counts_as_used(
    alice: Person, bob: Person
) -> None:
    device = device_of(bob)
    fallback = device.fallback_key("one")
    await bob.post(UPLOAD, {"device_keys": device.keys(), "fallback_keys": fallback})
    assert (await bob.syncs()).body["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert await claims(alice, bob) == fallback
    assert await claims(alice, bob) == fallback
    assert (await bob.syncs()).body["device_unused_fallback_key_types"] == []

    # The same one again is not fresh; another one is, and replaces it.
    await bob.post(UPLOAD, {"fallback_keys": fallback})
    assert (await bob.syncs()).body["device_unused_fallback_key_types"] == []
    other = device.fallback_key("two")
    await bob.post(UPLOAD, {"fallback_keys": other})
    assert (await bob.syncs()).body["device_unused_fallback_key_types"] == ["signed_curve25519"]
    assert await claims(alice, bob) == other


async def test_a_device_that_begins_anew_does_not_give_out_keys_of_its_former_self(
    alice: Person, bob: Person
) -> None:
    former, device = device_of(bob), device_of(bob)
    await bob.post(
        UPLOAD,
        {
            "device_keys": former.keys(),
            "one_time_keys": former.one_time_keys("A", "B"),
            "fallback_keys": former.fallback_key("F"),
        },
    )
    keys = device.one_time_keys("A")
    answer = await bob.post(UPLOAD, {"device_keys": device.keys(), "one_time_keys": keys})
    assert answer == {"one_time_key_counts": {"signed_curve25519": 1}}
    assert await queries(alice, bob) == {bob.device_id: device.keys()}
    assert await claims(alice, bob) == keys
    assert await claims(alice, bob) == {}


async def test_signing_out_takes_the_devices_keys_along(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    other = await homeserver.signs_in("bob")
    for person in (bob, other):
        device = device_of(person)
        await person.post(
            UPLOAD,
            {
                "device_keys": device.keys(),
                "one_time_keys": device.one_time_keys("A"),
                "fallback_keys": device.fallback_key("F"),
            },
        )
    await bob.post("/v3/logout", {})
    assert list(await queries(alice, bob)) == [other.device_id]
    assert await claims(alice, bob) == {}
    assert len(await claims(alice, other)) == 1


async def test_keys_of_many_devices_are_claimed_in_one_call(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    people = [await homeserver.person(f"person{number}") for number in range(12)]
    expected: dict[str, JsonObject] = {}
    for number, person in enumerate(people):
        device = device_of(person)
        keys = device.one_time_keys("A")
        fallback = device.fallback_key("F")
        body: JsonObject = {"device_keys": device.keys(), "fallback_keys": fallback}
        if number % 2:
            body["one_time_keys"] = keys
        await person.post(UPLOAD, body)
        expected[person.user_id] = {person.device_id: keys if number % 2 else fallback}
    wanted = {
        person.user_id: {person.device_id: "signed_curve25519", "GONE": "signed_curve25519"}
        for person in people
    }
    answer = await alice.post("/v3/keys/claim", {"one_time_keys": wanted})
    assert answer == {"one_time_keys": expected, "failures": {}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (UPLOAD, {"device_keys": []}),
        (UPLOAD, {"device_keys": {}}),
        (UPLOAD, {"one_time_keys": ["A"]}),
        (UPLOAD, {"one_time_keys": {"A": "key"}}),
        (UPLOAD, {"one_time_keys": {":A": "key"}}),
        (UPLOAD, {"one_time_keys": {"signed_curve25519:": {"key": "x"}}}),
        (UPLOAD, {"one_time_keys": {"signed_curve25519:A\0": {"key": "x"}}}),
        (UPLOAD, {"one_time_keys": {"signed_curve25519:A": 1}}),
        (UPLOAD, {"one_time_keys": {"signed_curve25519:A": {"key": 1.5}}}),
        (UPLOAD, {"one_time_keys": {"signed_curve25519:A": {"key": "x", "n": 1.5}}}),
        (UPLOAD, {"one_time_keys": {"signed_curve25519:A": {"key": "x", "n": 2**70}}}),
        (UPLOAD, {"one_time_keys": {"signed_curve25519:" + "A" * 300: {"key": "x"}}}),
        (UPLOAD, {"one_time_keys": {f"a:{n}": "x" for n in range(1001)}}),
        (UPLOAD, {"fallback_keys": {"signed_curve25519:A": "x", "signed_curve25519:B": "x"}}),
        ("/v3/keys/query", {}),
        ("/v3/keys/query", {"device_keys": []}),
        ("/v3/keys/query", {"device_keys": {"alice": []}}),
        ("/v3/keys/query", {"device_keys": {"@a\0:test.example": []}}),
        ("/v3/keys/query", {"device_keys": {"@alice:test.example": "DEVICE"}}),
        ("/v3/keys/query", {"device_keys": {"@alice:test.example": [1]}}),
        ("/v3/keys/claim", {}),
        ("/v3/keys/claim", {"one_time_keys": {"@alice:test.example": []}}),
        ("/v3/keys/claim", {"one_time_keys": {"@alice:test.example": {"D": 1}}}),
        ("/v3/keys/claim", {"one_time_keys": {"@alice:test.example": {"D": "a\0"}}}),
        ("/v3/keys/claim", {"one_time_keys": {"alice": {"D": "a"}}}),
    ],
)
async def test_malformed_key_calls_are_refused(alice: Person, path: str, body: JsonObject) -> None:
    refused = await alice.refused("POST", path, body)
    assert refused.status == 400
    assert refused.errcode in ("M_BAD_JSON", "M_INVALID_PARAM")


async def test_device_ids_that_cannot_exist_are_simply_not_found(alice: Person) -> None:
    wanted = {alice.user_id: {"D\0": "signed_curve25519", "D" * 300: "signed_curve25519"}}
    answer = await alice.post("/v3/keys/claim", {"one_time_keys": wanted})
    assert answer["one_time_keys"] == {}
    answer = await alice.post("/v3/keys/query", {"device_keys": {alice.user_id: ["D\0"]}})
    assert answer["device_keys"] == {alice.user_id: {}}


async def test_no_statement_about_keys_reads_a_whole_table(tmp_path: Path) -> None:
    with StatementRecorder() as recorder:
        async with homeserver_in_process(tmp_path) as hs:
            alice, bob = await hs.person("alice"), await hs.person("bob")
            room = await alice.creates_room(invite=[bob])
            await alice.syncs()
            await bob.joins(room)
            device = device_of(bob)
            await bob.post(
                UPLOAD,
                {
                    "device_keys": device.keys(),
                    "one_time_keys": device.one_time_keys("A"),
                    "fallback_keys": device.fallback_key("F"),
                },
            )
            await claims(alice, bob)
            await claims(alice, bob)
            await queries(alice, bob)
            synced = await alice.syncs()
            assert synced.body["device_lists"] == {"changed": [bob.user_id]}
            messages: JsonObject = {bob.user_id: {"*": {}, bob.device_id: {}}}
            await alice.put("/v3/sendToDevice/m.test/1", {"messages": messages})
            await bob.syncs()
            await bob.syncs()
            await bob.post("/v3/logout", {})
        scans = recorder.full_scans(database_in(tmp_path))
        assert [scan for scan in scans if TABLES.search(scan)] == []


async def test_a_claim_names_only_so_many_algorithms(alice: Person, bob: Person) -> None:
    wanted = {f"device{number}": f"algorithm{number}" for number in range(21)}
    body = {"one_time_keys": {bob.user_id: wanted}}
    refused = await alice.refused("POST", "/v3/keys/claim", body)
    assert refused.errcode == "M_INVALID_PARAM"
