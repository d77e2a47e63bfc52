"""A homeserver that tampers with what people said: refused or without effect, and on the record."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from bots_runner.story import opens_direct_room, says_back
from yizhan_bots.conversation import Outgoing, Reaction, Standing, Undecryptable
from yizhan_testing.tampering import TamperingRelay, timeline_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bots_runner.story import Bot, Office
    from yizhan_testing.servers import RunningHomeserver

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

JsonObject = dict[str, Any]


@pytest_asyncio.fixture(loop_scope="module")
async def liar(homeserver: RunningHomeserver) -> AsyncIterator[TamperingRelay]:
    async with TamperingRelay.open(homeserver.base_url) as relay:
        yield relay


def keep_copies(liar: TamperingRelay, kept: list[JsonObject], sender: str) -> None:
    """Keep every encrypted event of the person as the bot gets it."""

    def keep(answer: JsonObject) -> None:
        for _, events in timeline_of(answer):
            encrypted = [e for e in events if e["type"] == "m.room.encrypted"]
            kept.extend(deepcopy(e) for e in encrypted if e["sender"] == sender)

    liar.on_sync(keep)


async def standing_on_record(bot: Bot, event_id: str) -> str | None:
    [(standing,)] = await bot.rows("SELECT standing FROM inbox WHERE event_id = ?", event_id)
    return None if standing is None else str(standing)


def insert(liar: TamperingRelay, room_id: str, event: JsonObject) -> None:
    """Show the bot one more event of the room, once."""
    pending = [event]

    def insert_once(answer: JsonObject) -> None:
        if pending:
            joined = answer.setdefault("rooms", {}).setdefault("join", {})
            room = joined.setdefault(room_id, {})
            room.setdefault("timeline", {}).setdefault("events", []).append(pending.pop())

    liar.on_sync(insert_once)


async def test_a_decision_under_another_name_is_nobodys(
    office: Office, liar: TamperingRelay
) -> None:
    bot = await office.bot(base_url=liar.base_url)
    bot.notebook.reply = says_back
    alice, mallory = await office.person("alice"), await office.person("mallory")
    room = await alice.creates_room(invite=[bot.user_id, mallory.user_id])
    await mallory.accepts_invitation(room)
    for client in alice, mallory:
        await client.sees_member(room, bot.user_id)
        await client.sees_member(room, mallory.user_id)

    def rename(answer: JsonObject) -> None:
        for _, events in timeline_of(answer):
            for event in events:
                if event["type"] == "m.room.encrypted" and event["sender"] == alice.user_id:
                    event["sender"] = mallory.user_id

    liar.on_sync(rename)
    sent = await alice.says(room, "1 7K2M")

    heard = await bot.notebook.hears_text("1 7K2M")
    assert (heard.standing, heard.actor) == (Standing.SENDER_MISMATCH, None)
    await alice.reads("1 7K2M: sender_mismatch")
    assert await standing_on_record(bot, sent) == "sender_mismatch"


async def test_a_decision_shown_again_under_another_id_is_a_replay_even_after_a_restart(
    office: Office, liar: TamperingRelay
) -> None:
    bot = await office.bot(base_url=liar.base_url)
    bot.notebook.reply = lambda i: [Outgoing(f"{i.event_id} {i.standing.value}", i.room_id)]
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    kept: list[JsonObject] = []
    keep_copies(liar, kept, alice.user_id)
    await alice.says(room, "1 7K2M")
    await bot.notebook.hears_text("1 7K2M")

    for number in 1, 2:
        insert(liar, room, kept[0] | {"event_id": f"$again{number}"})
        await alice.says(room, f"something else {number}")  # so that /sync answers
        again = await bot.notebook.hears_event(f"$again{number}")
        assert (again.standing, again.actor) == (Standing.REPLAYED, None)
        await alice.reads(f"$again{number} replayed")
        assert await standing_on_record(bot, f"$again{number}") == "replayed"
        await bot.stop()
        await bot.start()

    # Shown again under its own id it is not even heard.
    insert(liar, room, kept[0])
    await alice.says(room, "the end")
    await bot.notebook.hears_text("the end")
    assert bot.notebook.texts().count("1 7K2M") == 3


async def test_a_decision_moved_to_another_room_is_unreadable_there(
    office: Office, liar: TamperingRelay
) -> None:
    bot = await office.bot(base_url=liar.base_url, unreadable_ms=300)
    alice = await office.person("alice")
    room, other = (
        await opens_direct_room(alice, bot),
        await alice.creates_room(invite=[bot.user_id]),
    )
    await alice.sees_member(other, bot.user_id)

    def move(answer: JsonObject) -> None:
        moved = [
            event
            for room_id, events in timeline_of(answer)
            if room_id == room
            for event in events
            if event["type"] == "m.room.encrypted"
        ]
        for room_id, events in list(timeline_of(answer)):
            if room_id == room:
                events[:] = [event for event in events if event not in moved]
        if moved:
            joined = answer["rooms"]["join"].setdefault(other, {})
            joined.setdefault("timeline", {}).setdefault("events", []).extend(moved)

    liar.on_sync(move)
    sent = await alice.says(room, "1 7K2M")

    heard = await bot.notebook.hears_kind(Undecryptable)
    assert (heard.event_id, heard.room_id, heard.actor) == (sent, other, None)
    assert bot.notebook.texts() == []


async def test_a_decision_withheld_and_reordered_still_says_the_same_once(
    office: Office, liar: TamperingRelay
) -> None:
    bot = await office.bot(base_url=liar.base_url)
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    held: list[JsonObject] = []

    def hold(answer: JsonObject) -> None:
        for room_id, events in timeline_of(answer):
            if room_id == room:
                held.extend(e for e in events if e["type"] == "m.room.encrypted")
                events[:] = [e for e in events if e["type"] != "m.room.encrypted"]

    liar.on_sync(hold)
    await alice.says(room, "first")
    await alice.says(room, "second")
    while len(held) < 2:
        await alice.says(room, "more")
    liar.be_honest()
    for event in reversed(held):
        insert(liar, room, event)
    await alice.says(room, "last")

    await bot.notebook.hears_text("last")
    for text in "first", "second":
        assert (await bot.notebook.hears_text(text)).standing is Standing.VERIFIED
    assert bot.notebook.texts().count("first") == 1


async def test_a_forged_reaction_and_a_forged_clear_text_are_nobodys(
    office: Office, liar: TamperingRelay
) -> None:
    bot = await office.bot(base_url=liar.base_url)
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    relation = {"rel_type": "m.annotation", "event_id": "$card", "key": "✅"}
    forged = {"sender": alice.user_id, "origin_server_ts": 1}
    reaction = forged | {
        "type": "m.reaction",
        "event_id": "$forged1",
        "content": {"m.relates_to": relation},
    }
    text = forged | {
        "type": "m.room.message",
        "event_id": "$forged2",
        "content": {"msgtype": "m.text", "body": "1 7K2M"},
    }
    for event in reaction, text:
        insert(liar, room, event)
    await alice.says(room, "hello")

    heard = await bot.notebook.hears_kind(Reaction)
    assert heard.content == Reaction("$card", "✅")
    clear = await bot.notebook.hears_text("1 7K2M")
    for incoming in heard, clear:
        assert (incoming.standing, incoming.actor) == (Standing.UNENCRYPTED, None)
    assert (await bot.notebook.hears_text("hello")).standing is Standing.VERIFIED


async def test_the_sender_key_in_the_clear_part_names_nobody(
    office: Office, liar: TamperingRelay
) -> None:
    bot = await office.bot(base_url=liar.base_url)
    alice, mallory = await office.person("alice"), await office.person("mallory")
    room = await opens_direct_room(alice, bot)

    def rewrite(answer: JsonObject) -> None:
        for _, events in timeline_of(answer):
            for event in events:
                if event["type"] == "m.room.encrypted":
                    olm = mallory.client.olm
                    event["content"]["sender_key"] = olm.account.identity_keys["curve25519"]
                    event["content"]["device_id"] = mallory.device_id

    liar.on_sync(rewrite)
    await alice.says(room, "1 7K2M")

    heard = await bot.notebook.hears_text("1 7K2M")
    assert heard.actor is not None
    assert (heard.actor.user_id, heard.actor.device_id) == (alice.user_id, alice.device_id)


async def test_hidden_encryption_does_not_make_the_bot_speak_in_clear(
    office: Office, liar: TamperingRelay
) -> None:
    bot = await office.bot(base_url=liar.base_url)
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    insert(
        liar,
        room,
        {
            "type": "m.room.encryption",
            "state_key": "",
            "sender": alice.user_id,
            "event_id": "$off",
            "content": {},
        },
    )
    bot.notebook.reply = says_back
    await alice.says(room, "secret?")

    assert (await alice.reads("secret?: verified")).encrypted
