"""Downtime, crashes, late keys: every message is heard once and answered once."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from bots_runner.story import bodies, opens_direct_room, says_back
from yizhan_bots.conversation import Outgoing, Redacted, Standing, Text, Undecryptable
from yizhan_bots.matrix.account import DeviceInUse, Folder
from yizhan_database import Transaction
from yizhan_testing.databases import DIALECTS
from yizhan_testing.tampering import TamperingRelay

if TYPE_CHECKING:
    from bots_runner.story import Office
    from yizhan_bots.conversation import Incoming
    from yizhan_testing.databases import Dialect

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

JsonObject = dict[str, Any]

on_both_databases = pytest.mark.parametrize("dialect", DIALECTS)


async def test_more_messages_than_one_sync_shows_are_all_heard_after_downtime(
    office: Office,
) -> None:
    bot = await office.bot()
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    await bot.stop()
    said = [f"message {number}" for number in range(130)]  # a timeline shows 100 at most
    for body in said:
        await alice.client.room_send(
            room,
            "m.room.message",
            {"msgtype": "m.text", "body": body},
            ignore_unverified_devices=True,
        )

    bot.notebook.heard.clear()
    await bot.start()
    [(stored,)] = await bot.rows("SELECT count(*) FROM inbox WHERE event_id NOT LIKE 'yizhan%'")
    assert stored == len(said)
    await bot.notebook.hears_text(said[15])
    # Beyond the burst they come at the steady rate of one person, in order.
    assert bot.notebook.texts() == said[: len(bot.notebook.texts())]


@on_both_databases
async def test_an_answer_interrupted_between_decision_and_sending_is_sent_once(
    office: Office, dialect: Dialect
) -> None:
    async with TamperingRelay.open(office.homeserver.base_url) as relay:
        bot = await office.bot(base_url=relay.base_url, dialect=dialect)
        bot.notebook.reply = says_back
        alice = await office.person("alice")
        room = await opens_direct_room(alice, bot)
        relay.refuse(lambda method, path: method == "PUT" and "/send/" in path)
        await alice.says(room, "decide")
        await bot.notebook.hears_text("decide")
        await relay.has_seen("PUT", "/send/")
        await bot.stop()
        relay.be_honest()
        await bot.start()

        await alice.reads("decide: verified")
        await alice.says(room, "next")
        await alice.reads("next: verified")
        assert bot.notebook.texts() == ["decide", "next"]
        assert bodies(alice).count("decide: verified") == 1


async def test_an_answer_sent_but_not_marked_is_not_sent_twice(office: Office) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    await alice.says(room, "decide")
    first = await alice.reads("decide: verified")
    await alice.says(room, "go on")
    await alice.reads("go on: verified")
    # What a crash right after the request leaves behind: the row is due, message and all.
    tx = Transaction()
    tx.execute(
        "UPDATE outbox SET state = 'due', event_id = NULL, message = ? WHERE event_id = ?",
        msgspec.json.encode(Outgoing("decide: verified", room_id=room)),
        first.event_id,
    )
    await bot.commit(tx)
    await bot.stop()
    await bot.start()

    await alice.says(room, "and now?")
    await alice.reads("and now?: verified")
    assert bodies(alice).count("decide: verified") == 1
    sent = await bot.rows("SELECT event_id, state FROM outbox ORDER BY pos LIMIT 1")
    assert sent == [(first.event_id, "sent")]


@on_both_databases
async def test_a_message_whose_key_comes_late_is_heard_once_when_it_is_there(
    office: Office, dialect: Dialect
) -> None:
    async with TamperingRelay.open(office.homeserver.base_url) as relay:
        bot = await office.bot(base_url=relay.base_url, dialect=dialect)
        alice = await office.person("alice")
        room = await opens_direct_room(alice, bot)
        keys: list[JsonObject] = []

        def hold(answer: JsonObject) -> None:
            events = answer.get("to_device", {}).get("events", [])
            keys.extend(e for e in events if e["type"] == "m.room.encrypted")
            events[:] = [e for e in events if e["type"] != "m.room.encrypted"]

        relay.on_sync(hold)
        sent = await alice.says(room, "1 7K2M")
        await relay.has_seen("PUT", "/sendToDevice/m.room_key_request/")
        assert bot.notebook.texts() == []

        relay.be_honest()
        relay.on_sync(lambda a: a.setdefault("to_device", {}).setdefault("events", []).extend(keys))
        await alice.says(room, "1 7K2N")
        heard = await bot.notebook.hears_text("1 7K2M")
        assert (heard.event_id, heard.standing) == (sent, Standing.VERIFIED)
        await bot.notebook.hears_text("1 7K2N")
        assert bot.notebook.texts().count("1 7K2M") == 1


async def test_messages_that_stay_unreadable_are_answered_with_one_sentence_once(
    office: Office,
) -> None:
    async with TamperingRelay.open(office.homeserver.base_url) as relay:
        bot = await office.bot(base_url=relay.base_url, unreadable_ms=500)

        def reply(incoming: Incoming) -> list[Outgoing]:
            unreadable = isinstance(incoming.content, Undecryptable)
            return [Outgoing("unreadable", room_id=incoming.room_id)] if unreadable else []

        bot.notebook.reply = reply
        alice = await office.person("alice")
        room = await opens_direct_room(alice, bot)
        relay.on_sync(lambda answer: answer.pop("to_device", None))
        first = await alice.says(room, "one")
        await alice.says(room, "two")

        await alice.reads("unreadable")
        heard = await bot.notebook.hears_kind(Undecryptable)
        assert (heard.event_id, heard.actor, heard.direct) == (first, None, True)
        relay.be_honest()
        alice.client.invalidate_outbound_session(room)
        await alice.says(room, "readable again")
        await bot.notebook.hears_text("readable again")
        kinds = [i for i in bot.notebook.heard if isinstance(i.content, Undecryptable)]
        assert len(kinds) == 1


@on_both_databases
async def test_a_redaction_cancels_a_command_that_has_not_run(
    office: Office, dialect: Dialect
) -> None:
    async with TamperingRelay.open(office.homeserver.base_url) as relay:
        bot = await office.bot(base_url=relay.base_url, dialect=dialect)
        alice = await office.person("alice")
        room = await opens_direct_room(alice, bot)
        await alice.says(room, "this one runs")
        ran = (await bot.notebook.hears_text("this one runs")).event_id
        await bot.stop()
        relay.on_sync(lambda answer: answer.pop("to_device", None))
        await bot.start()
        alice.client.invalidate_outbound_session(room)
        waiting = await alice.says(room, "this one waits for its key")
        await relay.has_seen("PUT", "/sendToDevice/m.room_key_request/")

        await alice.redacts(room, waiting)
        await alice.redacts(room, ran)

        late = await bot.notebook.hears(
            lambda i: i.content == Redacted(ran, before_execution=False)
        )
        assert late.standing is Standing.UNENCRYPTED
        await bot.notebook.hears(lambda i: i.content == Redacted(waiting, before_execution=True))
        [(state,)] = await bot.rows("SELECT state FROM inbox WHERE event_id = ?", waiting)
        assert state == "cancelled"


async def test_notices_edits_and_own_messages_are_not_heard(office: Office) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    said = await alice.says(room, "first")
    await alice.sends(room, "m.room.message", {"msgtype": "m.notice", "body": "I am a bot"})
    await alice.edits(room, said, "second")
    await alice.says(room, "third")

    await alice.reads("third: verified")
    assert bot.notebook.texts() == ["first", "third"]


async def test_keys_are_for_the_owner_only_and_one_process_owns_them(office: Office) -> None:
    bot = await office.bot()
    with pytest.raises(DeviceInUse):
        Folder.open(bot.data)
    for file in [bot.data / "bots", *(bot.data / "bots").iterdir()]:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file.name
    fingerprint, device = bot.runner.fingerprint, bot.runner.device_id

    await bot.stop()
    await bot.start()
    assert (bot.runner.fingerprint, bot.runner.device_id) == (fingerprint, device)


async def test_texts_of_the_record_are_erased_once_done(office: Office) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    await alice.says(room, "confidential")
    await alice.reads("confidential: verified")
    await alice.says(room, "end")
    await alice.reads("end: verified")

    kept = await bot.rows("SELECT count(*) FROM inbox WHERE event IS NOT NULL")
    assert kept == [(0,)]
    heard = await bot.notebook.hears_text("confidential")
    assert isinstance(heard.content, Text)
    [(digest,)] = await bot.rows("SELECT digest FROM inbox WHERE event_id = ?", heard.event_id)
    assert digest == heard.digest
    assert len(digest) == 64


@on_both_databases
async def test_what_cannot_be_kept_stops_nothing_that_comes_with_it(
    office: Office, dialect: Dialect
) -> None:
    async with TamperingRelay.open(office.homeserver.base_url) as relay:
        bot = await office.bot(base_url=relay.base_url, dialect=dialect)
        alice = await office.person("alice")
        room = await opens_direct_room(alice, bot)
        # What anybody may write into a room.
        strange: list[JsonObject] = [
            {
                "type": "m.room.member",
                "state_key": alice.user_id,
                "content": {"membership": "join", "displayname": "a\0b"},
            },
            {
                "type": "m.room.encrypted",
                "content": {"algorithm": "x", "session_id": "a\0b", "ciphertext": "x"},
            },
            {"type": "m.room.message", "content": {"body": "x", "huge": 10**400}},
        ]
        strange = [
            {"event_id": f"$strange{n}", "sender": alice.user_id, "origin_server_ts": 1, **each}
            for n, each in enumerate(strange)
        ]

        def insert(answer: JsonObject) -> None:
            joined = answer.get("rooms", {}).get("join", {}).get(room, {})
            joined.get("timeline", {}).get("events", [])[:0] = strange

        relay.on_sync(insert)
        await alice.says(room, "the end")
        await bot.notebook.hears_text("the end")


async def test_whose_keys_cannot_be_had_is_asked_for_once_and_heard_in_order(
    office: Office,
) -> None:
    async with TamperingRelay.open(office.homeserver.base_url) as relay:
        bot = await office.bot(base_url=relay.base_url)
        alice = await office.person("alice")
        room = await opens_direct_room(alice, bot)
        said = [f"message {number}" for number in range(6)]
        asked = 0

        def is_of_keys(method: str, path: str) -> bool:
            nonlocal asked
            is_question = path.endswith("/keys/query")
            asked += is_question
            return is_question

        relay.refuse(is_of_keys)
        for body in said:
            await alice.says(room, body)
        for _ in range(400):
            stored = await bot.rows("SELECT 1 FROM inbox WHERE state = 'new'")
            if len(stored) == len(said):
                break
            await asyncio.sleep(0.05)
        await relay.has_seen("POST", "/keys/query")
        assert asked < len(said)
        relay.be_honest()
        await bot.notebook.hears_text(said[-1])
        assert bot.notebook.texts() == said
