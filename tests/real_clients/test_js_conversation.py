"""Two people with matrix-js-sdk clients talk in an encrypted room."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.town import Pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]


async def test_messages_go_both_ways_and_the_server_sees_only_ciphertext(pair: Pair) -> None:
    sent = await pair.alice.says(pair.room, "你好，小鲍")
    read = await pair.bob.reads("你好，小鲍", room=pair.room)
    assert (read.event_id, read.sender) == (sent, pair.alice.user_id)
    assert read.encrypted
    assert await pair.bob.shield(sent) == ("NONE", None)

    answer = await pair.bob.says(pair.room, "你好！", reply_to=sent)
    assert (await pair.alice.reads("你好！", room=pair.room)).relates_to == {
        "m.in_reply_to": {"event_id": sent}
    }

    stored = await pair.alice.request("GET", f"/_matrix/client/v3/rooms/{pair.room}/event/{answer}")
    assert stored["type"] == "m.room.encrypted"
    assert "你好" not in str(stored["content"])


async def test_a_file_of_five_megabytes_arrives_whole_and_is_stored_encrypted(
    pair: Pair, tmp_path: Path
) -> None:
    original = tmp_path / "报告.bin"
    original.write_bytes(secrets.token_bytes(5 * 1024 * 1024))

    sent = await pair.alice.sends_file(pair.room, original)
    message = await pair.bob.reads("报告.bin", room=pair.room)
    assert message.event_id == sent
    saved = tmp_path / "saved.bin"
    headers = await pair.bob.saves_file(sent, saved)

    assert saved.read_bytes() == original.read_bytes()
    assert headers["content-length"] == str(5 * 1024 * 1024)
    assert headers["content-type"] == "application/octet-stream"
    assert "sandbox" in headers["content-security-policy"]


async def test_a_read_receipt_reaches_the_author(pair: Pair) -> None:
    sent = await pair.alice.says(pair.room, "have you read this?")
    await pair.bob.reads(event_id=sent)
    await pair.bob.marks_read(sent)
    receipt = await pair.alice.sees_receipt(pair.bob.user_id, sent)
    assert receipt["type"] == "m.read"


async def test_typing_starts_and_stops(pair: Pair) -> None:
    await pair.bob.types(pair.room)
    await pair.alice.sees_typing(pair.room, pair.bob.user_id)
    await pair.bob.types(pair.room, typing=False)
    await pair.alice.sees_typing(pair.room, pair.bob.user_id, typing=False)


async def test_a_thread_holds_its_answers_together(pair: Pair) -> None:
    root = await pair.alice.says(pair.room, "the budget")
    await pair.bob.reads(event_id=root)
    first = await pair.bob.says(pair.room, "too high", thread=root)
    await pair.alice.reads(event_id=first)
    second = await pair.alice.says(pair.room, "not at all", thread=root)

    seen = await pair.bob.reads(event_id=second)
    assert seen.thread == root
    assert seen.relates_to is not None
    assert seen.relates_to["rel_type"] == "m.thread"

    page = await pair.alice.request(
        "GET", f"/_matrix/client/v1/rooms/{pair.room}/relations/{root}/m.thread"
    )
    assert [event["event_id"] for event in page["chunk"]] == [second, first]


async def test_reactions_are_counted_per_sign(pair: Pair) -> None:
    sent = await pair.alice.says(pair.room, "lunch?")
    await pair.bob.reads(event_id=sent)
    await pair.bob.reacts(pair.room, sent, "👍")
    await pair.alice.reacts(pair.room, sent, "👍")

    for client in (pair.alice, pair.bob):
        senders = await client.sees_reactions(pair.room, sent, "👍", count=2)
        assert sorted(senders) == sorted([pair.alice.user_id, pair.bob.user_id])


async def test_an_edit_replaces_the_text(pair: Pair) -> None:
    sent = await pair.alice.says(pair.room, "see you at tne")  # codespell:ignore tne
    assert not (await pair.bob.reads(event_id=sent)).edited
    await pair.alice.edits(pair.room, sent, "see you at ten")

    seen = await pair.bob.reads("see you at ten", event_id=sent, edited=True)
    assert seen.event_id == sent


async def test_a_redaction_takes_the_content_away_from_everybody(pair: Pair) -> None:
    sent = await pair.alice.says(pair.room, "the wrong room, sorry")
    await pair.bob.reads(event_id=sent)
    await pair.alice.redacts(pair.room, sent, reason="mistake")

    seen = await pair.bob.reads(event_id=sent, redacted=True)
    assert seen.content == {}
    stored = await pair.bob.request("GET", f"/_matrix/client/v3/rooms/{pair.room}/event/{sent}")
    assert stored["content"] == {}
    assert stored["unsigned"]["redacted_because"]["sender"] == pair.alice.user_id


async def test_a_poll_is_answered(pair: Pair) -> None:
    poll = await pair.alice.asks_poll(pair.room, "同意吗？", ["同意", "不同意"])
    asked = await pair.bob.reads(event_id=poll)
    assert asked.type == "org.matrix.msc3381.poll.start"
    await pair.bob.answers_poll(pair.room, poll, "2")

    answer = await pair.alice.reads(type="org.matrix.msc3381.poll.response", relates_to=poll)
    assert answer.content["org.matrix.msc3381.poll.response"] == {"answers": ["2"]}


async def test_unread_counts_rise_with_messages_and_end_with_the_receipt(pair: Pair) -> None:
    latest = await pair.bob.says(pair.room, "nothing unread from here on")
    await pair.alice.reads(event_id=latest)
    await pair.alice.marks_read(latest)
    await pair.alice.sees_unread(pair.room, notifications=0, highlights=0)

    await pair.bob.says(pair.room, "one")
    last = await pair.bob.says(pair.room, "two, for you", mentions=[pair.alice.user_id])
    await pair.alice.reads(event_id=last)
    await pair.alice.sees_unread(pair.room, notifications=2, highlights=1)

    await pair.alice.marks_read(last)
    await pair.alice.sees_unread(pair.room, notifications=0, highlights=0)


async def test_a_reloaded_client_still_reads_what_it_has_received(pair: Pair) -> None:
    sent = await pair.alice.says(pair.room, "before the reload")
    await pair.bob.reads(event_id=sent)
    await pair.bob.reloads()
    assert (await pair.bob.reads(event_id=sent)).body == "before the reload"
