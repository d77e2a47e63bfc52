"""People who are ignored, and rooms that are shared."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from yizhan_server.protocol.identifiers import UserID
from yizhan_testing.homeserver import HomeserverInProcess, Person


async def ignores(person: Person, *others: Person) -> None:
    await person.put(
        f"/v3/user/{quote(person.user_id)}/account_data/m.ignored_user_list",
        {"ignored_users": {other.user_id: {} for other in others}},
    )


async def test_the_ignored_neither_notify_nor_appear(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await carol.joins(room)
    before = await carol.says(room, "先前")
    await ignores(bob, carol)
    await bob.syncs()

    await carol.says(room, "无人理", **{"m.mentions": {"user_ids": [bob.user_id]}})
    topic = await alice.says(room, "正事")
    seen = await bob.syncs()
    assert seen.texts(room) == ["正事"]
    assert seen.room(room)["unread_notifications"]["highlight_count"] == 0
    counts = seen.room(room)["unread_notifications"]["notification_count"]
    assert counts == 2, "what came before carol was ignored still counts"

    page = await bob.get(f"/v3/rooms/{quote(room)}/messages", dir="b", limit="50")
    assert {e["sender"] for e in page["chunk"] if e["type"] == "m.room.message"} == {alice.user_id}
    assert carol.user_id in {e["sender"] for e in page["chunk"]}, "state is shown all the same"
    around = await bob.get(f"/v3/rooms/{quote(room)}/context/{quote(topic)}")
    assert before not in {e["event_id"] for e in around["events_before"]}

    await carol.creates_room(invite=[bob])
    assert (await bob.syncs()).body.get("rooms", {}).get("invite") is None

    await ignores(bob)
    await carol.says(room, "又来")
    assert (await bob.syncs()).texts(room) == ["又来"]


async def test_mutual_rooms_are_those_of_both(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    shared = [await alice.creates_room(preset="public_chat") for _ in range(3)]
    for room in shared:
        await bob.joins(room)
    await bob.leaves(shared.pop())
    await bob.creates_room()
    await alice.creates_room(invite=[bob])

    for path in ("/v1/mutual_rooms", "/unstable/uk.half-shot.msc2666/user/mutual_rooms"):
        answer = await bob.get(path, user_id=alice.user_id)
        assert (sorted(answer["joined"]), answer["count"]) == (sorted(shared), 2)
    assert (await bob.get("/v1/mutual_rooms", user_id="@none:test.example"))["joined"] == []
    for wrong in ("", f"?user_id={quote(bob.user_id)}", "?user_id=nobody"):
        assert (await bob.refused("GET", f"/v1/mutual_rooms{wrong}")).status == 400


async def test_nothing_is_remembered_of_who_is_ignored_no_longer(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    path = f"/v3/user/{quote(alice.user_id)}/account_data/m.ignored_user_list"
    ignoring = homeserver.parts.services.ignoring
    assert not await ignoring.ignored_by(UserID(alice.user_id))
    for day in range(3):
        users: dict[str, Any] = {f"@{day}-{number}:x.test": {} for number in range(10)}
        await alice.put(path, {"ignored_users": users})
    assert await ignoring.ignorers_of("@2-0:x.test") == {alice.user_id}
    assert len(ignoring._ignorers) == 10
