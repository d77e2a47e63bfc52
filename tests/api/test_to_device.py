"""To-device messages, over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from yizhan_testing.polling import polls

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person

JsonObject = dict[str, Any]


async def sends(person: Person, messages: JsonObject, txn_id: str, kind: str = "m.test") -> None:
    answer = await person.put(f"/v3/sendToDevice/{kind}/{txn_id}", {"messages": messages})
    assert answer == {}


async def receives(person: Person, *, since: str | None = None) -> list[JsonObject]:
    answer = await (person.syncs() if since is None else person.syncs(since=since))
    events: list[JsonObject] = answer.body.get("to_device", {}).get("events", [])
    return events


async def test_a_message_is_received_once_by_the_device_it_is_for(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    other = await homeserver.signs_in("bob")
    await sends(alice, {bob.user_id: {bob.device_id: {"n": 1, "text": "你好"}}}, "1")
    await sends(alice, {bob.user_id: {bob.device_id: {"n": 2}}}, "2")
    expected = [
        {"type": "m.test", "sender": alice.user_id, "content": {"n": 1, "text": "你好"}},
        {"type": "m.test", "sender": alice.user_id, "content": {"n": 2}},
    ]
    assert await receives(bob) == expected
    assert await receives(bob) == []
    assert await receives(other) == []


async def test_a_message_comes_again_until_a_later_sync_proves_that_it_came(
    alice: Person, bob: Person
) -> None:
    await bob.syncs()
    since = bob.since or ""
    await sends(alice, {bob.user_id: {bob.device_id: {}}}, "1")
    assert len(await receives(bob, since=since)) == 1
    assert len(await receives(bob, since=since)) == 1
    assert await receives(bob) == []
    assert await receives(bob, since=since) == []


async def test_the_same_transaction_id_sends_once_per_device_and_type(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    other = await homeserver.signs_in("alice")
    message: JsonObject = {bob.user_id: {bob.device_id: {}}}
    await asyncio.gather(*(sends(alice, message, "1") for _ in range(5)))
    await sends(alice, message, "1")
    assert len(await receives(bob)) == 1
    await sends(alice, message, "1", "m.other")
    await sends(other, message, "1")
    assert [event["type"] for event in await receives(bob)] == ["m.other", "m.test"]


async def test_a_star_means_each_of_the_users_devices_and_a_name_beats_it(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    other = await homeserver.signs_in("bob")
    await sends(alice, {bob.user_id: {"*": {"to": "all"}, other.device_id: {"to": "one"}}}, "1")
    assert [event["content"] for event in await receives(bob)] == [{"to": "all"}]
    assert [event["content"] for event in await receives(other)] == [{"to": "one"}]
    later = await homeserver.signs_in("bob")
    assert await receives(later) == []


async def test_a_long_poll_ends_when_a_message_comes(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    await bob.syncs()
    for number, device_id in enumerate((bob.device_id, "*")):
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            poll = tasks.create_task(bob.syncs(timeout_ms=60_000))
            await polls(homeserver, bob)
            await sends(alice, {bob.user_id: {device_id: {}}}, str(number))
        assert len(poll.result().body["to_device"]["events"]) == 1


async def test_many_messages_come_in_portions_without_gap_or_repetition(
    alice: Person, bob: Person
) -> None:
    await bob.syncs()
    for number in range(230):
        await sends(alice, {bob.user_id: {bob.device_id: {"n": number}}}, str(number))
    portions = []
    while events := await receives(bob):
        portions.append([event["content"]["n"] for event in events])
    assert [len(portion) for portion in portions] == [100, 100, 30]
    assert [n for portion in portions for n in portion] == list(range(230))


async def test_messages_for_nobody_are_passed_over(alice: Person, bob: Person) -> None:
    messages: JsonObject = {
        "@nobody:test.example": {"*": {}, "D": {}},
        "@carol:elsewhere.example": {"D": {}},
        bob.user_id: {"GONE": {}, "D\0": {}, "": {}, bob.device_id: {"n": 1}},
    }
    await sends(alice, messages, "1")
    assert [event["content"] for event in await receives(bob)] == [{"n": 1}]


async def test_nothing_waits_for_a_device_that_comes_back_under_the_same_name(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    await sends(alice, {bob.user_id: {bob.device_id: {}}}, "1")
    await bob.post("/v3/logout", {})
    await sends(alice, {bob.user_id: {bob.device_id: {}}}, "2")
    login = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "bob"},
        "password": bob.password,
        "device_id": bob.device_id,
    }
    bob.token = (await alice.post("/v3/login", login))["access_token"]
    assert await receives(bob) == []


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_BAD_JSON"),
        ({"messages": []}, 400, "M_BAD_JSON"),
        ({"messages": {"@bob:test.example": []}}, 400, "M_BAD_JSON"),
        ({"messages": {"@bob:test.example": {"*": "text"}}}, 400, "M_BAD_JSON"),
        ({"messages": {"bob": {"*": {}}}}, 400, "M_INVALID_PARAM"),
        ({"messages": {"@b\0:test.example": {"*": {}}}}, 400, "M_INVALID_PARAM"),
        ({"messages": {"@bob:test.example": {"*": {"a": "x" * 65_536}}}}, 413, "M_TOO_LARGE"),
    ],
)
async def test_malformed_messages_are_refused_and_none_is_sent(
    alice: Person, bob: Person, body: JsonObject, status: int, errcode: str
) -> None:
    good: JsonObject = {alice.user_id: {"*": {}}}
    if isinstance(body.get("messages"), dict):
        body = {"messages": {**good, **body["messages"]}}
    refused = await alice.refused("PUT", "/v3/sendToDevice/m.test/1", body)
    assert (refused.status, refused.errcode) == (status, errcode)
    assert await receives(alice) == await receives(bob) == []
    # The transaction id has not been used up.
    await sends(alice, good, "1")
    assert len(await receives(alice)) == 1


async def test_names_that_cannot_be_stored_are_refused(alice: Person) -> None:
    for path in ("m.test%00/1", "m.test/1%00", "m.test/" + "1" * 300):
        refused = await alice.refused("PUT", f"/v3/sendToDevice/{path}", {"messages": {}})
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
