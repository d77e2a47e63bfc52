"""Rooms as two people live in them."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from yizhan_server.clock import SystemClock
from yizhan_server.rooms.housekeeping import DAY_MS, Housekeeping
from yizhan_testing.homeserver import HomeserverInProcess, Person
from yizhan_testing.later_clock import LaterClock


async def test_two_people_chat(alice: Person, bob: Person) -> None:
    await alice.syncs()
    await bob.syncs()
    room = await alice.creates_room(name="局务会", invite=[bob])

    invited = (await bob.syncs()).room(room, "invite")["invite_state"]["events"]
    assert {"m.room.name", "m.room.create", "m.room.join_rules"} <= {e["type"] for e in invited}

    await bob.joins(room)
    first = await alice.says(room, "你好")
    seen = await bob.syncs()
    assert seen.texts(room) == ["你好"]
    assert seen.timeline(room)[-1]["event_id"] == first
    names = [e["content"] for e in seen.timeline(room) if e["type"] == "m.room.name"]
    assert names == [{"name": "局务会"}]

    await bob.says(room, "在")
    assert (await alice.syncs()).texts(room) == ["你好", "在"]


async def test_a_long_poll_ends_when_something_is_said(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await bob.syncs()

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(bob.syncs(timeout_ms=20_000))
        await asyncio.sleep(0)
        await alice.says(room, "醒醒")
    assert waiting.result().texts(room) == ["醒醒"]


async def test_the_same_transaction_id_is_the_same_event(alice: Person) -> None:
    room = await alice.creates_room()
    path = f"/v3/rooms/{quote(room)}/send/m.room.message/once"
    body = {"msgtype": "m.text", "body": "一次"}

    answers = await asyncio.gather(*(alice.put(path, body) for _ in range(5)))

    assert len({answer["event_id"] for answer in answers}) == 1
    assert (await alice.syncs()).texts(room) == ["一次"]


async def test_a_limited_timeline_has_its_state_and_can_be_paged(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await bob.syncs()
    for number in range(25):
        await alice.says(room, str(number))
    await alice.sets(room, "m.room.topic", {"topic": "一"})
    for number in range(25, 40):
        await alice.says(room, str(number))

    answer = await bob.syncs()
    section = answer.room(room)
    assert section["timeline"]["limited"] is True
    assert answer.texts(room) == [str(number) for number in range(30, 40)]
    assert answer.state(room)["m.room.topic", ""] == {"topic": "一"}

    older: list[str] = []
    token = section["timeline"]["prev_batch"]
    while token is not None:
        page = await bob.get(
            f"/v3/rooms/{quote(room)}/messages", dir="b", limit="7", **{"from": token}
        )
        older += [e["content"]["body"] for e in page["chunk"] if e["type"] == "m.room.message"]
        token = page.get("end")
    assert older == [str(number) for number in reversed(range(30))]


async def test_who_left_reads_nothing_that_came_after(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await bob.syncs()
    await alice.says(room, "before")
    await bob.leaves(room)
    secret = await alice.says(room, "after")

    left = await bob.syncs()
    assert left.room(room) == {}
    texts = [
        e["content"].get("body")
        for e in left.room(room, "leave")["timeline"]["events"]
        if e["type"] == "m.room.message"
    ]
    assert texts == ["before"]
    page = await bob.get(f"/v3/rooms/{quote(room)}/messages", dir="b", limit="50")
    assert "after" not in str(page)
    assert (await bob.refused("GET", f"/v3/rooms/{quote(room)}/event/{quote(secret)}")).errcode == (
        "M_NOT_FOUND"
    )
    assert (await bob.syncs()).body.get("rooms") is None


async def test_a_stranger_can_neither_read_nor_write(alice: Person, bob: Person) -> None:
    room = await alice.creates_room()
    event = await alice.says(room, "internal")
    path = f"/v3/rooms/{quote(room)}"

    for method, what, body in (
        ("GET", "/state", None),
        ("GET", "/members", None),
        ("GET", "/messages?dir=b", None),
        ("PUT", "/send/m.room.message/1", {"body": "hi", "msgtype": "m.text"}),
        ("PUT", "/state/m.room.topic/", {"topic": "mine"}),
        ("POST", "/invite", {"user_id": bob.user_id}),
        ("PUT", f"/typing/{quote(bob.user_id)}", {"typing": True}),
    ):
        refused = await bob.refused(method, path + what, body)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), what
    assert (await bob.refused("GET", f"{path}/event/{quote(event)}")).status == 404
    assert (await bob.refused("POST", f"/v3/join/{quote(room)}", {})).status == 403


async def test_a_redacted_event_loses_its_content_everywhere(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    event = await alice.says(room, "泄密")
    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(event)}/r1", {"reason": "错发"})

    seen = await bob.get(f"/v3/rooms/{quote(room)}/event/{quote(event)}")
    assert seen["content"] == {}
    assert seen["unsigned"]["redacted_because"]["content"]["redacts"] == event
    assert seen["unsigned"]["redacted_by"] == seen["unsigned"]["redacted_because"]["event_id"]
    page = await bob.get(f"/v3/rooms/{quote(room)}/messages", dir="b", limit="50")
    assert "泄密" not in str(page)
    assert "泄密" not in str((await bob.syncs()).body)
    own = await bob.says(room, "mine")
    assert (
        await bob.refused("PUT", f"/v3/rooms/{quote(room)}/redact/{quote(event)}/r2", {})
    ).status == 403
    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(own)}/r3", {})


async def test_the_original_of_a_redacted_event_is_erased_in_time(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room()
    event = await alice.says(room, "泄密")
    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(event)}/r1", {})
    db = homeserver.parts.services.db

    async def original() -> bytes:
        row = await db.row("SELECT client FROM event WHERE event_id = ?", event)
        assert row is not None
        return bytes(row[0])

    await Housekeeping(db, SystemClock(), retention_days=1).tidy()
    assert "泄密".encode() in await original()
    await Housekeeping(db, LaterClock(2 * DAY_MS), retention_days=1).tidy()
    assert "泄密".encode() not in await original()
    seen = await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(event)}")
    assert seen["content"] == {}
    assert seen["unsigned"]["redacted_because"]["type"] == "m.room.redaction"


async def test_unread_counts_follow_receipts(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await bob.syncs()
    first = await alice.says(room, "one")
    await alice.says(room, "two", **{"m.mentions": {"user_ids": [bob.user_id]}})

    counts = (await bob.syncs()).room(room)["unread_notifications"]
    assert counts == {"notification_count": 2, "highlight_count": 1}

    await bob.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(first)}", {})
    counts = (await bob.syncs()).room(room)["unread_notifications"]
    assert counts == {"notification_count": 1, "highlight_count": 1}
    receipts = [
        e
        for e in (await alice.syncs()).room(room)["ephemeral"]["events"]
        if e["type"] == "m.receipt"
    ]
    assert bob.user_id in receipts[0]["content"][first]["m.read"]

    await bob.says(room, "read them all")
    counts = (await bob.syncs()).room(room)["unread_notifications"]
    assert counts == {"notification_count": 0, "highlight_count": 0}


async def test_typing_is_seen_and_ends(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    await bob.syncs()
    path = f"/v3/rooms/{quote(room)}/typing/{quote(alice.user_id)}"

    def typists(section: dict[str, object]) -> object:
        events = section["ephemeral"]["events"]  # type: ignore[index]
        return [e["content"]["user_ids"] for e in events if e["type"] == "m.typing"]

    await alice.put(path, {"typing": True, "timeout": 30_000})
    assert typists((await bob.syncs()).room(room)) == [[alice.user_id]]
    await alice.put(path, {"typing": False})
    assert typists((await bob.syncs()).room(room)) == [[]]
    assert (await bob.syncs()).body.get("rooms") is None

    # A client that begins anew may still show who typed; where nobody did, nothing is said.
    quiet = await alice.creates_room(invite=[bob])
    await bob.joins(quiet)
    bob.since = None
    answer = await bob.syncs()
    assert typists(answer.room(room)) == [[]]
    assert "m.typing" not in str(answer.room(quiet).get("ephemeral"))
    assert (await bob.syncs()).body.get("rooms") is None


async def test_a_thread_is_summarised_at_its_root(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    root = await alice.says(room, "议题")
    for text in ("甲", "乙"):
        await bob.says(room, text, **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})

    seen = await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(root)}")
    thread = seen["unsigned"]["m.relations"]["m.thread"]
    assert thread["count"] == 2
    assert thread["latest_event"]["content"]["body"] == "乙"
    related = await alice.get(f"/v1/rooms/{quote(room)}/relations/{quote(root)}/m.thread")
    assert [e["content"]["body"] for e in related["chunk"]] == ["乙", "甲"]
    roots = await alice.get(f"/v1/rooms/{quote(room)}/threads")
    assert [e["event_id"] for e in roots["chunk"]] == [root]


async def test_every_room_version_can_be_made_and_talked_in(alice: Person, bob: Person) -> None:
    for version in range(1, 13):
        room = await alice.creates_room(room_version=str(version), invite=[bob])
        await bob.joins(room)
        await alice.says(room, f"v{version}")
        event = await bob.says(room, "redact me")
        await bob.put(f"/v3/rooms/{quote(room)}/redact/{quote(event, safe='')}/r{version}", {})
        answer = await bob.syncs()
        assert f"v{version}" in answer.texts(room)
        assert (":" in room) == (version < 12)


async def test_an_account_is_made_by_the_shared_secret(homeserver: HomeserverInProcess) -> None:
    person = await homeserver.person("zhang.san")
    assert (await person.get("/v3/account/whoami"))["user_id"] == "@zhang.san:test.example"


async def test_a_page_can_end_and_begin_at_a_sync_token(alice: Person) -> None:
    room = await alice.creates_room()
    for number in range(3):
        await alice.says(room, str(number))
    token = (await alice.syncs()).next_batch
    for number in range(3, 8):
        await alice.says(room, str(number))
    path = f"/v3/rooms/{quote(room)}/messages"

    def texts(page: dict[str, Any]) -> list[str]:
        return [e["content"]["body"] for e in page["chunk"] if e["type"] == "m.room.message"]

    missed = await alice.get(path, dir="b", limit="50", to=token)
    assert texts(missed) == ["7", "6", "5", "4", "3"]
    first = await alice.get(path, dir="f", limit="2", **{"from": token})
    assert texts(first) == ["3", "4"]
    rest = await alice.get(path, dir="f", limit="50", **{"from": first["end"]})
    assert texts(rest) == ["5", "6", "7"]
    before = await alice.get(path, dir="b", limit="2", **{"from": token})
    assert texts(before) == ["2", "1"]
