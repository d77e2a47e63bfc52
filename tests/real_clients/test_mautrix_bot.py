"""A bot on mautrix's client, with libolm, that syncs: beside matrix-js-sdk (vodozemac)."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from yizhan_testing.town import PASSWORD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_testing.town import Town

pytest.importorskip("olm", reason="python-olm has wheels for Python 3.11 and 3.12 only")
pytest.importorskip("mautrix", reason="mautrix is not installed")

from mautrix.client import Client, InternalEventType, MembershipEventDispatcher
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import OlmMachine
from mautrix.types import EventType, MessageEvent, StrippedStateEvent, UserID

from yizhan_testing.mautrix_stores import Keys, RoomKnowledge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
    # mautrix's own code, on the Python and the aiohttp of today.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@asynccontextmanager
async def syncing_bot(base_url: str, user_id: str) -> AsyncIterator[Client]:
    """Run a bot that accepts invitations and says back, in capitals, what others say."""
    state = MemoryStateStore()
    keys = Keys("", "pickle")
    own_id = UserID(user_id)
    client = Client(base_url=base_url, mxid=own_id, sync_store=keys, state_store=state)
    await client.login(own_id, password=PASSWORD, device_name="mautrix")
    client.crypto = OlmMachine(client, keys, RoomKnowledge(state))
    await client.crypto.load()
    await client.crypto.share_keys()
    await client.crypto.generate_recovery_key()
    client.add_dispatcher(MembershipEventDispatcher)

    async def join(event: StrippedStateEvent) -> None:
        await client.join_room(event.room_id)

    async def shout(event: MessageEvent) -> None:
        if event.sender != own_id:
            await client.send_text(event.room_id, event.content.body.upper())

    client.add_event_handler(InternalEventType.INVITE, join)
    client.add_event_handler(EventType.ROOM_MESSAGE, shout)
    syncing: Any = client.start(None)
    try:
        yield client
    finally:
        client.stop()
        syncing.cancel()
        await client.api.session.close()


async def test_a_bot_on_mautrix_with_an_identity_answers_in_an_encrypted_room(town: Town) -> None:
    user_id = await town.person("mau")
    async with syncing_bot(town.homeserver.base_url, user_id) as bot:
        alice = await town.js(await town.person("alice"))
        await alice.sets_up_identity()
        room = await alice.creates_room(invite=[user_id])
        await alice.sees_member(room, user_id)

        await alice.says(room, "quietly")
        answer = await alice.reads("QUIETLY", room=room, sender=user_id)
        assert answer.encrypted
        # The device that wrote it is signed by the identity that the bot has made.
        await alice.sees_device(user_id, str(bot.device_id), signed=True)
        assert (await alice.sees_trust(user_id, known=True))["verified"] is False
