"""Real clients of two departments in one encrypted room."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import pytest

from yizhan_testing.departments import departments_with_doors
from yizhan_testing.nio_client import NioClientError
from yizhan_testing.town import Town, open_town, share_room

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.departments import Department
    from yizhan_testing.nio_client import NioClient
    from yizhan_testing.servers import RunningHomeserver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass
class Neighbours:
    """Two departments, and the people of each."""

    department: Department
    """That of those who are `there`."""
    here: Town
    there: Town


@asynccontextmanager
async def neighbours(folder: Path) -> AsyncIterator[Neighbours]:
    async with (
        departments_with_doors(folder, "sqlite", 2) as (a, b),
        open_town(cast("RunningHomeserver", a), folder / "here") as here,
        open_town(cast("RunningHomeserver", b), folder / "there") as there,
    ):
        yield Neighbours(b, here, there)


async def test_people_of_two_departments_talk_and_verify_one_another(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as n:
        alice = await n.here.js(await n.here.person("alice"))
        bob = await n.there.js(await n.there.person("bob"))
        await asyncio.gather(alice.sets_up_identity(), bob.sets_up_identity())
        room = await share_room(alice, bob)
        first = await alice.says(room, "大家好")
        assert (await bob.reads(event_id=first)).body == "大家好"
        answer = await bob.says(room, "good morning")
        assert (await alice.reads(event_id=answer)).body == "good morning"

        await alice.verifies(bob, room)
        await alice.sees_trust(bob.user_id, verified=True)
        await bob.sees_trust(alice.user_id, verified=True)

        # A new device is noticed, gets what is said from now on, and is vouched for by its owner.
        laptop = await n.there.js(bob.user_id)
        await alice.sees_device(bob.user_id, laptop.device_id, signed=False)
        late = await alice.says(room, "to your laptop too")
        assert (await laptop.reads(event_id=late)).body == "to your laptop too"
        await laptop.recovers(bob.recovery_key)
        await alice.sees_device(bob.user_id, laptop.device_id, trusted=True)

        # Somebody whose identity is another one is no longer verified.
        await bob.resets_identity()
        await alice.sees_trust(bob.user_id, verified=False, was_verified=True)


async def test_nothing_that_decrypts_is_lost_while_a_department_is_away(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as n:
        carol = await n.here.nio(await n.here.person("carol"))
        dan = await n.there.nio(await n.there.person("dan"))
        room = await carol.creates_room(invite=[dan.user_id])
        await dan.accepts_invitation(room)
        await carol.sees_member(room, dan.user_id)
        await carol.says(room, "before")
        assert (await dan.reads("before")).encrypted

        await n.department.door.closes()
        # A session of which the other side has no key yet, and a device that it does not know.
        carol.client.invalidate_outbound_session(room)
        said = [await carol.says(room, f"while you were away {number}") for number in range(3)]
        second = await n.here.nio(carol.user_id)
        await n.department.door.opens()
        # Whoever asks is there again: nothing else ends the pause of the side that sends.
        await dan.says(room, "back again")

        for event_id in said:
            assert (await dan.reads(event_id=event_id)).encrypted
        assert (await carol.reads("back again")).encrypted
        await second.sees_member(room, dan.user_id)

        await _reads_something(second, dan, room)


async def _reads_something(new_device: NioClient, other: NioClient, room: str) -> None:
    """Return once a new device has read what another department's person says from now on."""
    for number in range(10):
        sent = await other.says(room, f"to all of your devices {number}")
        try:
            read = await new_device.reads(event_id=sent, within=5)
        except NioClientError:
            continue  # said before the other side knew of the device
        assert read.encrypted
        return
    raise AssertionError("the new device was never noticed")
