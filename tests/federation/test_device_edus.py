"""Devices and cross-signing keys of people on other servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio
from nacl.signing import SigningKey

from yizhan_database import DatabaseUnavailable
from yizhan_server.app import MIGRATIONS
from yizhan_server.e2ee import remote_keys
from yizhan_server.e2ee.remote_lists import RemoteLists
from yizhan_testing.crypto_identity import CrossSigningIdentity, CryptoDevice, public_key
from yizhan_testing.databases import StatementRecorder, fresh_database
from yizhan_testing.departments import departments_with_doors
from yizhan_testing.neighbours import meet, sees, shares_room, tells
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest

    from yizhan_server.protocol.identifiers import UserID
    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import Person, SyncAnswer
    from yizhan_testing.neighbours import Pair

JsonObject = dict[str, Any]


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Pair]:
    async with departments_with_doors(tmp_path, dialect, 2) as servers:
        yield servers


async def uploads_keys(person: Person) -> CryptoDevice:
    device = CryptoDevice(person.user_id, person.device_id)
    await person.post(
        "/v3/keys/upload",
        {"device_keys": device.keys(), "one_time_keys": device.one_time_keys("A", "B")},
    )
    return device


async def queries(person: Person, *others: str, **more: Any) -> JsonObject:
    body = {"device_keys": {other: [] for other in others}, **more}
    return await person.post("/v3/keys/query", body)


async def devices_seen(person: Person, other: Person) -> set[str]:
    answer = await queries(person, other.user_id)
    assert answer["failures"] == {}
    return set(answer["device_keys"][other.user_id])


def changed(*people: Person) -> Callable[[SyncAnswer], bool]:
    wanted = {person.user_id for person in people}
    return lambda answer: wanted <= set(answer.body.get("device_lists", {}).get("changed", []))


def questions(pair: Pair) -> list[str]:
    """Return whose lists the second server has been asked for."""
    path = "/_matrix/federation/v1/user/devices/"
    return [each.removeprefix(path) for each in pair[1].door.asked if each.startswith(path)]


async def test_keys_of_somebody_elsewhere_are_seen_and_one_time_keys_taken(pair: Pair) -> None:
    alice, bob, _ = await meet(pair)
    device = await uploads_keys(bob)
    answer = await queries(alice, bob.user_id, "@nobody:" + pair[1].server_name)
    keys = answer["device_keys"][bob.user_id][bob.device_id]
    assert {k: v for k, v in keys.items() if k != "unsigned"} == device.keys()
    assert answer["failures"] == {}
    wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    taken = [await alice.post("/v3/keys/claim", wanted) for _ in range(3)]
    given = [each["one_time_keys"].get(bob.user_id, {}).get(bob.device_id) for each in taken]
    assert {next(iter(each)) for each in given[:2]} == {
        "signed_curve25519:A", "signed_curve25519:B"
    }  # fmt: skip
    assert given[2] is None
    assert all(each["failures"] == {} for each in taken)


async def test_those_who_share_no_room_see_one_another_too(pair: Pair) -> None:
    alice, bob = await pair[0].person("alice"), await pair[1].person("bob")
    device, other = await uploads_keys(bob), await pair[1].signs_in("bob")
    await uploads_keys(other)
    identity = CrossSigningIdentity(bob.user_id)
    await bob.post("/v3/keys/device_signing/upload", identity.body())
    body = {"device_keys": {bob.user_id: [bob.device_id]}}
    answer = await alice.post("/v3/keys/query", body)
    [(device_id, keys)] = answer["device_keys"][bob.user_id].items()
    assert device_id == bob.device_id
    assert keys["keys"] == device.keys()["keys"]
    assert answer["master_keys"][bob.user_id]["keys"] == identity.master_key()["keys"]


async def test_a_new_device_and_one_that_ends_are_noticed_without_asking_again(
    pair: Pair,
) -> None:
    alice, bob, _ = await meet(pair)
    await uploads_keys(bob)
    assert await devices_seen(alice, bob) == {bob.device_id}
    await alice.syncs()
    before_that = questions(pair)

    second = await pair[1].signs_in("bob")
    await uploads_keys(second)
    await sees(alice, changed(bob))
    async with asyncio.timeout(10):
        while await devices_seen(alice, bob) != {bob.device_id, second.device_id}:
            await alice.syncs(timeout_ms=500)
    before = alice.since
    await second.post("/v3/logout", {})
    await sees(alice, changed(bob))
    async with asyncio.timeout(10):
        while await devices_seen(alice, bob) != {bob.device_id}:
            await alice.syncs(timeout_ms=500)
    await alice.syncs()
    path = "/v3/keys/changes"
    told = await alice.call("GET", path, params={"from": before or "", "to": alice.since or ""})
    assert bob.user_id in told["changed"]
    assert questions(pair) == before_that


async def test_all_devices_at_once_end_without_the_list_being_asked_for(pair: Pair) -> None:
    alice, bob, _ = await meet(pair)
    others = [await pair[1].signs_in("bob") for _ in range(3)]
    for each in (bob, *others):
        await uploads_keys(each)
    await devices_seen(alice, bob)
    before_that = questions(pair)
    await bob.post("/v3/delete_devices", {
        "devices": [each.device_id for each in others],
        "auth": {"type": "m.login.password", "password": bob.password,
                 "identifier": {"type": "m.id.user", "user": "bob"}},
    })  # fmt: skip
    async with asyncio.timeout(10):
        while await devices_seen(alice, bob) != {bob.device_id}:
            await alice.syncs(timeout_ms=500)
    assert questions(pair) == before_that


async def test_who_begins_and_ends_to_share_a_room_is_told(pair: Pair) -> None:
    alice, bob, room = await meet(pair)
    await uploads_keys(bob)
    answer = await alice.syncs()
    assert await devices_seen(alice, bob) == {bob.device_id}
    await bob.leaves(room)
    await sees(alice, lambda answer: answer.body.get("device_lists", {}).get("left") == [
        bob.user_id
    ])  # fmt: skip
    # What happens while they share nothing is not told.
    second = await pair[1].signs_in("bob")
    await uploads_keys(second)
    await shares_room(alice, bob, pair[0])
    await sees(alice, changed(bob))
    assert await devices_seen(alice, bob) == {bob.device_id, second.device_id}
    assert answer.next_batch


async def test_an_identity_and_its_change_are_seen_and_signatures_stay_at_home(
    pair: Pair,
) -> None:
    alice, bob, _ = await meet(pair)
    mine, theirs = CrossSigningIdentity(alice.user_id), CrossSigningIdentity(bob.user_id)
    await alice.post("/v3/keys/device_signing/upload", mine.body())
    await bob.post("/v3/keys/device_signing/upload", theirs.body())

    async def master_key_seen(of: CrossSigningIdentity) -> JsonObject:
        async with asyncio.timeout(10):
            while True:
                seen: JsonObject = (await queries(alice, bob.user_id))["master_keys"]
                if seen.get(bob.user_id, {}).get("keys") == of.master_key()["keys"]:
                    found: JsonObject = seen[bob.user_id]
                    return found
                await alice.syncs(timeout_ms=500)

    await master_key_seen(theirs)
    signed = mine.sign_user(theirs.master_key())
    key_id = public_key(theirs.master)
    upload = {bob.user_id: {key_id: signed}}
    assert await alice.post("/v3/keys/signatures/upload", upload) == {"failures": {}}
    assert alice.user_id in (await master_key_seen(theirs))["signatures"]
    assert alice.user_id not in (
        (await queries(bob, bob.user_id))["master_keys"][bob.user_id].get("signatures", {})
    )

    await alice.syncs()
    replaced = CrossSigningIdentity(bob.user_id)
    auth = {"type": "m.login.password", "password": bob.password,
            "identifier": {"type": "m.id.user", "user": "bob"}}  # fmt: skip
    body = {**replaced.body(), "auth": auth}
    await bob.post("/v3/keys/device_signing/upload", body)
    await sees(alice, changed(bob))
    assert alice.user_id not in (await master_key_seen(replaced)).get("signatures", {})


async def hears_all(alice: Person, bob: Person, identity: CrossSigningIdentity) -> None:
    """Sync until somebody's identity is seen and no more is told of it."""

    async def is_seen() -> None:
        seen = (await queries(alice, bob.user_id))["master_keys"].get(bob.user_id, {})
        assert seen.get("keys") == identity.master_key()["keys"]

    await until(alice, is_seen)
    while (await alice.syncs(timeout_ms=500)).body.get("device_lists"):
        pass


def update(person: Person, device: CryptoDevice, stream_id: int, *prev: int) -> JsonObject:
    return {
        "user_id": person.user_id, "device_id": device.device_id, "stream_id": stream_id,
        "prev_id": list(prev), "keys": device.keys(),
    }  # fmt: skip


async def test_a_gap_has_the_list_asked_for_and_a_replay_changes_nothing(pair: Pair) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    await uploads_keys(bob)
    await devices_seen(alice, bob)
    known = await b.parts.services.peer_key_queries.devices(bob.user_id)  # type: ignore[arg-type]
    now = known["stream_id"]
    before_that = questions(pair)

    # A device that was never there: what the server itself says is right once it is asked.
    ghost = CryptoDevice(bob.user_id, "GHOST")
    await tells(b, a, "m.device_list_update", update(bob, ghost, now + 5, now))
    assert await devices_seen(alice, bob) == {bob.device_id, "GHOST"}
    await alice.syncs()
    for _ in range(2):
        await tells(b, a, "m.device_list_update", update(bob, ghost, now + 5, now))
        await tells(b, a, "m.device_list_update", update(bob, ghost, now))
    assert (await alice.syncs()).body.get("device_lists", {}) == {}
    assert questions(pair) == before_that
    await tells(b, a, "m.device_list_update", update(bob, ghost, now + 9, now + 7))
    await sees(alice, changed(bob))
    assert await devices_seen(alice, bob) == {bob.device_id}
    assert questions(pair) == [*before_that, bob.user_id]


async def test_a_server_changes_no_keys_of_others(pair: Pair) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    carol = await a.person("carol")
    stranger = await b.person("stranger")
    device = await uploads_keys(bob)
    identity = CrossSigningIdentity(bob.user_id)
    await bob.post("/v3/keys/device_signing/upload", identity.body())
    await hears_all(alice, bob, identity)
    before = await queries(alice, bob.user_id, carol.user_id)

    ghost = CryptoDevice(carol.user_id, "GHOST")
    await tells(b, a, "m.device_list_update", update(carol, ghost, 10**6))
    ghost = CryptoDevice(stranger.user_id, "GHOST")
    await tells(b, a, "m.device_list_update", update(stranger, ghost, 10**6))
    for change in (
        {"keys": CryptoDevice(carol.user_id, bob.device_id).keys()},
        {"keys": CryptoDevice(bob.user_id, "OTHER").keys()},
        {"keys": 7}, {"stream_id": -1}, {"stream_id": "1"}, {"prev_id": 3}, {"device_id": ""},
    ):  # fmt: skip
        await tells(b, a, "m.device_list_update", {**update(bob, device, 10**6), **change})
    other = CrossSigningIdentity(carol.user_id)
    content = {"user_id": carol.user_id, "master_key": other.master_key()}
    await tells(b, a, "m.signing_key_update", content)
    content = {"user_id": bob.user_id, "master_key": other.master_key()}
    await tells(b, a, "m.signing_key_update", content)
    await tells(b, a, "m.signing_key_update", {"user_id": bob.user_id, "master_key": {}})
    assert (await alice.syncs()).body.get("device_lists", {}) == {}
    assert await queries(alice, bob.user_id, carol.user_id) == before


async def test_a_self_signing_key_that_nobody_signed_is_not_believed(pair: Pair) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    identity = CrossSigningIdentity(bob.user_id)
    await bob.post("/v3/keys/device_signing/upload", identity.body())
    await sees(alice, changed(bob))
    await queries(alice, bob.user_id)
    forged = CrossSigningIdentity(bob.user_id, master=SigningKey.generate())
    content = {
        "user_id": bob.user_id,
        "master_key": identity.master_key(),
        "self_signing_key": forged.body()["self_signing_key"],
    }
    await tells(b, a, "m.signing_key_update", content)
    answer = await queries(alice, bob.user_id)
    key = answer["self_signing_keys"][bob.user_id]
    assert key["keys"] == identity.body()["self_signing_key"]["keys"]


async def test_a_server_that_is_away_is_named_and_missed_people_are_told_of_later(
    pair: Pair,
) -> None:
    alice, bob, room = await meet(pair)
    b = pair[1]
    await b.door.closes()  # it still speaks to others
    await uploads_keys(bob)
    claim = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    assert list((await alice.post("/v3/keys/claim", claim))["failures"]) == [b.server_name]
    assert list((await queries(alice, bob.user_id))["failures"]) == [b.server_name]
    await b.door.opens()
    await bob.says(room, "we are back")
    await sees(alice, changed(bob))

    async def alice_sees_his_device() -> None:
        assert await devices_seen(alice, bob) == {bob.device_id}

    await until(alice, alice_sees_his_device)


async def asks_for(pair: Pair, alice: Person, *people: Person) -> None:
    """Wait until the first server has asked for lists; no client has."""
    async with asyncio.timeout(10):
        while questions(pair) != [person.user_id for person in people]:
            await alice.syncs(timeout_ms=100)


async def test_a_list_is_asked_for_when_a_change_is_told_and_once_more_after_a_gap(
    pair: Pair,
) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    await alice.syncs()
    device = await uploads_keys(bob)
    # Clients are told once, when it is here.
    await sees(alice, changed(bob))
    assert questions(pair) == [bob.user_id]
    assert "device_lists" not in (await alice.syncs(timeout_ms=200)).body
    assert await devices_seen(alice, bob) == {bob.device_id}
    assert questions(pair) == [bob.user_id]
    await tells(b, a, "m.device_list_update", update(bob, device, 10**6, 10**6 - 1))
    await asks_for(pair, alice, bob, bob)
    assert await devices_seen(alice, bob) == {bob.device_id}
    assert questions(pair) == [bob.user_id, bob.user_id]


async def test_who_comes_back_with_another_device_is_asked_for_before_anybody_wants_it(
    pair: Pair,
) -> None:
    alice, bob, room = await meet(pair)
    await uploads_keys(bob)
    await asks_for(pair, alice, bob)
    await bob.leaves(room)
    second = await pair[1].signs_in("bob")
    await uploads_keys(second)
    await shares_room(alice, bob, pair[0])
    await asks_for(pair, alice, bob, bob)
    assert await devices_seen(alice, bob) == {bob.device_id, second.device_id}
    assert questions(pair) == [bob.user_id, bob.user_id]


async def test_what_a_server_says_of_its_devices_is_handed_on_with_names_and_gaps(
    pair: Pair,
) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    device = await uploads_keys(bob)
    assert await devices_seen(alice, bob) == {bob.device_id}
    known = await b.parts.services.peer_key_queries.devices(bob.user_id)  # type: ignore[arg-type]
    now = known["stream_id"]
    named = {**update(bob, device, now + 1, now), "device_display_name": "鲍勃的手机"}
    await tells(b, a, "m.device_list_update", named)
    bare = {**update(bob, device, now + 2, now + 1), "device_id": "BARE", "keys": {"of": "another"}}
    await tells(b, a, "m.device_list_update", {**bare, "device_display_name": "长" * 200})
    seen = (await queries(alice, bob.user_id))["device_keys"][bob.user_id]
    assert seen[bob.device_id] == {
        **device.keys(), "unsigned": {"device_display_name": "鲍勃的手机"}
    }  # fmt: skip
    # Of no use to anybody, and yet no other device than it is.
    assert seen["BARE"] == {
        "user_id": bob.user_id, "device_id": "BARE", "of": "another",
        "algorithms": [], "keys": {}, "signatures": {}, "unsigned": {},
    }  # fmt: skip


async def test_missed_people_are_told_of_once_the_disk_has_room_again(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob, room = await meet(pair)
    b = pair[1]
    await b.door.closes()  # it still speaks to others
    await uploads_keys(bob)
    assert list((await queries(alice, bob.user_id))["failures"]) == [b.server_name]
    attempts = iter(range(2))
    tell_changed = RemoteLists.tell_changed

    async def tells_late(lists: RemoteLists, user_id: UserID) -> None:
        if next(attempts, None) is not None:
            raise DatabaseUnavailable("the disk is full")
        await tell_changed(lists, user_id)

    monkeypatch.setattr(RemoteLists, "tell_changed", tells_late)
    monkeypatch.setattr(remote_keys, "RETRY_S", 0.05)
    await b.door.opens()
    await bob.says(room, "we are back")
    await sees(alice, changed(bob))
    assert next(attempts, None) is None


async def test_nothing_is_lost_while_a_server_is_away(pair: Pair) -> None:
    a, b = pair
    alice, bob, room = await meet(pair)
    await uploads_keys(bob)
    await devices_seen(alice, bob)
    await alice.syncs()
    before_that = questions(pair)
    await a.door.closes()
    second = await b.signs_in("bob")
    await uploads_keys(second)
    for number in range(45):  # more changes than one transaction holds
        await second.put(f"/v3/devices/{second.device_id}", {"display_name": f"no. {number}"})
    for number in range(120):
        messages = {alice.user_id: {alice.device_id: {"n": number}}}
        await bob.put(f"/v3/sendToDevice/m.test/{number}", {"messages": messages})
    await bob.post("/v3/logout", {})
    await a.door.opens()
    await alice.says(room, "we are back")

    found: list[int] = []
    has_changed = False
    async with asyncio.timeout(20):
        while len(found) < 120 or not has_changed:
            answer = await alice.syncs(timeout_ms=1000)
            events = answer.body.get("to_device", {}).get("events", [])
            found += [event["content"]["n"] for event in events]
            has_changed |= changed(bob)(answer)
    assert found == list(range(120))
    async with asyncio.timeout(10):
        while await devices_seen(alice, bob) != {second.device_id}:
            await alice.syncs(timeout_ms=500)
    assert questions(pair) == before_that


async def test_nothing_of_it_reads_a_whole_table(tmp_path: Path) -> None:
    await fresh_database("sqlite", MIGRATIONS, tmp_path / "first")
    overrides: dict[str, Any] = {"presence.federated": True}
    with StatementRecorder() as recorder:
        async with departments_with_doors(tmp_path, "sqlite", 2, **overrides) as pair:
            alice, bob, room = await meet(pair)
            await uploads_keys(bob)
            await devices_seen(alice, bob)
            identity = CrossSigningIdentity(bob.user_id)
            await bob.post("/v3/keys/device_signing/upload", identity.body())
            await sees(alice, changed(bob))
            messages = {alice.user_id: {"*": {"n": 1}}}
            await bob.put("/v3/sendToDevice/m.test/1", {"messages": messages})
            path = f"/v3/rooms/{quote(room, safe='')}/typing/{bob.user_id}"
            await bob.put(path, {"typing": True})
            await bob.post("/v3/logout", {})
            async with asyncio.timeout(10):
                while await devices_seen(alice, bob):
                    await alice.syncs(timeout_ms=500)
    [file] = (tmp_path / "department-0").glob("test*.db")
    assert recorder.full_scans(file) == []
    for table in ("remote_device_list", "received_message", "device_change AS d"):
        assert any(table in sql for sql in recorder.statements), table
