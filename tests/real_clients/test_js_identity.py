"""Cross-signing, secret storage, verification and key backup, with matrix-js-sdk clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from yizhan_testing.driven_program import ProgramError
from yizhan_testing.town import share_room

if TYPE_CHECKING:
    from yizhan_testing.town import Pair, Town

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]


async def test_a_new_device_becomes_trusted_by_the_recovery_key_alone(town: Town) -> None:
    alice = await town.person("alice")
    phone = await town.js(alice)
    recovery_key = await phone.sets_up_identity()
    made = await phone.identity()
    assert made["cross_signing_ready"]
    assert made["secret_storage_ready"]

    laptop = await town.js(alice)
    stranger = (await phone.sees_device(alice, laptop.device_id, signed=False))["signed_by_owner"]
    assert stranger is False
    await laptop.recovers(recovery_key)

    assert (await laptop.identity())["master_key"] == made["master_key"]
    await phone.sees_device(alice, laptop.device_id, trusted=True)


async def test_a_wrong_recovery_key_opens_nothing(town: Town) -> None:
    alice = await town.person("alice")
    await (await town.js(alice)).sets_up_identity()
    other = await town.js(await town.person("bob"))
    foreign_key = await other.sets_up_identity()

    laptop = await town.js(alice)
    with pytest.raises(ProgramError):
        await laptop.recovers(foreign_key)
    listed = await laptop.devices()
    mine = next(device for device in listed if device["device_id"] == laptop.device_id)
    assert not mine["signed_by_owner"]


async def test_two_devices_of_one_person_verify_by_emojis(town: Town) -> None:
    alice = await town.person("alice")
    phone = await town.js(alice)
    await phone.sets_up_identity()
    laptop = await town.js(alice)

    shown = await laptop.verifies(phone)
    assert len(shown.emojis) == 7
    await phone.sees_device(alice, laptop.device_id, trusted=True)


async def test_two_people_verify_by_emojis_in_their_room(town: Town) -> None:
    alice, bob = await town.two_with_identities()
    room = await share_room(alice, bob)
    assert not (await alice.trust(bob.user_id))["verified"]

    await alice.verifies(bob, room)

    await alice.sees_trust(bob.user_id, verified=True)
    await bob.sees_trust(alice.user_id, verified=True)


async def test_emojis_that_differ_end_the_verification_without_trust(town: Town) -> None:
    alice, bob = await town.two_with_identities()
    room = await share_room(alice, bob)

    ours = await alice.requests_verification(bob.user_id, room=room)
    theirs = await bob.accepts_verification(alice.user_id)
    await theirs.starts_sas()
    await ours.emojis()
    await theirs.emojis()
    await theirs.refuses()

    assert await ours.is_cancelled() == "m.mismatched_sas"
    assert not (await alice.trust(bob.user_id))["verified"]
    assert not (await bob.trust(alice.user_id))["verified"]


async def test_the_backup_brings_old_messages_to_a_third_device(pair: Pair, town: Town) -> None:
    sent = await pair.bob.says(pair.room, "before the third device")
    await pair.alice.reads(event_id=sent)
    answer = await pair.alice.says(pair.room, "so was this")
    second = await town.js(pair.alice.user_id)
    await second.recovers(pair.alice.recovery_key)
    held = await pair.alice.awaits_complete_backup()
    assert held >= 2

    third = await town.js(pair.alice.user_id)
    await third.fails_to_read(sent, room=pair.room)
    await third.recovers(pair.alice.recovery_key)
    assert await third.restores_backup() == held

    assert (await third.reads(event_id=sent)).body == "before the third device"
    assert (await third.reads(event_id=answer)).body == "so was this"
    # And it takes part from now on.
    await pair.bob.sees_device(pair.alice.user_id, third.device_id)
    late = await pair.bob.says(pair.room, "after it")
    assert (await third.reads(event_id=late)).body == "after it"


async def test_a_reset_identity_is_noticed_by_whoever_had_verified_it(town: Town) -> None:
    alice, bob = await town.two_with_identities()
    # Not in the room of later: a new device would take the old request in its history for a second
    # one that is still open, and cancel both.
    first_room = await share_room(alice, bob)
    await alice.verifies(bob, first_room)
    await bob.leaves(first_room)
    room = await share_room(alice, bob)
    before = (await bob.identity())["master_key"]

    # Everything is lost: a new device that has neither the old ones nor the recovery key.
    new_bob = await town.js(bob.user_id)
    await new_bob.resets_identity()
    assert (await new_bob.identity())["master_key"] != before

    await alice.sees_trust(bob.user_id, verified=False, was_verified=True, identity_changed=True)
    await alice.accepts_identity(bob.user_id)
    await alice.sees_trust(bob.user_id, identity_changed=False)
    await alice.verifies(new_bob, room)
    await alice.sees_trust(bob.user_id, verified=True)


async def test_a_logged_out_device_disappears_for_others(town: Town) -> None:
    alice, bob = await town.two_with_identities()
    await share_room(alice, bob)
    second = await town.js(bob.user_id)
    await alice.sees_device(bob.user_id, second.device_id, signed=False)

    await second.logs_out()

    assert [device["device_id"] for device in await bob.sessions()] == [bob.device_id]
    left = {device["device_id"] for device in await alice.devices(bob.user_id)}
    assert left == {bob.device_id}


async def test_a_strict_client_reads_nothing_of_an_unsigned_device(town: Town) -> None:
    strict = await town.js(await town.person("alice"), exclude_insecure_devices=True)
    await strict.sets_up_identity()
    bob = await town.js(await town.person("bob"))
    room = await share_room(strict, bob)

    sent = await bob.says(room, "who am I?")
    assert await strict.fails_to_read(sent) == "UNSIGNED_SENDER_DEVICE"

    await bob.sets_up_identity()
    await strict.sees_device(bob.user_id, bob.device_id)
    sent = await bob.says(room, "it is me")
    assert (await strict.reads(event_id=sent)).body == "it is me"
