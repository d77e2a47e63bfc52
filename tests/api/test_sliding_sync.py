"""Simplified sliding sync: what a client that looks at some rooms is told, and when."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from yizhan_database import Transaction
from yizhan_server.app import MIGRATIONS
from yizhan_server.sync import changes
from yizhan_testing.databases import StatementRecorder, opened_fresh
from yizhan_testing.homeserver import Refused, served, settings_for
from yizhan_testing.polling import polls
from yizhan_testing.sliding_client import EXTENSIONS, STABLE, UNSTABLE, SlidingClient, room_list

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person

JsonObject = dict[str, Any]

NAME = ["m.room.name", ""]
TOPIC = ["m.room.topic", ""]
ME = ["m.room.member", "$ME"]
LAZY = ["m.room.member", "$LAZY"]


def watching(person: Person, last: int | None = 99, **options: Any) -> SlidingClient:
    """Return a client with one list, `all`."""
    return SlidingClient(person, {"lists": {"all": room_list(last, **options)}})


def with_extensions(person: Person, *names: str, **options: Any) -> SlidingClient:
    client = watching(person, **options)
    client.body["extensions"] = {name: {"enabled": True} for name in names}
    return client


def another(client: SlidingClient) -> SlidingClient:
    """Return the client with a connection of another name."""
    client.body["conn_id"] = "another"
    return client


async def members(alice: Person, *others: Person, **wish: Any) -> str:
    """Return a new room of alice's that the others have joined."""
    room = await alice.creates_room(invite=list(others), **wish)
    for other in others:
        await other.joins(room)
    return room


async def reads(person: Person, room: str, event: str) -> None:
    await person.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(event)}", {})


# The first answer


async def test_the_server_says_that_it_has_sliding_sync(alice: Person) -> None:
    features = (await alice.get("/versions"))["unstable_features"]
    assert features["org.matrix.simplified_msc3575"] is True


async def test_the_first_answer_tells_a_room_as_it_is(alice: Person, bob: Person) -> None:
    room = await members(alice, bob, name="经营部")
    await alice.sets(room, "m.room.avatar", {"url": "mxc://test.example/a"})
    await bob.says(room, "早")
    last = await bob.says(room, "在吗", **{"m.mentions": {"user_ids": [alice.user_id]}})
    client = watching(alice, state=[NAME, ME])

    answer = await client.syncs()

    assert answer.count("all") == 1
    assert answer.listed("all") == [room]
    told = answer.rooms[room]
    assert told["initial"] is True
    assert told["membership"] == "join"
    assert told["lists"] == ["all"]
    assert (told["name"], told["avatar"]) == ("经营部", "mxc://test.example/a")
    assert (told["joined_count"], told["invited_count"]) == (2, 0)
    assert (told["notification_count"], told["highlight_count"]) == (2, 1)
    assert "heroes" not in told
    assert "is_dm" not in told
    assert told["limited"] is False or len(told["timeline"]) == 10
    assert told["num_live"] == 0
    assert told["timeline"][-1]["event_id"] == last
    assert answer.state(room) == {
        ("m.room.name", ""): {"name": "经营部"},
        ("m.room.member", alice.user_id): {"membership": "join", "displayname": "alice"},
    }


async def test_a_room_without_a_name_comes_with_those_it_is_named_after(
    alice: Person, bob: Person
) -> None:
    room = await members(alice, bob)
    client = watching(alice)
    told = (await client.syncs()).rooms[room]
    assert told["heroes"] == [{"user_id": bob.user_id, "displayname": "bob"}]
    assert "name" not in told

    await alice.sets(room, "m.room.name", {"name": "二人"})
    told = (await client.syncs()).rooms[room]
    assert told["name"] == "二人"
    assert "heroes" not in told

    await alice.sets(room, "m.room.name", {"name": ""})
    told = (await client.syncs()).rooms[room]
    assert told["name"] is None
    assert told["heroes"] == [{"user_id": bob.user_id, "displayname": "bob"}]


async def test_a_redacted_name_is_no_name(alice: Person) -> None:
    room = await alice.creates_room(topic="x")
    named = await alice.sets(room, "m.room.name", {"name": "oops"})
    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(named)}/1", {})

    told = (await watching(alice, state=[NAME]).syncs()).rooms[room]

    assert "name" not in told
    assert told["required_state"][0]["content"] == {}


async def test_an_empty_account_gets_an_empty_list(alice: Person) -> None:
    answer = await watching(alice).syncs()
    assert (answer.count("all"), answer.rooms) == (0, {})


# What is new


async def test_only_what_is_new_is_told(alice: Person, bob: Person) -> None:
    room = await members(alice, bob, name="old")
    quiet = await members(alice, bob)
    client = watching(alice, state=[NAME, TOPIC])
    await client.syncs()

    await bob.says(room, "eins")
    await bob.says(room, "zwei")
    answer = await client.syncs()

    assert list(answer.rooms) == [room]
    told = answer.rooms[room]
    assert answer.texts(room) == ["eins", "zwei"]
    assert told["num_live"] == 2
    assert told["limited"] is False
    assert told["notification_count"] == 2
    for field in ("initial", "name", "required_state", "joined_count", "heroes"):
        assert field not in told
    assert (await client.syncs()).rooms == {}
    assert quiet in client.rooms


async def test_a_gap_is_said_and_can_be_paged_over(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = watching(alice, limit=3, state=[TOPIC])
    await client.syncs()
    await bob.says(room, "0")
    await alice.sets(room, "m.room.topic", {"topic": "in the gap"})
    for number in range(1, 8):
        await bob.says(room, str(number))

    answer = await client.syncs()
    told = answer.rooms[room]
    assert (told["limited"], told["num_live"]) == (True, 3)
    assert answer.texts(room) == ["5", "6", "7"]
    assert answer.state(room) == {("m.room.topic", ""): {"topic": "in the gap"}}
    page = await alice.get(
        f"/v3/rooms/{quote(room)}/messages", dir="b", limit="5", **{"from": told["prev_batch"]}
    )
    texts = [e["content"].get("body") for e in page["chunk"] if e["type"] == "m.room.message"]
    assert texts == ["4", "3", "2", "1"]
    # A position is also a token of pages, as the classic sync's is.
    page = await alice.get(
        f"/v3/rooms/{quote(room)}/messages", dir="b", limit="1", **{"from": answer.pos}
    )
    assert page["chunk"][0]["content"]["body"] == "7"


async def test_a_waiting_client_is_told_at_once(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await members(alice, bob)
    client = watching(alice)
    await client.syncs()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(client.syncs(timeout_ms=20_000))
        await polls(homeserver, alice)
        await bob.says(room, "hallo")

    assert waiting.result().texts(room) == ["hallo"]


async def test_nothing_is_told_when_the_time_is_over(alice: Person) -> None:
    await alice.creates_room()
    client = watching(alice)
    first = await client.syncs()
    answer = await client.syncs(timeout_ms=50)
    assert answer.rooms == {}
    assert answer.pos == first.pos


async def test_two_connections_of_a_device_wait_side_by_side(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    await members(alice, bob)
    rooms = watching(alice)
    rooms.body["conn_id"] = "rooms"
    keys = SlidingClient(alice, {"conn_id": "keys", "extensions": {"to_device": {"enabled": True}}})
    await rooms.syncs()
    await keys.syncs()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(keys.syncs(timeout_ms=20_000))
        await polls(homeserver, alice)
        await rooms.syncs(timeout_ms=100)
        await alice.syncs()
        assert not waiting.done()
        await bob.put(
            "/v3/sendToDevice/m.test/1",
            {"messages": {alice.user_id: {alice.device_id: {"to": "you"}}}},
        )

    events = waiting.result().extension("to_device")["events"]
    assert [event["content"] for event in events] == [{"to": "you"}]


async def test_a_newer_request_of_a_connection_ends_the_older_one(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    await alice.creates_room()
    client = watching(alice)
    pos = (await client.syncs()).pos
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = group.create_task(client.asks(pos=pos, timeout_ms=60_000))
        await polls(homeserver, alice)
        await client.asks(pos=pos)
    assert waiting.result().rooms == {}


async def test_reading_elsewhere_changes_the_counts(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    event = await bob.says(room, "eins")
    client = watching(alice)
    await client.syncs()
    assert client.rooms[room].notifications == 1

    await reads(alice, room, event)
    told = (await client.syncs()).rooms[room]

    assert (told["notification_count"], told["highlight_count"]) == (0, 0)
    assert told["timeline"] == []


async def test_activity_that_counts_moves_the_stamp(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = watching(alice)
    stamp = (await client.syncs()).rooms[room]["bump_stamp"]

    await bob.sends(room, "m.reaction", {"m.relates_to": {}})
    assert "bump_stamp" not in (await client.syncs()).rooms[room]
    await bob.says(room, "hallo")
    assert (await client.syncs()).rooms[room]["bump_stamp"] > stamp


# Lists


async def test_a_list_grows_with_its_range(alice: Person) -> None:
    rooms = [await alice.creates_room(name=str(number)) for number in range(6)]
    client = watching(alice, 1, state=[NAME])
    answer = await client.syncs()
    assert answer.count("all") == 6
    assert answer.listed("all") == [rooms[5], rooms[4]]
    assert set(answer.rooms) == {rooms[5], rooms[4]}

    answer = await client.syncs(lists={"all": room_list(3, state=[NAME])})
    assert set(answer.rooms) == {rooms[3], rooms[2]}
    assert all(told["initial"] for told in answer.rooms.values())

    answer = await client.syncs(lists={"all": room_list(None, state=[NAME])})
    assert set(answer.rooms) == {rooms[1], rooms[0]}
    assert set(client.rooms) == set(rooms)


async def test_a_room_that_falls_out_of_sight_goes_on_where_it_was_left(
    alice: Person, bob: Person
) -> None:
    one, two = await members(alice, bob), await members(alice, bob)
    client = watching(alice, 0, state=[TOPIC])
    assert set((await client.syncs()).rooms) == {two}
    await bob.says(one, "eins")
    assert set((await client.syncs()).rooms) == {one}

    await alice.sets(two, "m.room.topic", {"topic": "unseen"})
    await bob.says(one, "zwei")
    answer = await client.syncs()
    assert set(answer.rooms) == {one}
    await bob.says(two, "drei")

    answer = await client.syncs()
    told = answer.rooms[two]
    assert "initial" not in told
    assert answer.texts(two) == ["drei"]
    assert answer.state(two) == {("m.room.topic", ""): {"topic": "unseen"}}


async def test_filters_choose_the_rooms(alice: Person, bob: Person) -> None:
    plain = await members(alice, bob, name="Apfel")
    encrypted = await alice.creates_room(
        name="Birne",
        initial_state=[
            {
                "type": "m.room.encryption",
                "state_key": "",
                "content": {"algorithm": "m.megolm.v1.aes-sha2"},
            }
        ],
    )
    space = await alice.creates_room(name="Obst", creation_content={"type": "m.space"})
    await alice.sets(space, "m.space.child", {"via": ["test.example"]}, plain)
    await alice.sets(space, "m.space.child", {}, encrypted)
    invited = await bob.creates_room(name="Kirsche", invite=[alice])
    nameless = await members(alice, bob)
    user = quote(alice.user_id)
    await alice.put(f"/v3/user/{user}/account_data/m.direct", {bob.user_id: [nameless]})
    await alice.put(f"/v3/user/{user}/rooms/{quote(plain)}/tags/m.favourite", {})

    async def chosen(**filters: Any) -> set[str]:
        answer = await watching(alice, filters=filters).syncs()
        assert answer.count("all") == len(answer.rooms)
        return set(answer.rooms)

    everything = {plain, encrypted, space, invited, nameless}
    assert await chosen() == everything
    assert await chosen(is_dm=True) == {nameless}
    assert await chosen(is_dm=False) == everything - {nameless}
    assert await chosen(is_encrypted=True) == {encrypted}
    assert await chosen(is_encrypted=False) == everything - {encrypted}
    assert await chosen(is_invite=True) == {invited}
    assert await chosen(is_invited=False) == everything - {invited}
    assert await chosen(room_types=["m.space"]) == {space}
    assert await chosen(room_types=[None]) == everything - {space}
    assert await chosen(not_room_types=["m.space"]) == everything - {space}
    assert await chosen(room_types=["m.space"], not_room_types=["m.space"]) == set()
    assert await chosen(tags=["m.favourite"]) == {plain}
    assert await chosen(not_tags=["m.favourite"]) == everything - {plain}
    assert await chosen(spaces=[space]) == {plain}
    assert await chosen(spaces=["!unknown"]) == set()
    assert await chosen(room_name_like="bir") == {encrypted}
    assert await chosen(room_name_like="BOB") == {nameless}
    assert await chosen(is_dm=False, is_invite=False, room_types=[None]) == {plain, encrypted}


async def test_a_room_marked_as_direct_is_told_so(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = watching(alice)
    await client.syncs()
    path = f"/v3/user/{quote(alice.user_id)}/account_data/m.direct"

    await alice.put(path, {bob.user_id: [room]})
    assert (await client.syncs()).rooms[room]["is_dm"] is True
    assert (await client.syncs()).rooms == {}
    await alice.put(path, {})
    assert (await client.syncs()).rooms[room]["is_dm"] is False


# Subscriptions, and what is wanted of rooms


async def test_a_subscription_shows_a_room_that_no_list_does(alice: Person, bob: Person) -> None:
    room, _ = await members(alice, bob), await members(alice, bob)
    client = watching(alice, 0)
    assert room not in (await client.syncs()).rooms

    subscription = {"timeline_limit": 2, "required_state": [TOPIC]}
    answer = await client.syncs(room_subscriptions={room: subscription})

    told = answer.rooms[room]
    assert told["initial"] is True
    assert "lists" not in told
    assert (len(told["timeline"]), told["limited"]) == (2, True)


async def test_nobody_subscribes_to_a_room_of_others(alice: Person, bob: Person) -> None:
    room = await bob.creates_room(preset="public_chat")
    subscription = {"timeline_limit": 5, "required_state": [["*", "*"]]}
    client = SlidingClient(
        alice, {"room_subscriptions": {room: subscription, "!none:test.example": subscription}}
    )
    assert (await client.syncs()).rooms == {}


async def test_list_and_subscription_add_up(alice: Person) -> None:
    room = await alice.creates_room(name="n", topic="t")
    client = watching(alice, limit=1, state=[NAME])
    client.body["room_subscriptions"] = {room: {"timeline_limit": 4, "required_state": [TOPIC]}}
    answer = await client.syncs()
    assert len(answer.rooms[room]["timeline"]) == 4
    assert set(answer.state(room)) == {("m.room.name", ""), ("m.room.topic", "")}


async def test_a_longer_timeline_is_given_at_once(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    for number in range(5):
        await bob.says(room, str(number))
    client = watching(alice, limit=1)
    assert (await client.syncs()).texts(room) == ["4"]

    answer = await client.syncs(lists={"all": room_list(limit=4)}, timeout_ms=20_000)
    told = answer.rooms[room]
    assert answer.texts(room) == ["1", "2", "3", "4"]
    assert told["unstable_expanded_timeline"] is True
    assert told["expanded_timeline"] is True
    assert "initial" not in told
    assert told["num_live"] == 0

    # It has them now, whatever is asked for in between.
    await client.syncs(lists={"all": room_list(limit=1)})
    assert (await client.syncs(lists={"all": room_list(limit=4)})).rooms == {}


async def test_more_state_is_given_at_once_and_kept_up(alice: Person, bob: Person) -> None:
    room = await members(alice, bob, name="n")
    await alice.sets(room, "m.room.topic", {"topic": "t"})
    client = watching(alice, state=[NAME])
    await client.syncs()

    wider = {"all": room_list(state=[NAME, TOPIC])}
    answer = await client.syncs(lists=wider, timeout_ms=20_000)
    assert answer.state(room) == {("m.room.topic", ""): {"topic": "t"}}
    assert answer.rooms[room]["timeline"] == []

    await alice.sets(room, "m.room.topic", {"topic": "u"})
    assert (await client.syncs()).state(room) == {("m.room.topic", ""): {"topic": "u"}}

    narrow = {"all": room_list(state=[NAME])}
    await client.syncs(lists=narrow)
    assert (await client.syncs(lists=wider)).rooms == {}

    await client.syncs(lists=narrow)
    await alice.sets(room, "m.room.topic", {"topic": "v"})
    assert (await client.syncs()).state(room) == {}
    answer = await client.syncs(lists=wider)
    assert answer.state(room) == {("m.room.topic", ""): {"topic": "v"}}


async def test_wildcards_name_state(alice: Person, bob: Person) -> None:
    room = await members(alice, bob, name="n")
    await alice.sets(room, "test.kind", {"n": 1}, "a")
    await alice.sets(room, "test.kind", {"n": 2}, "b")

    async def given(*patterns: list[str]) -> set[tuple[str, str]]:
        return set((await watching(alice, state=list(patterns)).syncs()).state(room))

    people = {("m.room.member", alice.user_id), ("m.room.member", bob.user_id)}
    assert await given(["test.kind", "*"]) == {("test.kind", "a"), ("test.kind", "b")}
    assert await given(["*", "a"]) == {("test.kind", "a")}
    assert await given(["m.room.member", "*"]) == people
    everything = await given(["*", "*"])
    assert everything >= people | {("test.kind", "a"), ("m.room.create", "")}
    assert await given() == set()


async def test_members_come_with_their_messages(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    room = await members(alice, bob, carol)
    for number in range(3):
        await bob.says(room, str(number))
    client = watching(alice, limit=2, state=[LAZY, ["*", "*"]])

    answer = await client.syncs()
    people = {key for kind, key in answer.state(room) if kind == "m.room.member"}
    assert people == {bob.user_id}
    assert ("m.room.create", "") in answer.state(room)

    await bob.says(room, "again")
    assert answer.state(room) != (again := await client.syncs()).state(room)
    assert again.state(room) == {}
    await carol.says(room, "hallo")
    assert set((await client.syncs()).state(room)) == {("m.room.member", carol.user_id)}
    # Without a gap every changed member is told.
    await alice.sets(
        room, "m.room.member", {"membership": "join", "displayname": "艾丽"}, alice.user_id
    )
    answer = await client.syncs()
    assert answer.state(room)["m.room.member", alice.user_id]["displayname"] == "艾丽"


async def test_an_answer_that_was_lost_is_given_again(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = watching(alice, limit=2, state=[LAZY])
    await alice.says(room, "eins")
    await alice.says(room, "zwei")
    first = await client.syncs()
    await bob.says(room, "drei")
    new = await bob.creates_room(invite=[alice])

    lost = await client.asks(pos=first.pos)
    again = await client.asks(pos=first.pos)

    assert set(lost.rooms) == set(again.rooms) == {room, new}
    assert again.texts(room) == ["drei"]
    assert lost.state(room) == again.state(room) != {}
    # From there on, what was lost is not told a third time.
    assert (await client.asks(pos=again.pos)).rooms == {}


# Coming and going


async def test_an_invitation_is_told_and_accepted(alice: Person, bob: Person) -> None:
    client = watching(bob, state=[["*", "*"]])
    await client.syncs()
    room = await alice.creates_room(name="Gäste", invite=[bob])
    await alice.says(room, "not for guests")

    told = (await client.syncs()).rooms[room]
    assert (told["membership"], told["initial"]) == ("invite", True)
    assert told["invite_state"] == told["stripped_state"]
    stripped = {(e["type"], e["state_key"]): e["content"] for e in told["stripped_state"]}
    assert stripped["m.room.name", ""] == {"name": "Gäste"}
    assert stripped["m.room.member", bob.user_id]["membership"] == "invite"
    for field in ("timeline", "required_state", "joined_count", "heroes", "prev_batch"):
        assert field not in told
    await alice.says(room, "nor this")
    assert (await client.syncs()).rooms == {}

    await bob.joins(room)
    answer = await client.syncs()
    assert (answer.rooms[room]["membership"], answer.rooms[room]["initial"]) == ("join", True)
    assert answer.state(room)["m.room.name", ""] == {"name": "Gäste"}
    assert client.rooms[room].texts == ["not for guests", "nor this"]


async def test_an_invitation_that_is_declined_ends(alice: Person, bob: Person) -> None:
    client = watching(bob)
    room = await alice.creates_room(invite=[bob])
    await client.syncs()
    await bob.leaves(room)
    await alice.says(room, "secret")

    answer = await client.syncs()
    assert answer.rooms[room]["membership"] == "leave"
    assert [e["state_key"] for e in answer.rooms[room]["timeline"]] == [bob.user_id]
    assert "secret" not in str(answer.body)
    answer = await client.syncs()
    assert (answer.rooms, answer.count("all")) == ({}, 0)


async def test_invitations_of_the_ignored_are_not_told(alice: Person, bob: Person) -> None:
    path = f"/v3/user/{quote(bob.user_id)}/account_data/m.ignored_user_list"
    await bob.put(path, {"ignored_users": {alice.user_id: {}}})
    room = await alice.creates_room(invite=[bob])
    client = watching(bob)
    client.body["room_subscriptions"] = {room: {"timeline_limit": 1, "required_state": []}}
    assert (await client.syncs()).rooms == {}


async def test_who_leaves_is_told_once(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = watching(bob, state=[ME])
    await client.syncs()
    await alice.says(room, "before")
    await bob.leaves(room)
    await alice.says(room, "after")

    answer = await client.syncs()
    assert answer.rooms[room]["membership"] == "leave"
    assert answer.texts(room) == ["before"]
    assert answer.state(room)["m.room.member", bob.user_id]["membership"] == "leave"
    assert "notification_count" not in answer.rooms[room]
    answer = await client.syncs()
    assert (answer.rooms, answer.count("all")) == ({}, 0)
    assert (await another(watching(bob)).syncs()).rooms == {}

    await alice.invites(room, bob)
    await bob.joins(room)
    assert (await client.syncs()).rooms[room]["initial"] is True


async def test_who_is_removed_sees_the_room_until_then(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = watching(bob, state=[["*", "*"]])
    await client.syncs()
    await alice.says(room, "before")
    await alice.post(f"/v3/rooms/{quote(room)}/kick", {"user_id": bob.user_id})
    await alice.says(room, "after")
    await alice.sets(room, "m.room.topic", {"topic": "after"})

    answer = await client.syncs()
    assert answer.rooms[room]["membership"] == "leave"
    assert answer.texts(room) == ["before"]
    assert "after" not in str(answer.body)
    assert (await client.syncs()).rooms == {}

    # Somebody who was not looking sees it too.
    later = await watching(bob, state=[["*", "*"]]).syncs()
    assert later.rooms[room]["membership"] == "leave"
    assert later.texts(room)[-1] == "before"
    assert "after" not in str(later.body)


async def test_who_is_banned_and_never_was_there_sees_nothing(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(name="secret")
    await alice.post(f"/v3/rooms/{quote(room)}/ban", {"user_id": bob.user_id})
    client = watching(bob, state=[["*", "*"]])
    client.body["room_subscriptions"] = {room: {"timeline_limit": 9, "required_state": [NAME]}}
    assert (await client.syncs()).rooms == {}


async def test_leaving_while_out_of_sight_is_told_when_in_sight(alice: Person, bob: Person) -> None:
    one, two = await members(alice, bob), await members(alice, bob)
    client = watching(bob, 0)
    await client.syncs(lists={"all": room_list(1)})
    await alice.says(two, "up")
    await client.syncs(lists={"all": room_list(0)})
    await bob.leaves(one)
    await alice.says(two, "up again")
    assert set((await client.syncs()).rooms) == {two}

    answer = await client.syncs(lists={"all": room_list(5)})
    assert answer.rooms[one]["membership"] == "leave"
    assert set((await client.syncs()).listed("all")) == {two}


# Extensions


async def test_messages_to_the_device_are_kept_until_confirmed(alice: Person, bob: Person) -> None:
    client = SlidingClient(alice, {"extensions": {"to_device": {"enabled": True, "limit": 2}}})
    for number in range(3):
        await bob.put(
            f"/v3/sendToDevice/m.test/{number}",
            {"messages": {alice.user_id: {alice.device_id: {"n": number}}}},
        )

    lost = await client.asks()
    first = await client.syncs()
    second = await client.syncs(timeout_ms=20_000)

    def numbers(answer: Any) -> list[int]:
        return [event["content"]["n"] for event in answer.extension("to_device")["events"]]

    assert (numbers(lost), numbers(first), numbers(second)) == ([0, 1], [0, 1], [2])
    assert numbers(await client.syncs()) == []
    client.to_device = None
    assert numbers(await client.syncs()) == []


async def test_a_strange_token_of_messages_is_refused(alice: Person) -> None:
    client = SlidingClient(alice, {"extensions": {"to_device": {"enabled": True, "since": "x"}}})
    with pytest.raises(Refused) as refused:
        await client.asks()
    assert refused.value.errcode == "M_INVALID_PARAM"


async def test_keys_and_device_lists_are_told(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    await members(alice, bob)
    client = with_extensions(alice, "e2ee")
    part = (await client.syncs()).extension("e2ee")
    assert part["device_one_time_keys_count"] == {"signed_curve25519": 0}
    assert part["device_unused_fallback_key_types"] == []
    assert "device_lists" not in part

    carol = await homeserver.person("carol")
    room = await members(alice, carol)
    part = (await client.syncs()).extension("e2ee")
    assert part["device_lists"] == {"changed": [carol.user_id], "left": []}
    await carol.leaves(room)
    part = (await client.syncs()).extension("e2ee")
    assert part["device_lists"] == {"changed": [], "left": [carol.user_id]}


async def test_account_data_is_told_once_and_for_each_room_in_sight(alice: Person) -> None:
    user = quote(alice.user_id)
    one, two = await alice.creates_room(), await alice.creates_room()
    await alice.put(f"/v3/user/{user}/account_data/test.global", {"n": 1})
    for room in (one, two):
        await alice.put(f"/v3/user/{user}/rooms/{quote(room)}/account_data/test.room", {"n": room})
    client = with_extensions(alice, "account_data", last=0)

    part = (await client.syncs()).extension("account_data")
    assert {e["type"] for e in part["global"]} >= {"m.push_rules", "test.global"}
    assert part["rooms"] == {two: [{"type": "test.room", "content": {"n": two}}]}

    await alice.put(f"/v3/user/{user}/rooms/{quote(one)}/tags/m.favourite", {})
    part = (await client.syncs()).extension("account_data")
    assert (part["global"], part["rooms"]) == ([], {})

    part = (await client.syncs(lists={"all": room_list(1)})).extension("account_data")
    assert {e["type"] for e in part["rooms"][one]} == {"test.room", "m.tag"}
    assert two not in part["rooms"]
    assert (await client.syncs()).extension("account_data")["rooms"] == {}


async def test_account_data_changed_out_of_sight_is_told_when_in_sight(alice: Person) -> None:
    one = await alice.creates_room()
    client = with_extensions(alice, "account_data", last=0)
    await client.syncs()
    two = await alice.creates_room()
    await client.syncs()
    path = f"/v3/user/{quote(alice.user_id)}/rooms/{quote(one)}/account_data/test.room"
    await alice.put(path, {"n": 1})
    assert (await client.syncs()).extension("account_data")["rooms"] == {}

    await alice.says(one, "up")
    part = (await client.syncs()).extension("account_data")
    assert part["rooms"] == {one: [{"type": "test.room", "content": {"n": 1}}]}
    assert two in client.rooms


async def test_an_extension_may_be_wanted_for_some_lists_only(alice: Person) -> None:
    room = await alice.creates_room()
    path = f"/v3/user/{quote(alice.user_id)}/rooms/{quote(room)}/account_data/test.room"
    await alice.put(path, {"n": 1})
    client = watching(alice)
    nothing = {"account_data": {"enabled": True, "lists": [], "rooms": []}}
    answer = await client.syncs(extensions=nothing)
    assert answer.extension("account_data")["rooms"] == {}

    some = {"account_data": {"enabled": True, "lists": ["all"], "rooms": []}}
    answer = await client.syncs(extensions=some, timeout_ms=20_000)
    assert list(answer.extension("account_data")["rooms"]) == [room]


async def test_receipts_of_what_is_shown_come_first_and_then_all(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    room = await members(alice, bob, carol)
    old = await alice.says(room, "old")
    await reads(carol, room, old)
    for number in range(2):
        await alice.says(room, str(number))
    latest = await alice.says(room, "latest")
    await reads(bob, room, latest)
    await reads(alice, room, old)
    client = with_extensions(alice, "receipts", limit=2)

    content = (await client.syncs()).extension("receipts")["rooms"][room]["content"]
    assert {event: set(types["m.read"]) for event, types in content.items()} == {
        latest: {bob.user_id},
        old: {alice.user_id},
    }

    await reads(carol, room, latest)
    answer = await client.syncs()
    assert set(answer.extension("receipts")["rooms"][room]["content"]) == {latest}
    assert (await client.syncs()).extension("receipts")["rooms"] == {}


async def test_private_receipts_stay_private(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = with_extensions(alice, "receipts")
    await client.syncs()
    event = await alice.says(room, "x")
    await bob.post(f"/v3/rooms/{quote(room)}/receipt/m.read.private/{quote(event)}", {})
    assert (await client.syncs()).extension("receipts")["rooms"] == {}
    assert (await with_extensions(alice, "receipts").syncs()).extension("receipts")["rooms"] == {}


async def test_typing_is_told_while_it_lasts(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = with_extensions(alice, "typing")
    await client.syncs()
    path = f"/v3/rooms/{quote(room)}/typing/{quote(bob.user_id)}"

    await bob.put(path, {"typing": True, "timeout": 30_000})
    part = (await client.syncs()).extension("typing")["rooms"]
    assert part == {room: {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}}
    assert (await client.syncs()).extension("typing")["rooms"] == {}
    # A client that comes later sees it too.
    late = (await another(with_extensions(alice, "typing")).syncs()).extension("typing")["rooms"]
    assert late == part
    await bob.put(path, {"typing": False})
    part = (await client.syncs()).extension("typing")["rooms"]
    assert part[room]["content"] == {"user_ids": []}


async def test_unknown_extensions_are_ignored(alice: Person) -> None:
    client = SlidingClient(alice, {"extensions": {"org.example.new": {"enabled": True}}})
    assert (await client.syncs()).body["extensions"] == {}


# Positions


async def test_a_position_of_another_device_or_connection_is_unknown(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await members(alice, bob)
    client = watching(alice)
    pos = (await client.syncs()).pos
    other_device = watching(await homeserver.signs_in("alice"))
    other_connection = watching(alice)
    other_connection.body["conn_id"] = "other"

    for stranger in (watching(bob), other_device, other_connection):
        with pytest.raises(Refused) as refused:
            await stranger.asks(pos=pos)
        assert (refused.value.status, refused.value.errcode) == (400, "M_UNKNOWN_POS")
    assert (await client.asks(pos=pos)).rooms == {}
    assert room in client.rooms


@pytest.mark.parametrize(
    "pos", ["nonsense", "0", "c1.s1", "c5.sother.3.boot-0", "c999999999999999999.{sync}"]
)
async def test_a_position_that_never_was_is_unknown(alice: Person, pos: str) -> None:
    client = watching(alice)
    sync = (await client.syncs()).pos.split(".", 1)[1]
    with pytest.raises(Refused) as refused:
        await client.asks(pos=pos.format(sync=sync))
    assert (refused.value.status, refused.value.errcode) == (400, "M_UNKNOWN_POS")


async def test_an_unknown_position_is_left_behind_by_beginning_anew(
    alice: Person, bob: Person
) -> None:
    room = await members(alice, bob)
    client = watching(alice)
    old = (await client.syncs()).pos
    await bob.creates_room(invite=[alice])
    await client.syncs()
    await alice.creates_room()
    await client.syncs()
    # Two states of a connection are kept, not three.
    with pytest.raises(Refused) as refused:
        await client.asks(pos=old)
    assert refused.value.errcode == "M_UNKNOWN_POS"

    client.begins_anew()
    await client.syncs()
    assert client.rooms[room].membership == "join"


async def test_a_device_has_few_connections(alice: Person) -> None:
    await alice.creates_room()
    clients = []
    for number in range(18):
        client = watching(alice)
        client.body["conn_id"] = str(number)
        await client.syncs()
        clients.append(client)
    unknown = []
    for client in clients:
        try:
            await client.syncs()
        except Refused as refused:
            unknown.append((client.body["conn_id"], refused.errcode))
    assert len(unknown) == 2
    assert {errcode for _, errcode in unknown} == {"M_UNKNOWN_POS"}


async def test_connections_end_with_their_device(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    await watching(alice).syncs()
    db = homeserver.parts.services.db
    count = "SELECT count(*) FROM sliding_connection WHERE user_id = ?"
    assert await db.row(count, alice.user_id) == (1,)
    await alice.post("/v3/logout", {})
    assert await db.row(count, alice.user_id) == (0,)


async def test_nothing_is_written_while_the_same_rooms_are_in_sight(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await members(alice, bob)
    client = with_extensions(alice, "receipts", "account_data", state=[NAME, LAZY])
    await client.syncs()
    db = homeserver.parts.services.db
    query = "SELECT number FROM sliding_connection WHERE user_id = ? ORDER BY number"
    before = await db.rows(query, alice.user_id)
    position = homeserver.parts.stream.position

    await client.syncs()
    assert homeserver.parts.stream.position == position
    for number in range(3):
        event = await bob.says(room, str(number))
        await reads(bob, room, event)
        await client.syncs()

    assert await db.rows(query, alice.user_id) == before


# The request


async def test_the_form_of_the_accepted_proposal_works(alice: Person, bob: Person) -> None:
    room = await members(alice, bob, name="n", topic="t")
    for number in range(3):
        await bob.says(room, str(number))
    wanted: JsonObject = {
        "timeline_limit": 2,
        "range": [0, 9],
        "required_state": {
            "include": [{}],
            "exclude": [{"type": "m.room.topic", "state_key": ""}],
            "lazy_members": True,
        },
    }
    client = SlidingClient(alice, {"lists": {"all": wanted}}, STABLE)
    answer = await client.syncs()
    state = answer.state(room)
    assert ("m.room.name", "") in state
    assert ("m.room.topic", "") not in state
    assert {key for kind, key in state if kind == "m.room.member"} == {bob.user_id}

    await bob.says(room, "3")
    body = {**client.body, "pos": answer.pos, "timeout": 0, "set_presence": "offline"}
    again = await alice.post(STABLE, body)
    assert [e["content"]["body"] for e in again["rooms"][room]["timeline"]] == ["3"]


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({"lists": {str(n): room_list() for n in range(101)}}, "M_INVALID_PARAM"),
        (
            {"room_subscriptions": {f"!{n}": room_list() for n in range(101)}},
            "M_INVALID_PARAM",
        ),
        ({"conn_id": "x" * 256}, "M_INVALID_PARAM"),
        ({"lists": {"a": room_list(state=[["a", str(n)] for n in range(201)])}}, "M_INVALID_PARAM"),
        ({"lists": {"a": {**room_list(), "ranges": [[0, 1]] * 21}}}, "M_INVALID_PARAM"),
        ({"lists": {"a": {**room_list(), "ranges": [[-1, 5]]}}}, "M_BAD_JSON"),
        ({"lists": {"a": {**room_list(), "ranges": [[0, 2**64]]}}}, "M_BAD_JSON"),
        ({"lists": {"a": {**room_list(), "timeline_limit": -1}}}, "M_BAD_JSON"),
        ({"lists": {"a": {"ranges": [[0, 1]]}}}, "M_BAD_JSON"),
        ({"lists": []}, "M_BAD_JSON"),
        ({"extensions": {"e2ee": {"enabled": "yes"}}}, "M_BAD_JSON"),
        ({"set_presence": "asleep"}, "M_INVALID_PARAM"),
    ],
)
async def test_what_cannot_be_read_is_refused(alice: Person, body: Any, errcode: str) -> None:
    for path in (UNSTABLE, STABLE):
        refused = await alice.refused("POST", path, body)
        assert (refused.status, refused.errcode) == (400, errcode)


# Restarts


async def test_a_connection_outlives_the_server(tmp_path: Path, dialect: Dialect) -> None:
    settings = settings_for(tmp_path)
    async with opened_fresh(dialect, MIGRATIONS, tmp_path) as db:
        async with served(settings, db) as homeserver:
            alice = await homeserver.person("alice")
            bob = await homeserver.person("bob")
            room = await members(alice, bob, name="n")
            client = with_extensions(alice, *EXTENSIONS, state=[NAME, LAZY])
            await client.syncs()
            await bob.says(room, "before")

        async with served(settings, db) as homeserver:
            for person in (alice, bob):
                person.http, person.base_url = homeserver.http, homeserver.base_url
            await bob.says(room, "after")
            answer = await client.syncs()

    assert "initial" not in answer.rooms[room]
    assert answer.texts(room) == ["before", "after"]
    assert answer.rooms[room]["notification_count"] == 2


async def test_a_position_from_before_a_restore_is_unknown(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    client = watching(alice)
    pos = (await client.syncs()).pos
    number, epoch, position, rest = pos.split(".")
    for other in (f"{number}.sother.{position}.{rest}", f"{number}.{epoch}.{10**6}.{rest}"):
        with pytest.raises(Refused) as refused:
            await client.asks(pos=other)
        assert refused.value.errcode == "M_UNKNOWN_POS"
    assert room in client.rooms


async def test_connections_that_nobody_uses_expire(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    await alice.creates_room()
    client = watching(alice)
    await client.syncs()
    db = homeserver.parts.services.db

    async def age(days: int) -> None:
        tx = Transaction()
        tx.execute("UPDATE sliding_connection SET used_ms = used_ms - ?", days * 24 * 3600 * 1000)
        await db.commit(tx)
        await homeserver.parts.connections.tidy()

    await age(20)
    await client.syncs()
    await age(20)
    await client.syncs()
    await age(31)
    with pytest.raises(Refused) as refused:
        await client.syncs()
    assert refused.value.errcode == "M_UNKNOWN_POS"


async def test_a_room_once_left_can_be_subscribed_to_up_to_then(alice: Person, bob: Person) -> None:
    room = await members(alice, bob)
    await alice.says(room, "before")
    await bob.leaves(room)
    await alice.says(room, "after")
    client = SlidingClient(
        bob, {"room_subscriptions": {room: {"timeline_limit": 5, "required_state": [["*", "*"]]}}}
    )

    answer = await client.syncs()

    assert answer.rooms[room]["membership"] == "leave"
    assert client.rooms[room].texts == ["before"]
    assert "after" not in str(answer.body)
    assert (await client.syncs()).rooms == {}


async def test_many_changes_are_found_room_by_room(
    alice: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "SHORT_WINDOW", 3)
    quiet, busy = await members(alice, bob), await members(alice, bob)
    client = watching(alice)
    await client.syncs()
    await alice.syncs()
    for number in range(5):
        await bob.says(busy, str(number))

    assert set((await client.syncs()).rooms) == {busy}
    assert set((await alice.syncs()).body["rooms"]["join"]) == {busy}
    assert quiet in client.rooms


async def test_no_statement_reads_a_whole_table(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with StatementRecorder() as recorder:
        async with (
            opened_fresh("sqlite", MIGRATIONS, tmp_path) as db,
            served(settings, db) as homeserver,
        ):
            alice = await homeserver.person("alice")
            bob = await homeserver.person("bob")
            await test_filters_choose_the_rooms(alice, bob)
            await test_wildcards_name_state(alice, bob)
            await test_a_room_that_falls_out_of_sight_goes_on_where_it_was_left(alice, bob)
            await test_reading_elsewhere_changes_the_counts(alice, bob)
            await test_connections_end_with_their_device(homeserver, alice)
    (file,) = tmp_path.glob("test*.db")
    assert any("sliding_connection" in sql for sql in recorder.statements)
    assert recorder.full_scans(file) == []
