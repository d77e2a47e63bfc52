"""Server-side key backups, over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from yizhan_testing.homeserver import Person

JsonObject = dict[str, Any]

ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"
ROOM = "!room/with a slash:test.example"
OTHER_ROOM = "!other:test.example"
VERSION = "/v3/room_keys/version"
KEYS = "/v3/room_keys/keys"


def backup(public_key: str = "first") -> JsonObject:
    return {"algorithm": ALGORITHM, "auth_data": {"public_key": public_key, "signatures": {}}}


def key(
    text: str = "data", *, index: int = 0, forwarded: int = 0, verified: bool = False
) -> JsonObject:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ciphertext": text, "mac": "m", "ephemeral": "e"},
    }


def path(*parts: str, version: str = "1") -> str:
    segments = "".join("/" + quote(part, safe="") for part in parts)
    return f"{KEYS}{segments}?version={version}"


@pytest_asyncio.fixture
async def version(alice: Person) -> str:
    created: str = (await alice.post(VERSION, backup()))["version"]
    return created


async def state(person: Person) -> tuple[int, str]:
    described = await person.get(VERSION)
    return described["count"], described["etag"]


async def test_versions_are_made_described_changed_and_deleted(alice: Person, bob: Person) -> None:
    refused = await alice.refused("GET", VERSION)
    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    first = (await alice.post(VERSION, backup("first")))["version"]
    second = (await alice.post(VERSION, backup("second")))["version"]
    described = {**backup("second"), "version": second, "count": 0, "etag": "0"}
    assert await alice.get(VERSION) == described
    assert await alice.get(f"{VERSION}/{second}") == described
    assert (await alice.get(f"{VERSION}/{first}"))["auth_data"] == backup("first")["auth_data"]

    await alice.put(f"{VERSION}/{second}", {**backup("third"), "version": second})
    assert (await alice.get(VERSION))["auth_data"] == backup("third")["auth_data"]
    for changed in ({"algorithm": "other"}, {"version": first}):
        refused = await alice.refused("PUT", f"{VERSION}/{second}", {**backup("x"), **changed})
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
    assert (await alice.get(VERSION))["auth_data"] == backup("third")["auth_data"]

    for _ in range(2):
        assert await alice.delete(f"{VERSION}/{second}") == {}
    assert (await alice.get(VERSION))["version"] == first
    third = (await alice.post(VERSION, backup()))["version"]
    assert third not in (first, second)
    for method, unknown in (
        ("GET", second), ("PUT", second), ("DELETE", "77"), ("GET", "x"), ("GET", "01"),
        ("GET", "9" * 30), ("GET", "-1"),
    ):  # fmt: skip
        body = backup() if method == "PUT" else None
        refused = await alice.refused(method, f"{VERSION}/{unknown}", body)
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    assert (await bob.refused("GET", f"{VERSION}/{first}")).status == 404


async def test_keys_are_stored_and_found_at_three_levels(alice: Person, version: str) -> None:
    rooms = {
        ROOM: {"sessions": {"s/1": key("a"), "s2": key("b")}},
        OTHER_ROOM: {"sessions": {"s3": key("c")}},
    }
    assert await alice.put(path(), {"rooms": rooms}) == {"count": 3, "etag": "1"}
    assert await alice.get(KEYS, version=version) == {"rooms": rooms}
    assert await alice.call("GET", path(ROOM)) == rooms[ROOM]
    assert await alice.call("GET", path(ROOM, "s/1")) == key("a")

    more = {"sessions": {"s4": key("d")}}
    assert await alice.put(path(OTHER_ROOM), more) == {"count": 4, "etag": "2"}
    assert await alice.put(path(OTHER_ROOM, "s5"), key("e")) == {"count": 5, "etag": "3"}
    assert (await alice.call("GET", path(OTHER_ROOM)))["sessions"].keys() == {"s3", "s4", "s5"}
    assert await state(alice) == (5, "3")

    assert await alice.call("GET", path("!none:test.example")) == {"sessions": {}}
    refused = await alice.refused("GET", path(ROOM, "s3"))
    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")


async def test_keys_are_deleted_at_three_levels(alice: Person, version: str) -> None:
    sessions = {"sessions": {"s1": key(), "s2": key()}}
    await alice.put(path(), {"rooms": {ROOM: sessions, OTHER_ROOM: sessions}})
    assert await alice.delete(path(ROOM, "s1")) == {"count": 3, "etag": "2"}
    assert await alice.delete(path(ROOM, "s1")) == {"count": 3, "etag": "2"}
    assert await alice.delete(path(OTHER_ROOM)) == {"count": 1, "etag": "3"}
    left = {"rooms": {ROOM: {"sessions": {"s2": key()}}}}
    assert await alice.get(KEYS, version=version) == left
    assert await alice.delete(path()) == {"count": 0, "etag": "4"}
    assert await alice.get(KEYS, version=version) == {"rooms": {}}
    assert (await alice.refused("DELETE", path(version="2"))).status == 404


@pytest.mark.parametrize(
    ("stored", "offered", "replaced"),
    [
        (key(index=0), key("new", index=9, verified=True), True),
        (key(index=9, verified=True), key("new", index=0), False),
        (key(index=5), key("new", index=4, forwarded=9), True),
        (key(index=4, forwarded=9), key("new", index=5), False),
        (key(forwarded=2), key("new", forwarded=1), True),
        (key(forwarded=1), key("new", forwarded=2), False),
        (key(), key("new"), False),
    ],
)
async def test_of_two_keys_of_a_session_the_better_one_is_kept(
    alice: Person, version: str, stored: JsonObject, offered: JsonObject, *, replaced: bool
) -> None:
    await alice.put(path(ROOM, "s"), stored)
    answer = await alice.put(path(ROOM, "s"), offered)
    assert answer == {"count": 1, "etag": "2" if replaced else "1"}
    assert await alice.call("GET", path(ROOM, "s")) == (offered if replaced else stored)


async def test_only_the_current_version_takes_keys(alice: Person, version: str) -> None:
    await alice.put(path(ROOM, "s"), key())
    current = (await alice.post(VERSION, backup("second")))["version"]
    for unwritable in (version, "77", "x"):
        for target, body in (
            (path(version=unwritable), {"rooms": {}}),
            (path(ROOM, version=unwritable), {"sessions": {"s": key("new")}}),
            (path(ROOM, "s", version=unwritable), key("new")),
        ):
            refused = await alice.refused("PUT", target, body)
            assert (refused.status, refused.errcode) == (403, "M_WRONG_ROOM_KEYS_VERSION")
            assert refused.body["current_version"] == current
    assert await alice.call("GET", path(ROOM, "s")) == key()
    await alice.delete(f"{VERSION}/{current}")
    await alice.delete(f"{VERSION}/{version}")
    refused = await alice.refused("PUT", path(ROOM, "s"), key())
    assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")


async def test_devices_that_store_at_once_are_all_counted(alice: Person, version: str) -> None:
    answers = await asyncio.gather(
        *(alice.put(path(ROOM, f"s{number // 2}"), key()) for number in range(12))
    )
    assert await state(alice) == (6, "6")
    assert max(answer["count"] for answer in answers) == 6


async def test_a_large_backup_goes_up_and_comes_down_in_one_call(
    alice: Person, version: str
) -> None:
    rooms = {
        f"!{room}:test.example": {
            "sessions": {f"session{number}": key("x" * 900) for number in range(900)}
        }
        for room in range(3)
    }
    url = f"{alice.base_url}/_matrix/client{path()}"
    body = io.BytesIO(json.dumps({"rooms": rooms}).encode())
    headers = {"Authorization": f"Bearer {alice.token}"}
    async with alice.http.put(url, data=body, headers=headers) as response:
        assert await response.json() == {"count": 2700, "etag": "1"}
    assert await alice.get(KEYS, version=version) == {"rooms": rooms}
    assert await alice.call("GET", path("!1:test.example")) == rooms["!1:test.example"]


@pytest.mark.parametrize(
    "changed",
    [
        {"first_message_index": -1},
        {"first_message_index": 1.5},
        {"first_message_index": "1"},
        {"first_message_index": True},
        {"forwarded_count": 2**60},
        {"forwarded_count": None},
        {"is_verified": 1},
        {"session_data": []},
        {"session_data": None},
    ],
)
async def test_malformed_keys_are_refused(alice: Person, version: str, changed: JsonObject) -> None:
    bad = {**key(), **changed}
    for target, body in (
        (path(ROOM, "s"), bad),
        (path(ROOM), {"sessions": {"good": key(), "s": bad}}),
        (path(), {"rooms": {ROOM: {"sessions": {"good": key(), "s": bad}}}}),
    ):
        refused = await alice.refused("PUT", target, body)
        assert (refused.status, refused.errcode) == (400, "M_BAD_JSON")
    assert await state(alice) == (0, "0")


async def test_malformed_backup_calls_are_refused(alice: Person, version: str) -> None:
    for method, target, body in (
        ("POST", VERSION, {}),
        ("POST", VERSION, {"algorithm": ALGORITHM}),
        ("POST", VERSION, {"algorithm": 1, "auth_data": {}}),
        ("POST", VERSION, {"algorithm": ALGORITHM, "auth_data": []}),
        ("PUT", path(), {}),
        ("PUT", path(), {"rooms": []}),
        ("PUT", path(), {"rooms": {ROOM: {}}}),
        ("PUT", path(), {"rooms": {ROOM: {"sessions": []}}}),
        ("PUT", path(), {"rooms": {"": {"sessions": {"s": key()}}}}),
        ("PUT", path(ROOM, "\0"), key()),
        ("PUT", path(ROOM, "s" * 300), key()),
        ("GET", path("\0"), None),
        ("GET", path(ROOM, "\0"), None),
        ("DELETE", path("\0"), None),
        ("GET", KEYS, None),
        ("PUT", KEYS, {"rooms": {}}),
    ):
        refused = await alice.refused(method, target, body)
        assert refused.status == 400, (method, target)
        assert refused.errcode in ("M_BAD_JSON", "M_INVALID_PARAM", "M_MISSING_PARAM")
    assert await state(alice) == (0, "0")
    large = {"algorithm": ALGORITHM, "auth_data": {"x": "x" * 70_000}}
    assert (await alice.refused("POST", VERSION, large)).errcode == "M_TOO_LARGE"
