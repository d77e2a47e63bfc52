"""Whose word counts: cross-signed devices of pinned identities, and nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bots_runner.story import cross_signs, opens_direct_room, says_back
from yizhan_bots.conversation import Actor, Standing, Trust
from yizhan_bots.matrix.cross_signing import fingerprint
from yizhan_database import Transaction

if TYPE_CHECKING:
    from bots_runner.story import Office

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


async def test_a_nio_user_cross_signed_by_our_module_is_the_actor_and_reads_the_answer(
    office: Office,
) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await office.person("alice", signed=False)
    identity = await cross_signs(alice)
    room = await opens_direct_room(alice, bot)

    sent = await alice.says(room, "1 7K2M")

    heard = await bot.notebook.hears_text("1 7K2M")
    assert heard.standing is Standing.VERIFIED
    assert heard.actor == Actor(
        alice.user_id,
        identity.master_key,
        alice.device_id,
        alice.client.olm.account.identity_keys["ed25519"],
    )
    assert (heard.event_id, heard.direct, heard.encrypted_room) == (sent, True, True)
    answer = await alice.reads("1 7K2M: verified")
    assert answer.encrypted
    assert answer.sender == bot.user_id


async def test_a_device_without_cross_signing_is_answered_and_not_believed(
    office: Office,
) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    bob = await office.person("bob", signed=False)
    room = await opens_direct_room(bob, bot)

    await bob.says(room, "1 7K2M")

    heard = await bot.notebook.hears_text("1 7K2M")
    assert heard.standing is Standing.UNSIGNED_DEVICE
    assert heard.actor is None
    assert (await bob.reads("1 7K2M: unsigned_device")).encrypted

    # The same device, signed: nothing else changes.
    await cross_signs(bob)
    await bob.says(room, "1 7K2N")
    assert (await bot.notebook.hears_text("1 7K2N")).standing is Standing.VERIFIED


async def test_what_answers_the_verified_device_stays_unreadable_for_the_unsigned_one(
    office: Office,
) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    phone = await office.person("alice")
    room = await opens_direct_room(phone, bot)
    laptop = await office.device(phone.user_id)
    await laptop.reads(event_type="m.room.member", within=20)

    await phone.says(room, "private")
    answer = await phone.reads("private: verified")

    await laptop.fails_to_read(answer.event_id)


async def test_a_changed_identity_is_refused_restored_on_the_machine_and_on_the_record(
    office: Office,
) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await office.person("alice", signed=False)
    first = await cross_signs(alice)
    room = await opens_direct_room(alice, bot)
    await alice.says(room, "before")
    assert (await bot.notebook.hears_text("before")).standing is Standing.VERIFIED

    second = await cross_signs(alice)
    await alice.says(room, "after the loss")
    heard = await bot.notebook.hears_text("after the loss")
    assert heard.standing is Standing.IDENTITY_CHANGED
    assert heard.actor is None
    await alice.reads("after the loss: identity_changed")

    outcome = await bot.runner.trust(alice.user_id)
    assert outcome.trust is Trust.PINNED
    assert outcome.fingerprint == fingerprint(second.master_key)
    await alice.says(room, "restored")
    restored = await bot.notebook.hears_text("restored")
    assert restored.standing is Standing.VERIFIED
    assert restored.actor is not None
    assert restored.actor.master_key == second.master_key
    record = await bot.rows(
        "SELECT master_key, previous, how FROM matrix_pin_record WHERE user_id = ? ORDER BY pos",
        alice.user_id,
    )
    assert record == [
        (first.master_key, None, "first_sight"),
        (second.master_key, first.master_key, "changed"),
        (second.master_key, first.master_key, "machine"),
    ]


async def test_only_an_administrator_pinned_on_the_machine_restores_others_by_chat(
    office: Office,
) -> None:
    chief = await office.person("chief")
    bot = await office.bot(administrators=frozenset({chief.user_id}))
    alice = await office.person("alice")
    room = await opens_direct_room(alice, bot)
    chiefs_room = await opens_direct_room(chief, bot)
    await alice.says(room, "before")
    await bot.notebook.hears_text("before")
    new = await cross_signs(alice)
    await chief.says(chiefs_room, "I restore her")
    by = (await bot.notebook.hears_text("I restore her")).actor
    assert by is not None

    people, tx = bot.notebook.people, Transaction()
    # At first sight anybody may call himself chief: that does not make an administrator.
    assert not await people.is_administrator(by)
    assert (await people.trust(alice.user_id, by, tx)).trust is Trust.REFUSED

    await bot.runner.trust(chief.user_id)
    assert await people.is_administrator(by)
    assert (await people.trust(chief.user_id, by, tx)).trust is Trust.REFUSED
    outcome = await people.trust(alice.user_id, by, tx)
    await bot.commit(tx)
    assert outcome.fingerprint == fingerprint(new.master_key)
    await alice.says(room, "restored")
    assert (await bot.notebook.hears_text("restored")).standing is Standing.VERIFIED
    [(who,)] = await bot.rows(
        "SELECT by_whom FROM matrix_pin_record WHERE how = 'administrator' AND user_id = ?",
        alice.user_id,
    )
    assert who == chief.user_id


async def test_people_in_a_room_of_three_are_judged_one_by_one(office: Office) -> None:
    bot = await office.bot()
    bot.notebook.reply = says_back
    alice = await office.person("alice")
    bob = await office.person("bob", signed=False)
    room = await alice.creates_room(invite=[bot.user_id, bob.user_id])
    await bob.accepts_invitation(room)
    for client in alice, bob:
        await client.sees_member(room, bot.user_id)
        await client.sees_member(room, bob.user_id)

    await alice.says(room, "from alice")
    await bob.says(room, "from bob")

    heard = await bot.notebook.hears_text("from alice")
    assert (heard.standing, heard.direct) == (Standing.VERIFIED, False)
    assert (await bot.notebook.hears_text("from bob")).standing is Standing.UNSIGNED_DEVICE
    answer = await alice.reads("from bob: unsigned_device")
    await bob.fails_to_read(answer.event_id)
