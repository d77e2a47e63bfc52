"""Searching messages, in Chinese too."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from yizhan_server.search.tokens import phrases_of, tokens_of
from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person


async def searches(
    person: Person, term: str, next_batch: str | None = None, **more: Any
) -> JsonObject:
    path = "/v3/search" if next_batch is None else f"/v3/search?next_batch={quote(next_batch)}"
    body = {"search_categories": {"room_events": {"search_term": term, **more}}}
    found: JsonObject = (await person.post(path, body))["search_categories"]["room_events"]
    return found


async def bodies(person: Person, term: str, **more: Any) -> list[str]:
    found = await searches(person, term, order_by="recent", **more)
    return [result["result"]["content"].get("body", "") for result in found["results"]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("国务院2024年", ["国", "务", "院", "2024", "年"]),
        ("Ｆｕｌｌ-width, snake_case", ["full", "width", "snake", "case"]),
        ("Straße ÉTÉ", ["strasse", "été"]),
        ("カタカナ한글", ["カ", "タ", "カ", "ナ", "한", "글"]),
        ("' OR \" : * ^ ( NEAR -", ["or", "near"]),
        ("", []),
    ],
)
def test_texts_become_tokens(text: str, tokens: list[str]) -> None:
    assert tokens_of(text) == tokens


def test_each_word_of_a_search_is_a_phrase() -> None:
    assert phrases_of("会议纪要 draft-2 !") == [["会", "议", "纪", "要"], ["draft", "2"]]


async def test_chinese_is_found_by_any_part_of_a_sentence(alice: Person) -> None:
    room = await alice.creates_room(name="办公室")
    await alice.says(room, "关于召开全市安全生产工作会议的通知")
    await alice.says(room, "生产安全")
    await alice.says(room, "Meeting at 9:30, room B-12")

    assert await bodies(alice, "安全生产") == ["关于召开全市安全生产工作会议的通知"]
    assert await bodies(alice, "安全 生产") == ["生产安全", "关于召开全市安全生产工作会议的通知"]
    assert await bodies(alice, "通知") == ["关于召开全市安全生产工作会议的通知"]
    assert await bodies(alice, "产安") == ["生产安全"]
    assert await bodies(alice, "meeting b-12") == ["Meeting at 9:30, room B-12"]
    assert await bodies(alice, "meet") == []
    assert await bodies(alice, "' OR \" *") == []
    assert (await searches(alice, "安全生产 通知"))["highlights"] == ["安全生产", "通知"]


async def test_names_and_topics_are_found_by_their_keys(alice: Person) -> None:
    await alice.creates_room(name="预算讨论", topic="预算与决算")
    found = await searches(alice, "预算", order_by="recent")
    assert [each["result"]["type"] for each in found["results"]] == [
        "m.room.topic", "m.room.name",
    ]  # fmt: skip
    found = await searches(alice, "预算", keys=["content.name"])
    assert [each["result"]["type"] for each in found["results"]] == ["m.room.name"]
    for wrong in (
        {"keys": ["content.x"]},
        {"order_by": "x"},
        {"groupings": {"group_by": [{"key": "x"}]}},
    ):
        body = {"search_categories": {"room_events": {"search_term": "x", **wrong}}}
        assert (await alice.refused("POST", "/v3/search", body)).errcode == "M_INVALID_PARAM"
    assert (await alice.refused("POST", "/v3/search", {})).errcode == "M_BAD_JSON"
    assert (await alice.post("/v3/search", {"search_categories": {}})) == {"search_categories": {}}


async def test_only_what_one_may_see_is_found(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(
        preset="public_chat",
        initial_state=[
            {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        ],
    )
    await alice.says(room, "秘密一")
    await bob.joins(room)
    await alice.says(room, "秘密二")
    await bob.leaves(room)
    await alice.says(room, "秘密三")
    other = await alice.creates_room()
    await alice.says(other, "秘密四")

    assert await bodies(bob, "秘密") == ["秘密二"]
    assert await bodies(alice, "秘密") == ["秘密四", "秘密三", "秘密二", "秘密一"]
    assert await bodies(alice, "秘密", filter={"rooms": [other]}) == ["秘密四"]
    assert await bodies(alice, "秘密", filter={"not_rooms": [room]}) == ["秘密四"]
    assert await bodies(alice, "秘密", filter={"senders": [bob.user_id]}) == []
    assert await bodies(await homeserver.person("carol"), "秘密") == []
    await bob.post(f"/v3/rooms/{quote(room)}/forget", {})
    assert await bodies(bob, "秘密") == []


async def test_nothing_is_found_in_encrypted_rooms(alice: Person) -> None:
    room = await alice.creates_room(name="密")
    await alice.says(room, "早先的话")
    assert await bodies(alice, "早先") == ["早先的话"]
    await alice.sets(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    assert await bodies(alice, "早先") == []
    assert (await searches(alice, "密"))["results"] == []


async def test_edits_are_found_and_redactions_are_not(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat")
    event = await alice.says(room, "初稿")
    await bob.joins(room)

    async def edits(person: Person, text: str) -> str:
        return await person.says(
            room, f"* {text}",
            **{
                "m.new_content": {"msgtype": "m.text", "body": text},
                "m.relates_to": {"rel_type": "m.replace", "event_id": event},
            },
        )  # fmt: skip

    await edits(bob, "篡改")
    second = await edits(alice, "定稿")
    found = await searches(alice, "定稿", order_by="recent")
    result = found["results"][0]["result"]
    assert result["event_id"] == event
    assert result["unsigned"]["m.relations"]["m.replace"]["event_id"] == second
    assert await bodies(alice, "初稿") == []
    assert await bodies(alice, "篡改") == []

    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(second)}/1", {})
    assert await bodies(alice, "定稿") == []
    assert await bodies(alice, "初稿") == ["初稿"]
    await alice.put(f"/v3/rooms/{quote(room)}/redact/{quote(event)}/2", {})
    assert await bodies(alice, "初稿") == []


async def test_results_are_paged_by_time_or_by_rank(alice: Person) -> None:
    room = await alice.creates_room()
    events = [await alice.says(room, f"Message number {number}") for number in range(7)]
    await alice.says(room, "message message message")

    for order in ("recent", "rank"):
        seen: list[str] = []
        ranks: list[float] = []
        token = None
        while True:
            found = await searches(alice, "message", token, order_by=order, filter={"limit": 3})
            assert found["count"] == 8
            assert len(found["results"]) <= 3
            seen += [each["result"]["event_id"] for each in found["results"]]
            ranks += [each["rank"] for each in found["results"]]
            token = found.get("next_batch")
            if token is None:
                break
        assert len(seen) == len(set(seen)) == 8
        if order == "recent":
            assert seen[1:] == events[::-1]
        else:
            assert ranks == sorted(ranks, reverse=True)
            assert seen[0] not in events
    refused = await alice.refused(
        "POST",
        "/v3/search?next_batch=x",
        {"search_categories": {"room_events": {"search_term": "x"}}},
    )
    assert refused.errcode == "M_INVALID_PARAM"


async def test_results_come_with_context_groups_and_state(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat", topic="t")
    await bob.joins(room)
    for number in range(1, 8):
        await (alice if number % 2 else bob).says(room, f"Message number {number}")
    found = await searches(
        alice, "message 4", order_by="recent", include_state=True, filter={"limit": 1},
        event_context={"before_limit": 2, "after_limit": 2, "include_profile": True},
        groupings={"group_by": [{"key": "room_id"}, {"key": "sender"}]},
    )  # fmt: skip

    assert found["count"] == 1
    [result] = found["results"]
    context = result["context"]
    assert [e["content"]["body"][-1] for e in context["events_before"]] == ["3", "2"]
    assert [e["content"]["body"][-1] for e in context["events_after"]] == ["5", "6"]
    assert context["profile_info"][bob.user_id] == {"displayname": "bob"}
    page = await alice.get(
        f"/v3/rooms/{quote(room)}/messages", dir="b", limit="1", **{"from": context["start"]}
    )
    assert page["chunk"][0]["content"]["body"] == "Message number 1"
    event_id = result["result"]["event_id"]
    assert found["groups"] == {
        "room_id": {room: {"order": 1, "results": [event_id]}},
        "sender": {bob.user_id: {"order": 1, "results": [event_id]}},
    }
    assert "m.room.topic" in {event["type"] for event in found["state"][room]}


async def test_a_room_is_searched_with_what_it_replaced(alice: Person) -> None:
    old = await alice.creates_room(room_version="10")
    await alice.says(old, "message 1")
    new = (await alice.post(f"/v3/rooms/{quote(old)}/upgrade", {"new_version": "12"}))[
        "replacement_room"
    ]
    await alice.says(new, "message 2")
    assert await bodies(alice, "message", filter={"rooms": [new]}) == ["message 2", "message 1"]
    assert await bodies(alice, "message", filter={"rooms": [old]}) == ["message 1"]


async def test_what_a_search_counts_is_what_may_be_seen(alice: Person, bob: Person) -> None:
    async def counts(person: Person, order_by: str, limit: int) -> Any:
        found = await searches(person, "layoffs", order_by=order_by, filter={"limit": limit})
        return found["count"]

    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    for number in range(3):
        await alice.says(room, f"layoffs {number}")
    await bob.leaves(room)
    await alice.says(room, "layoffs in May")
    for order_by in ("rank", "recent"):
        for limit in (1, 10):
            assert await counts(bob, order_by, limit) == 3
            assert await counts(alice, order_by, limit) == 4
