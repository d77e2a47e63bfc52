"""What servers tell one another beside events, and what they do not believe."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio

from yizhan_server.e2ee.to_device import MAX_ADDRESSED
from yizhan_server.federation.ephemeral_edus import MAX_ENTRIES
from yizhan_testing.departments import departments_with_doors
from yizhan_testing.neighbours import meet, sees, shares_room, tells
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import Person, SyncAnswer
    from yizhan_testing.neighbours import Pair

JsonObject = dict[str, Any]


@pytest_asyncio.fixture
async def pair(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Pair]:
    overrides: dict[str, Any] = {"presence.federated": True}
    async with departments_with_doors(tmp_path, dialect, 2, **overrides) as servers:
        yield servers


def ephemeral(answer: SyncAnswer, room: str, kind: str) -> list[JsonObject]:
    events = answer.room(room).get("ephemeral", {}).get("events", [])
    return [event["content"] for event in events if event["type"] == kind]


def is_typing(room: str, *users: Person) -> Callable[[SyncAnswer], bool]:
    wanted = [{"user_ids": [user.user_id for user in users]}]
    return lambda answer: ephemeral(answer, room, "m.typing") == wanted


async def types(person: Person, room: str, *, typing: bool = True) -> None:
    path = f"/v3/rooms/{quote(room, safe='')}/typing/{person.user_id}"
    await person.put(path, {"typing": typing, "timeout": 20_000})


async def test_typing_is_seen_on_the_other_server_and_ends_there(pair: Pair) -> None:
    alice, bob, room = await meet(pair)
    await types(bob, room)
    await sees(alice, is_typing(room, bob))
    await types(bob, room, typing=False)
    await sees(alice, is_typing(room))


async def test_nobody_is_made_to_type_by_a_server_that_may_not_say_so(pair: Pair) -> None:
    a, b = pair
    alice, bob, room = await meet(pair)
    carol = await b.person("carol")
    hidden = await alice.creates_room()
    for room_id, user_id in (
        (room, alice.user_id),  # not a user of the server that speaks
        (room, carol.user_id),  # not in the room
        (hidden, bob.user_id),  # a room that the server is not in
        ("!nowhere:nowhere", bob.user_id),
    ):
        await tells(b, a, "m.typing", {"room_id": room_id, "user_id": user_id, "typing": True})
    await tells(b, a, "m.typing", {"room_id": room, "user_id": 7})
    answer = await alice.syncs()
    assert ephemeral(answer, room, "m.typing") == []
    assert ephemeral(answer, hidden, "m.typing") == []
    # And the same from one who may.
    await types(bob, room)
    await sees(alice, is_typing(room, bob))


async def test_a_server_that_is_shut_out_of_a_room_does_not_type_in_it(pair: Pair) -> None:
    a, b = pair
    alice, bob, room = await meet(pair)
    acl = {"allow": ["*"], "deny": [b.server_name.split(":")[0]], "allow_ip_literals": True}
    await alice.sets(room, "m.room.server_acl", acl)
    content = {"room_id": room, "user_id": bob.user_id, "typing": True}
    await tells(b, a, "m.typing", content)
    event = await alice.says(room, "only here")
    receipt = {"event_ids": [event], "data": {"ts": 1}}
    await tells(b, a, "m.receipt", {room: {"m.read": {bob.user_id: receipt}}})
    answer = await alice.syncs()
    assert ephemeral(answer, room, "m.typing") == []
    assert ephemeral(answer, room, "m.receipt") == []


def has_read(room: str, event: str, person: Person, **more: Any) -> Callable[[SyncAnswer], bool]:
    def check(answer: SyncAnswer) -> bool:
        for content in ephemeral(answer, room, "m.receipt"):
            details = content.get(event, {}).get("m.read", {}).get(person.user_id)
            if details is not None:
                assert {k: v for k, v in details.items() if k != "ts"} == more
                return True
        return False

    return check


async def reads(person: Person, room: str, event: str, kind: str = "m.read", **more: Any) -> None:
    path = f"/v3/rooms/{quote(room, safe='')}/receipt/{kind}/{quote(event, safe='')}"
    await person.post(path, more)


async def test_receipts_are_seen_on_the_other_server(pair: Pair) -> None:
    alice, bob, room = await meet(pair)
    first = await alice.says(room, "one")
    second = await alice.says(room, "two")
    reply = {"rel_type": "m.thread", "event_id": first}
    third = await alice.says(room, "in a thread", **{"m.relates_to": reply})

    async def bob_has_all() -> None:
        await bob.get(f"/v3/rooms/{quote(room, safe='')}/event/{quote(third, safe='')}")

    async def arrived() -> None:
        refused = False
        try:
            await bob_has_all()
        except Exception:  # noqa: BLE001 (whatever the refusal, it is tried again)
            refused = True
        assert not refused

    await until(bob, arrived)
    await reads(bob, room, second, "m.read.private")
    await reads(bob, room, first)
    await sees(alice, has_read(room, first, bob))
    await reads(bob, room, third, thread_id=first)
    await sees(alice, has_read(room, third, bob, thread_id=first))
    # The private one stayed at home.
    everything = (await alice.get("/v3/sync"))["rooms"]["join"][room]["ephemeral"]["events"]
    assert second not in {key for event in everything for key in event["content"]}


async def test_a_server_moves_no_receipts_of_others(pair: Pair) -> None:
    a, b = pair
    alice, bob, room = await meet(pair)
    elsewhere = await alice.creates_room()
    outside = await alice.says(elsewhere, "not theirs")
    inside = await alice.says(room, "hello")

    def receipt(event_id: str, **data: Any) -> JsonObject:
        return {"event_ids": [event_id], "data": {"ts": 5, **data}}

    await tells(b, a, "m.receipt", {
        elsewhere: {"m.read": {bob.user_id: receipt(outside)}},
        room: {
            "m.read": {
                alice.user_id: receipt(inside),
                bob.user_id: receipt(outside),
                "@carol:" + b.server_name: receipt(inside),
                "nobody": receipt(inside),
            },
            "m.read.private": {bob.user_id: receipt(inside)},
        },
    })  # fmt: skip
    for wrong in (receipt(inside, thread_id="$other"), {"event_ids": inside}, receipt(""), 7):
        await tells(b, a, "m.receipt", {room: {"m.read": {bob.user_id: wrong}}})
    rooms: JsonObject = {f"!{number}:elsewhere.test": {} for number in range(MAX_ENTRIES)}
    rooms[room] = {"m.read": {bob.user_id: receipt(inside)}}
    await tells(b, a, "m.receipt", rooms)
    answer = await alice.syncs()
    assert ephemeral(answer, room, "m.receipt") == []
    assert ephemeral(answer, elsewhere, "m.receipt") == []
    await tells(b, a, "m.receipt", {room: {"m.read": {bob.user_id: receipt(inside)}}})
    await sees(alice, has_read(room, inside, bob))


def presence_of(answer: SyncAnswer, person: Person) -> str | None:
    events = answer.body.get("presence", {}).get("events", [])
    found = [e["content"]["presence"] for e in events if e["sender"] == person.user_id]
    return found[-1] if found else None


async def test_presence_is_seen_on_the_other_server_where_both_wish_it(pair: Pair) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    carol = await b.person("carol")
    await alice.syncs()
    await bob.put(f"/v3/presence/{bob.user_id}/status", {
        "presence": "unavailable", "status_msg": "at lunch",
    })  # fmt: skip
    await sees(alice, lambda answer: presence_of(answer, bob) == "unavailable")
    status = await alice.get(f"/v3/presence/{bob.user_id}/status")
    assert status["status_msg"] == "at lunch"
    for user_id in (alice.user_id, carol.user_id):
        said = {"user_id": user_id, "presence": "unavailable", "last_active_ago": 1}
        await tells(b, a, "m.presence", {"push": [said]})
    parts = a.parts.services.presence
    assert parts.get(carol.user_id) == {"presence": "offline"}  # type: ignore[arg-type]
    own = await alice.get(f"/v3/presence/{alice.user_id}/status")
    assert own["presence"] == "online"


async def test_whoever_comes_into_a_room_and_those_who_are_there_see_one_another_at_once(
    pair: Pair,
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    for person in (alice, bob):
        await person.syncs()
        await person.put(f"/v3/presence/{person.user_id}/status", {
            "presence": "online", "status_msg": f"it is {person.user_id}",
        })  # fmt: skip
        await person.syncs()
    # Nothing changes from here on but who shares a room.
    room = await shares_room(alice, bob, a)
    for person, other in ((alice, bob), (bob, alice)):
        await sees(
            person,
            lambda answer, of=other: presence_of(answer, of) == "online",  # type: ignore[misc]
        )
        status = await person.get(f"/v3/presence/{other.user_id}/status")
        assert status["status_msg"] == f"it is {other.user_id}"
    old = await bob.get(f"/v3/rooms/{quote(room, safe='')}/initialSync")
    found = {each["sender"]: each["content"]["presence"] for each in old["presence"]}
    assert found == {alice.user_id: "online", bob.user_id: "online"}
    # The second of a server comes into a room that it knows.
    carol = await b.person("carol")
    await carol.syncs()
    await carol.call(
        "POST", f"/v3/join/{quote(room, safe='')}", {}, params={"via": a.server_name}
    )  # fmt: skip
    await sees(alice, lambda answer: presence_of(answer, carol) == "online")


async def test_what_is_said_too_early_is_believed_once_a_room_is_shared_and_not_before(
    pair: Pair,
) -> None:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    await alice.syncs()
    said = {"user_id": bob.user_id, "presence": "unavailable", "last_active_ago": 1}
    await tells(b, a, "m.presence", {"push": [said]})
    presence = a.parts.services.presence
    assert presence.get(bob.user_id) == {"presence": "offline"}  # type: ignore[arg-type]
    await shares_room(alice, bob, a)
    await sees(alice, lambda answer: presence_of(answer, bob) == "unavailable")


async def test_nobody_was_active_longer_ago_than_can_be_written(pair: Pair) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    await alice.syncs()
    said = {"user_id": bob.user_id, "presence": "unavailable", "last_active_ago": 2**64 - 1}
    await tells(b, a, "m.presence", {"push": [said]})
    await sees(alice, lambda answer: presence_of(answer, bob) == "unavailable")
    status = await alice.get(f"/v3/presence/{bob.user_id}/status")
    assert status["last_active_ago"] < 2**53


def to_device(answer: SyncAnswer) -> list[JsonObject]:
    events: list[JsonObject] = answer.body.get("to_device", {}).get("events", [])
    return events


async def sends_to_device(
    sender: Person, messages: JsonObject, txn_id: str, kind: str = "m.room_key_request"
) -> None:
    await sender.put(f"/v3/sendToDevice/{kind}/{txn_id}", {"messages": messages})


async def collects(person: Person, count: int) -> list[JsonObject]:
    """Sync until so many to-device messages have come."""
    found: list[JsonObject] = []

    def enough(answer: SyncAnswer) -> bool:
        found.extend(to_device(answer))
        return len(found) >= count

    await sees(person, enough)
    return found


async def test_to_device_messages_cross_once_and_in_order(pair: Pair) -> None:
    alice, bob, _ = await meet(pair)
    second = await pair[1].signs_in("bob")
    for number in range(5):
        message = {bob.user_id: {bob.device_id: {"n": number}}}
        for _ in range(2):  # a client that did not get the answer
            await sends_to_device(alice, message, f"t{number}")
    await sends_to_device(alice, {bob.user_id: {"*": {"n": "all"}}}, "all")
    found = await collects(bob, 6)
    assert [event["content"]["n"] for event in found] == [0, 1, 2, 3, 4, "all"]
    assert {(event["sender"], event["type"]) for event in found} == {
        (alice.user_id, "m.room_key_request")
    }
    assert [event["content"]["n"] for event in await collects(second, 1)] == ["all"]


async def test_a_to_device_message_that_comes_again_is_shown_once(pair: Pair) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)

    async def sent(message_id: str, n: int, txn_id: str | None = None) -> None:
        await tells(b, a, "m.direct_to_device", {
            "sender": bob.user_id, "type": "m.test", "message_id": message_id,
            "messages": {alice.user_id: {alice.device_id: {"n": n}}},
        }, txn_id)  # fmt: skip

    await sent("one", 1, "txn")
    await sent("one", 1, "txn")
    await sent("one", 1)
    await sent("two", 2)
    found = await collects(alice, 2)
    assert [event["content"]["n"] for event in found] == [1, 2]
    assert to_device(await alice.syncs()) == []


async def test_a_server_sends_to_device_messages_of_its_own_users_to_those_here(
    pair: Pair,
) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)

    async def sent(**change: Any) -> None:
        await tells(b, a, "m.direct_to_device", {
            "sender": bob.user_id, "type": "m.test", "message_id": secrets.token_hex(8),
            "messages": {alice.user_id: {alice.device_id: {"n": 0}}}, **change,
        })  # fmt: skip

    await sent(sender=alice.user_id)
    await sent(sender="bob")
    await sent(message_id="")
    await sent(messages={alice.user_id: {"NODEVICE": {"n": 0}}})
    await sent(messages={"@nobody:" + a.server_name: {"*": {"n": 0}}})
    await sent(messages={bob.user_id: {bob.device_id: {"n": 0}}})
    await sent(messages={alice.user_id: {alice.device_id: {"long": "x" * 70_000}}})
    await sent(messages={alice.user_id: 7})
    await sent(messages={"nobody": {}})
    await sent(messages={alice.user_id: {alice.device_id: {"n": "right"}}})
    found = await collects(alice, 1)
    assert [event["content"]["n"] for event in found] == ["right"]


async def test_a_message_to_more_devices_than_there_are_is_taken_by_nobody(pair: Pair) -> None:
    a, b = pair
    alice, bob, _ = await meet(pair)
    for number, count in enumerate((MAX_ADDRESSED + 1, MAX_ADDRESSED)):
        devices: JsonObject = {f"D{each}": {} for each in range(count - 1)}
        content = {
            "sender": bob.user_id, "type": "m.test", "message_id": f"m{number}",
            "messages": {alice.user_id: {alice.device_id: {"n": number}, **devices}},
        }  # fmt: skip
        await tells(b, a, "m.direct_to_device", content)
    assert [each["content"] for each in await collects(alice, 1)] == [{"n": 1}]
    call: JsonObject = {
        "messages": {alice.user_id: {f"D{each}": {} for each in range(MAX_ADDRESSED + 1)}}
    }
    refused = await alice.refused("PUT", "/v3/sendToDevice/m.test/1", call)
    assert refused.status == 413


async def test_large_to_device_calls_arrive_whole(pair: Pair) -> None:
    alice, bob, _ = await meet(pair)
    devices = [bob, *[await pair[1].signs_in("bob") for _ in range(3)]]
    contents = {each.device_id: {"key": "k" * 40_000} for each in devices}
    await sends_to_device(alice, {bob.user_id: contents}, "large")
    for each in devices:
        [event] = await collects(each, 1)
        assert len(event["content"]["key"]) == 40_000


async def test_a_server_that_is_not_spoken_with_gets_no_to_device_message(pair: Pair) -> None:
    alice, bob, _ = await meet(pair)
    await sends_to_device(
        alice,
        {"@dave:elsewhere.example": {"*": {"n": 1}}, bob.user_id: {"*": {"n": 2}}},
        "both",
    )
    assert [event["content"]["n"] for event in await collects(bob, 1)] == [2]
    rows = await pair[0].parts.services.db.rows("SELECT server FROM busy_destination")
    assert ("elsewhere.example",) not in [tuple(row) for row in rows]
