"""What somebody who left still sees, and what their other devices learn of it."""

from __future__ import annotations

import json
from urllib.parse import quote

from yizhan_testing.homeserver import HomeserverInProcess, Person


async def test_who_is_banned_after_leaving_reads_no_more_than_when_leaving(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await alice.sets(room, "m.room.topic", {"topic": "public"})
    await bob.leaves(room)
    await bob.syncs()
    await alice.sets(room, "m.room.topic", {"topic": "secret"})
    path = f"/v3/rooms/{quote(room)}"
    for action in ("ban", "unban", "ban"):
        await alice.post(f"{path}/{action}", {"user_id": bob.user_id})
        answer = await bob.syncs()
        assert "secret" not in str(answer.body)
        events = answer.room(room, "leave")["timeline"]["events"]
        assert [event["state_key"] for event in events] == [bob.user_id]
        topic = await bob.get(f"{path}/state/m.room.topic/")
        assert topic == {"topic": "public"}
        for what in ("state", "messages?dir=b&limit=100", "members"):
            assert "secret" not in str(await bob.get(f"{path}/{what}")), what
        old = await bob.get("/v3/initialSync", archived="true")
        assert [each["room_id"] for each in old["rooms"]] == [room]
        assert "secret" not in str(old)


async def test_a_room_left_and_forgotten_leaves_the_other_devices_too(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    phone = await homeserver.signs_in("bob")
    assert (await phone.syncs()).room(room)
    await bob.leaves(room)
    await bob.post(f"/v3/rooms/{quote(room)}/forget", {})

    assert (await phone.syncs()).room(room, "leave")
    assert "rooms" not in (await phone.syncs()).body
    assert "rooms" not in (await (await homeserver.signs_in("bob")).syncs()).body


async def test_state_that_a_filter_keeps_out_of_the_timeline_is_sent_as_state(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    wanted = json.dumps({"room": {"timeline": {"limit": 2, "types": ["m.room.message"]}}})
    await bob.syncs(filter=wanted)
    for text in ("一", "二", "三"):
        await alice.says(room, text)
        await alice.sets(room, "m.room.topic", {"topic": text})

    answer = await bob.syncs(filter=wanted)
    assert answer.texts(room) == ["二", "三"]
    assert answer.room(room)["timeline"]["limited"] is True
    assert answer.state(room)["m.room.topic", ""] == {"topic": "三"}


async def test_a_member_event_in_a_lost_answer_is_sent_again(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    wanted = json.dumps({"room": {"state": {"lazy_load_members": True}}})
    for _ in range(12):
        await alice.says(room, "x")
    since = (await alice.syncs(filter=wanted)).next_batch
    await bob.says(room, "y")

    for _ in range(2):
        alice.since = since  # the first answer never arrived
        answer = await alice.syncs(filter=wanted)
        assert answer.texts(room) == ["y"]
        assert set(answer.state(room)) == {("m.room.member", bob.user_id)}
    await bob.says(room, "z")
    assert (await alice.syncs(filter=wanted)).state(room) == {}
