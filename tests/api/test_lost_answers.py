"""A client that lost an answer asks the same again: nothing is lost to it, and nothing doubled.

Spec: client-server API, "Syncing", "Send-to-Device messaging".
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from yizhan_server.sync import initial
from yizhan_testing.homeserver import SyncAnswer

if TYPE_CHECKING:
    from typing import Any

    from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person

LAZY = json.dumps({"room": {"state": {"lazy_load_members": True}}})


async def asks(person: Person, since: str | None = None, **params: str) -> SyncAnswer:
    """Sync without taking notice of the answer, as if it was lost."""
    if since is not None:
        params["since"] = since
    return SyncAnswer(await person.get("/v3/sync", filter=LAZY, **params))


async def sends_to_device(sender: Person, to: Person, number: int) -> None:
    messages = {to.user_id: {to.device_id: {"n": number}}}
    await sender.put(f"/v3/sendToDevice/m.test/{number}", {"messages": messages})


def numbers(answer: SyncAnswer) -> list[int]:
    return [event["content"]["n"] for event in answer.body.get("to_device", {}).get("events", [])]


def timeless(value: Any) -> Any:
    """Return an answer without what is counted from the moment of asking."""
    if isinstance(value, dict):
        return {
            key: timeless(part)
            for key, part in value.items()
            if key not in ("age", "last_active_ago", "currently_active")
        }
    return [timeless(part) for part in value] if isinstance(value, list) else value


async def uploads_keys(person: Person, count: int) -> None:
    """Upload one-time keys; the old unsigned kind will do."""
    keys = {f"curve25519:K{number}": f"key{number}" for number in range(count)}
    await person.post("/v3/keys/upload", {"one_time_keys": keys})


def key_count(answer: SyncAnswer) -> int:
    count: int = answer.body["device_one_time_keys_count"]["curve25519"]
    return count


async def claims_key(person: Person, of: Person) -> None:
    body = {"one_time_keys": {of.user_id: {of.device_id: "curve25519"}}}
    claimed = await person.post("/v3/keys/claim", body)
    assert claimed["one_time_keys"][of.user_id][of.device_id]


async def test_the_same_token_gives_the_same_again(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await uploads_keys(bob, 5)
    since = (await asks(bob)).next_batch

    sent = await alice.says(room, "你好")
    await alice.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(sent)}", {})
    await sends_to_device(alice, bob, 1)
    await claims_key(alice, bob)
    other = await alice.creates_room(invite=[bob])
    await bob.put(f"/v3/user/{bob.user_id}/account_data/m.test", {"a": 1})
    await alice.post("/v3/keys/upload", {"fallback_keys": {}})

    lost = await asks(bob, since)
    again = await asks(bob, since)
    assert timeless(again.body) == timeless(lost.body)
    assert again.texts(room) == ["你好"]
    assert numbers(again) == [1]
    assert key_count(again) == 4
    assert other in again.body["rooms"]["invite"]
    assert again.state(room) != {}  # the sender's member event, loaded lazily

    nothing = await asks(bob, again.next_batch)
    assert "rooms" not in nothing.body
    assert (numbers(nothing), "account_data" in nothing.body) == ([], False)
    assert key_count(nothing) == 4


async def test_what_came_meanwhile_comes_with_the_repetition(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    since = (await asks(bob)).next_batch
    await alice.says(room, "eins")
    await sends_to_device(alice, bob, 1)
    await asks(bob, since)
    await alice.says(room, "zwei")
    await sends_to_device(alice, bob, 2)

    again = await asks(bob, since)
    assert again.texts(room) == ["eins", "zwei"]
    assert numbers(again) == [1, 2]
    nothing = await asks(bob, again.next_batch)
    assert (nothing.texts(room), numbers(nothing)) == ([], [])


# The initial answer: kept while the client has not shown that it has it


@pytest.fixture
def every_answer_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "SLOW_S", 0.0)


async def breaks_off(person: Person, path: str) -> None:
    """Ask, and cut the connection when the first bytes of the answer come."""
    host, port = person.base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person.token}\r\n\r\n"
    writer.write(head.encode())
    assert await reader.read(100)
    writer.transport.abort()


@pytest.mark.usefixtures("every_answer_is_slow")
async def test_a_slow_initial_answer_is_not_thrown_away(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await uploads_keys(bob, 3)
    await alice.says(room, "eins")
    await sends_to_device(alice, bob, 1)
    await breaks_off(bob, f"/_matrix/client/v3/sync?filter={quote(LAZY)}")
    await alice.says(room, "zwei")
    await sends_to_device(alice, bob, 2)
    await claims_key(alice, bob)

    kept = await asks(bob)
    assert kept.texts(room) == ["eins"]
    assert numbers(kept) == [1]
    rest = await asks(bob, kept.next_batch)
    assert (rest.texts(room), numbers(rest)) == (["zwei"], [2])
    assert key_count(rest) == 2


@pytest.mark.usefixtures("every_answer_is_slow")
async def test_whoever_has_the_initial_answer_gets_a_new_one(alice: Person) -> None:
    room = await alice.creates_room()
    await sends_to_device(alice, alice, 1)
    first = await asks(alice)
    assert numbers(first) == [1]
    await asks(alice, first.next_batch)
    await alice.says(room, "neu")
    anew = await asks(alice)
    assert anew.texts(room) == ["neu"]
    assert numbers(anew) == []


@pytest.mark.usefixtures("every_answer_is_slow")
async def test_another_question_gets_another_answer(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room()
    await asks(alice)
    await alice.says(room, "neu")
    ignoring: JsonObject = {"ignored_users": {"@nobody:test.example": {}}}

    other = await homeserver.signs_in("alice")
    assert (await asks(other)).texts(room) == ["neu"]
    assert (await asks(alice, full_state="true")).texts(room) == ["neu"]
    await alice.says(room, "neuer")
    await alice.put(f"/v3/user/{alice.user_id}/account_data/m.ignored_user_list", ignoring)
    assert (await asks(alice, full_state="true")).texts(room) == ["neu", "neuer"]


@pytest.mark.usefixtures("every_answer_is_slow")
async def test_who_signs_in_under_the_same_name_is_somebody_new(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    await sends_to_device(alice, alice, 1)
    assert numbers(await asks(alice)) == [1]
    await alice.post("/v3/logout", {})
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "alice"},
        "password": alice.password,
        "device_id": alice.device_id,
    }
    async with homeserver.http.post(
        f"{homeserver.base_url}/_matrix/client/v3/login", json=body
    ) as response:
        alice.token = (await response.json())["access_token"]
    assert numbers(await asks(alice)) == []


@pytest.mark.usefixtures("every_answer_is_slow")
async def test_those_who_ask_at_once_get_one_answer(alice: Person) -> None:
    await alice.creates_room()
    answers = await asyncio.gather(*(asks(alice) for _ in range(5)))
    bodies: list[JsonObject] = [timeless(answer.body) for answer in answers]
    assert all(body == bodies[0] for body in bodies)


async def test_an_answer_that_was_made_at_once_is_made_anew(alice: Person) -> None:
    room = await alice.creates_room()
    await asks(alice)
    await alice.says(room, "neu")
    assert (await asks(alice)).texts(room) == ["neu"]


@pytest.mark.usefixtures("every_answer_is_slow")
async def test_a_kept_answer_has_its_time(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "LIFETIME_S", 0.05)
    room = await alice.creates_room()
    await asks(alice)
    await alice.says(room, "neu")
    async with asyncio.timeout(10):
        while (await asks(alice)).texts(room) != ["neu"]:
            pass


@pytest.mark.usefixtures("every_answer_is_slow")
async def test_kept_answers_have_a_bound(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    size = len(json.dumps((await asks(alice)).body))
    monkeypatch.setattr(initial, "MAX_BYTES", size * 3 // 2)
    await asks(bob)
    await alice.says(room, "neu")
    assert (await asks(bob)).texts(room) == []
    assert (await asks(alice)).texts(room) == ["neu"]
