"""What is bundled with an event is only what the reader may see."""

from __future__ import annotations

from urllib.parse import quote

from yizhan_testing.homeserver import JsonObject, Person


def in_thread(root: str) -> JsonObject:
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


async def test_a_thread_is_summarised_as_far_as_its_reader_may_see(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    root = await alice.says(room, "议题")
    await alice.says(room, "before", **in_thread(root))
    await bob.leaves(room)
    await alice.says(room, "the secret", **in_thread(root))

    path = f"/v3/rooms/{quote(room)}"
    for what in (f"{path}/event/{quote(root)}", f"{path}/messages?dir=b&limit=50",
                 f"/v1/rooms/{quote(room)}/threads", f"{path}/context/{quote(root)}"):  # fmt: skip
        assert "the secret" not in str(await bob.get(what)), what
    seen = await bob.get(f"{path}/event/{quote(root)}")
    thread = seen["unsigned"]["m.relations"]["m.thread"]
    assert (thread["count"], thread["latest_event"]["content"]["body"]) == (1, "before")
    seen = await alice.get(f"{path}/event/{quote(root)}")
    assert seen["unsigned"]["m.relations"]["m.thread"]["count"] == 2


async def test_of_replies_sent_while_somebody_was_away_none_is_shown(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await alice.sets(room, "m.room.history_visibility", {"history_visibility": "joined"})
    await bob.joins(room)
    root = await alice.says(room, "议题")
    await alice.says(room, "before", **in_thread(root))
    await bob.leaves(room)
    await alice.says(room, "the secret", **in_thread(root))
    await alice.invites(room, bob)
    await bob.joins(room)
    path = f"/v3/rooms/{quote(room)}/event/{quote(root)}"
    thread = (await bob.get(path))["unsigned"]["m.relations"]["m.thread"]
    assert thread["latest_event"]["content"]["body"] == "before"
    await alice.says(room, "after", **in_thread(root))
    thread = (await bob.get(path))["unsigned"]["m.relations"]["m.thread"]
    assert thread["latest_event"]["content"]["body"] == "after"


async def test_nothing_of_ignored_people_is_bundled(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    root = await alice.says(room, "议题")
    await alice.says(room, "mine", **in_thread(root))
    await bob.says(room, "the secret", **in_thread(root))
    reference = {"m.relates_to": {"rel_type": "m.reference", "event_id": root}}
    referring = await bob.sends(room, "m.room.message", {"body": "see above", **reference})
    path = f"/v3/rooms/{quote(room)}/event/{quote(root)}"
    assert referring in str(await alice.get(path))

    ignored: JsonObject = {"ignored_users": {bob.user_id: {}}}
    await alice.put(f"/v3/user/{quote(alice.user_id)}/account_data/m.ignored_user_list", ignored)
    relations = (await alice.get(path))["unsigned"]["m.relations"]
    assert "m.reference" not in relations
    thread = relations["m.thread"]
    assert (thread["count"], thread["latest_event"]["content"]["body"]) == (1, "mine")


async def test_who_has_left_is_not_told_why_something_was_redacted_later(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    event = await alice.says(room, "a word")
    await bob.leaves(room)
    path = f"/v3/rooms/{quote(room)}"
    await alice.put(f"{path}/redact/{quote(event)}/1", {"reason": "the secret"})
    for person in (alice, bob):
        seen = await person.get(f"{path}/event/{quote(event)}")
        assert seen["content"] == {}
        because = seen["unsigned"]["redacted_because"]
        assert because["sender"] == alice.user_id
        assert ("the secret" in str(because)) == (person is alice)
