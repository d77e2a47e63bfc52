"""The bot and matrix-js-sdk with its Rust cryptography: what people's clients really do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bots_runner.story import PASSWORD, says_back
from yizhan_bots.conversation import (
    Greeted,
    Incoming,
    Outgoing,
    PollAnswer,
    PollOption,
    Reaction,
    Standing,
    Text,
)
from yizhan_bots.pages import SAS_EMOJI
from yizhan_testing.js_client import JsClient
from yizhan_testing.tampering import TamperingRelay

if TYPE_CHECKING:
    from bots_runner.story import Bot, Office

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]


async def js_person(office: Office, name: str) -> JsClient:
    """A new person with one matrix-js-sdk device and an identity of their own."""
    user_id = await office.account(name)
    client = await JsClient.start(office.homeserver.base_url, user_id, PASSWORD)
    office.opened.push_async_callback(client.close)
    await client.sets_up_identity()
    return client


async def direct_room(client: JsClient, bot: Bot) -> str:
    room = await client.creates_room(invite=[bot.user_id])
    await client.sees_member(room, bot.user_id)
    await bot.notebook.hears(lambda i: i.sender == client.user_id and i.content == Greeted())
    return room


async def test_a_js_user_is_believed_and_sees_no_warning_on_the_answer(office: Office) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await js_person(office, "alice")
    room = await direct_room(alice, bot)

    await alice.says(room, "1 7K2M")

    heard = await bot.notebook.hears_text("1 7K2M")
    assert heard.standing is Standing.VERIFIED
    answer = await alice.reads("1 7K2M: verified")
    assert answer.encrypted
    assert await alice.shield(answer.event_id) == ("NONE", None)


async def test_a_person_verifies_the_bot_in_the_direct_room_by_the_emoji_on_its_page(
    office: Office,
) -> None:
    bot = await office.bot()
    alice = await js_person(office, "alice")
    room = await direct_room(alice, bot)
    assert not (await alice.trust(bot.user_id))["verified"]

    verification = await alice.requests_verification(bot.user_id, room=room)
    await verification.starts_sas()
    shown = await verification.emojis()

    [indices] = bot.runner.emoji
    on_the_page = [SAS_EMOJI[index] for index in indices]
    assert [sign.replace("\ufe0f", "") for sign, _ in shown.emojis] == on_the_page
    await verification.confirms()
    await verification.is_done()
    await alice.sees_trust(bot.user_id, verified=True)
    assert bot.runner.emoji == []


async def test_a_person_verifies_the_bots_device_without_a_room(office: Office) -> None:
    bot = await office.bot()
    alice = await js_person(office, "alice")
    await direct_room(alice, bot)
    await alice.sees_device(bot.user_id, bot.runner.device_id)

    verification = await alice.requests_verification(bot.user_id, device_id=bot.runner.device_id)
    await verification.starts_sas()
    await verification.emojis()
    await verification.confirms()
    await verification.is_done()

    await alice.sees_device(bot.user_id, bot.runner.device_id, trusted=True)


async def test_confirming_emoji_does_not_make_the_bot_believe_a_changed_identity(
    office: Office,
) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await js_person(office, "alice")
    room = await direct_room(alice, bot)
    await alice.says(room, "before")
    await alice.reads("before: verified")
    await alice.resets_identity()

    verification = await alice.requests_verification(bot.user_id, room=room)
    await verification.starts_sas()
    await verification.emojis()
    await verification.confirms()
    await verification.is_done()

    await alice.says(room, "after")
    assert (await bot.notebook.hears_text("after")).standing is Standing.IDENTITY_CHANGED
    await alice.reads("after: identity_changed")
    await bot.runner.trust(alice.user_id)
    await alice.says(room, "restored")
    await alice.reads("restored: verified")


async def test_every_form_of_message_reaches_the_client_as_meant(office: Office) -> None:
    bot = await office.bot()
    alice = await js_person(office, "alice")
    room = await direct_room(alice, bot)

    def reply(incoming: Incoming) -> list[Outgoing]:
        if not isinstance(incoming.content, Text):
            return []
        if incoming.content.body == "update":
            return [Outgoing("请假 · 已同意", room_id=room, edits="card", html="<b>已同意</b>")]
        return [
            Outgoing("请假 · 待审批", room_id=room, key="card", html="<b>请假</b>"),
            Outgoing(
                "请您决定\n1 同意 2 不同意",
                room_id=room,
                mentions=(alice.user_id,),
                poll=(PollOption("7K2M:approve", "同意"), PollOption("7K2M:reject", "不同意")),
                replies_to=incoming.event_id,
            ),
            Outgoing("第一步", room_id=room, thread="card"),
        ]

    bot.notebook.reply = reply
    asked = await alice.says(room, "new")
    card = await alice.reads("请假 · 待审批")
    request = await alice.reads("请您决定\n1 同意 2 不同意")
    poll = await alice.reads(type="org.matrix.msc3381.poll.start")
    step = await alice.reads("第一步")
    await alice.says(room, "update")
    edited = await alice.reads("请假 · 已同意")

    assert all(e.encrypted for e in (card, request, poll, step, edited))
    assert (card.content["msgtype"], card.content["m.mentions"]) == ("m.notice", {})
    assert card.content["formatted_body"] == "<b>请假</b>"
    assert request.content["msgtype"] == "m.text"
    assert request.content["m.mentions"] == {"user_ids": [alice.user_id]}
    assert edited.event_id == card.event_id
    assert step.thread == card.event_id
    assert request.content["m.relates_to"]["m.in_reply_to"]["event_id"] == asked
    question = poll.content["org.matrix.msc3381.poll.start"]
    assert question["question"]["org.matrix.msc1767.text"] == "请您决定"
    assert [a["id"] for a in question["answers"]] == ["7K2M:approve", "7K2M:reject"]

    await alice.answers_poll(room, poll.event_id, "7K2M:approve")
    heard = await bot.notebook.hears_poll_answer("7K2M:approve")
    assert heard.standing is Standing.VERIFIED
    await alice.reacts(room, request.event_id, "✅")
    reaction = await bot.notebook.hears_kind(Reaction)
    assert (reaction.content, reaction.standing, reaction.actor) == (
        Reaction(request.event_id, "✅"),
        Standing.UNENCRYPTED,
        None,
    )
    assert isinstance(heard.content, PollAnswer)


async def test_whoever_must_act_is_written_to_in_an_encrypted_room_of_two(
    office: Office,
) -> None:
    bot = await office.bot()
    alice, boss = await js_person(office, "alice"), await js_person(office, "boss")
    bot.notebook.reply = lambda i: (
        [Outgoing(f"for you: {i.content.body}", direct_to=boss.user_id, mentions=(boss.user_id,))]
        if isinstance(i.content, Text)
        else []
    )
    room = await direct_room(alice, bot)
    await alice.says(room, "one")
    await alice.says(room, "two")

    private = await boss.accepts_invitation(by=bot.user_id)
    for text in "for you: one", "for you: two":
        read = await boss.reads(text)
        assert (read.room_id, read.encrypted) == (private, True)
    greeted = await bot.notebook.hears(lambda i: i.sender == boss.user_id)
    assert (greeted.content, greeted.room_id, greeted.direct) == (Greeted(), private, True)


async def test_a_key_that_was_lost_is_sent_again_by_its_owner_and_still_names_them(
    office: Office,
) -> None:
    async with TamperingRelay.open(office.homeserver.base_url) as relay:
        bot = await office.bot(base_url=relay.base_url)
        alice = await js_person(office, "alice")
        room = await direct_room(alice, bot)
        lost: list[object] = []

        def lose_one(answer: dict[str, dict[str, list[dict[str, object]]]]) -> None:
            events = answer.get("to_device", {}).get("events", [])
            if events and not lost:
                lost.extend(events)
                events.clear()

        relay.on_sync(lose_one)
        sent = await alice.says(room, "1 7K2M")

        heard = await bot.notebook.hears_text("1 7K2M")
        assert heard.event_id == sent
        assert (heard.standing, lost != []) == (Standing.VERIFIED, True)
        assert heard.actor is not None
        [(how,)] = await bot.rows(
            "SELECT DISTINCT how FROM matrix_room_key WHERE user_id = ?", alice.user_id
        )
        assert how == "resent"
