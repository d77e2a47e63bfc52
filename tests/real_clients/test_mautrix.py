"""mautrix, the framework of most bridges, with encryption of its own (libolm), as a bridge here.

Its bot has no token and does not sync: everything comes with the transactions, to-device messages
and key counts included, and its device is made without signing in.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from yizhan_testing.appservice import write_registration
from yizhan_testing.homeserver import Homeserver
from yizhan_testing.nio_client import NioClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytest.importorskip("olm", reason="python-olm has wheels for Python 3.11 and 3.12 only")
pytest.importorskip("mautrix", reason="mautrix is not installed")

from mautrix.appservice import AppService, ASStateStore
from mautrix.client import Client
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import OlmMachine
from mautrix.errors import EncryptionError, SessionNotFound
from mautrix.types import (
    EncryptedEvent,
    Event,
    EventType,
    LoginType,
    Membership,
    MessageEvent,
    MessageType,
    StateEvent,
    TextMessageEventContent,
)

from yizhan_testing.mautrix_stores import Keys, RoomKnowledge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    # mautrix's own code, on the Python and the aiohttp of today.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PASSWORD = "correct horse"
WAIT_S = 30.0


class BridgeState(ASStateStore, MemoryStateStore):
    """What the bridge remembers of rooms, in memory."""

    def __init__(self) -> None:
        ASStateStore.__init__(self)
        MemoryStateStore.__init__(self)


@dataclass
class MautrixBridge:
    """A bridge whose bot accepts invitations and reads."""

    service: AppService
    client: Client
    machine: OlmMachine
    read: list[MessageEvent] = field(default_factory=list)
    passing: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    """One-time keys that were left, by each transaction that said so."""
    failures: list[Exception] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, event: Event) -> None:
        try:
            await self._handle(event)
        except Exception as error:  # noqa: BLE001 - told to the story that waits
            self.failures.append(error)
        self.news.set()

    async def _handle(self, event: Event) -> None:
        if isinstance(event, StateEvent) and event.type == EventType.ROOM_MEMBER:
            await self.machine.handle_member_event(event)
            is_own = event.state_key == self.service.bot_mxid
            if is_own and event.content.membership == Membership.INVITE:
                await self.service.intent.ensure_joined(event.room_id)
                # What was there before it came is not in any transaction.
                await self.service.intent.get_state(event.room_id)
        elif isinstance(event, EncryptedEvent) and event.sender != self.service.bot_mxid:
            self.read.append(await self._decrypt(event))
        elif not isinstance(event, StateEvent | MessageEvent | EncryptedEvent):
            self.passing.append(event)

    async def _decrypt(self, event: EncryptedEvent) -> MessageEvent:
        try:
            return await self.machine.decrypt_megolm_event(event)
        except SessionNotFound as missing:
            await self.machine.wait_for_session(event.room_id, missing.session_id, timeout=10)
            return await self.machine.decrypt_megolm_event(event)

    async def until(self, found: Callable[[], bool]) -> None:
        """Wait until something that the homeserver tells makes this true."""
        async with asyncio.timeout(WAIT_S):
            while not found():
                assert not self.failures, self.failures
                self.news.clear()
                await self.news.wait()

    async def reads(self, body: str) -> MessageEvent:
        """Wait for an encrypted message."""
        await self.until(lambda: any(each.content.body == body for each in self.read))
        return next(each for each in self.read if each.content.body == body)

    async def says(self, room: Any, body: str) -> str:
        """Send an encrypted message to everybody in the room."""
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=body)
        try:
            sealed = await self.machine.encrypt_megolm_event(room, EventType.ROOM_MESSAGE, content)
        except EncryptionError:
            members = await self.service.intent.get_joined_members(room)
            await self.machine.share_group_session(room, list(members))
            sealed = await self.machine.encrypt_megolm_event(room, EventType.ROOM_MESSAGE, content)
        intent = self.service.intent
        # The framework's own type for contents leaves out the encrypted one.
        sent = await intent.send_message_event(room, EventType.ROOM_ENCRYPTED, sealed)  # type: ignore[arg-type]
        return str(sent)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def mautrix_bridge(folder: Path, *, signs_in: bool) -> AsyncIterator[tuple[Homeserver, Any]]:
    """Run our server and a bridge of mautrix; `signs_in`: its bot logs in for its device."""
    port = free_port()
    file = write_registration(
        folder / "mautrix.yaml",
        {
            "id": "mautrix",
            "url": f"http://127.0.0.1:{port}",
            "as_token": "from the bridge",
            "hs_token": "to the bridge",
            "sender_localpart": "mautrixbot",
            "namespaces": {"users": [{"regex": "@mautrix_.*:localhost", "exclusive": True}]},
            "rate_limited": False,
            "receive_ephemeral": True,
            "org.matrix.msc3202": True,
        },
    )
    homeserver = await Homeserver.start(
        folder / "homeserver", **{"appservices.registrations": json.dumps([str(file)])}
    )
    state = BridgeState()
    service = AppService(
        server=homeserver.base_url, domain="localhost", as_token="from the bridge",
        hs_token="to the bridge", bot_localpart="mautrixbot", id="mautrix", state_store=state,
        ephemeral_events=True, encryption_events=True,
    )  # fmt: skip
    keys = Keys("", "pickle")
    client = Client(
        base_url=homeserver.base_url, mxid=service.bot_mxid, sync_store=keys, state_store=state,
        token="from the bridge",
    )  # fmt: skip
    machine = OlmMachine(client, keys, RoomKnowledge(state))
    bridge = MautrixBridge(service, client, machine)

    async def counted(counts: Any) -> None:
        for devices in counts.values():
            bridge.counts += [each.signed_curve25519 for each in devices.values()]
        await machine.handle_as_otk_counts(counts)

    service.otk_handler = counted
    service.device_list_handler = machine.handle_as_device_lists
    service.to_device_handler = machine.handle_as_to_device_event
    service.matrix_event_handler(bridge.handle)
    await service.start("127.0.0.1", port)
    try:
        await service.ping_self()
        if signs_in:
            await client.login(login_type=LoginType.APPSERVICE, device_name="bridge")
        else:
            await client.create_device_msc4190("MAUTRIX", "bridge")
        await machine.load()
        await machine.share_keys()
        yield homeserver, bridge
    finally:
        await client.api.session.close()
        await service.stop()
        await homeserver.stop()


@pytest.mark.parametrize("signs_in", [False, True], ids=["without-signing-in", "signed-in"])
async def test_a_bridge_reads_and_writes_in_an_encrypted_room(
    tmp_path: Path, *, signs_in: bool
) -> None:
    async with mautrix_bridge(tmp_path, signs_in=signs_in) as (homeserver, bridge):
        user_id = await homeserver.register("carol", PASSWORD)
        carol = await NioClient.start(homeserver.base_url, user_id, PASSWORD, tmp_path / "nio")
        try:
            bot = str(bridge.service.bot_mxid)
            room = await carol.creates_room(invite=[bot])
            await carol.sees_member(room, bot)

            first = await carol.says(room, "桥那边好")
            read = await bridge.reads("桥那边好")
            assert (read.event_id, read.sender) == (first, user_id)

            answered = await bridge.says(room, "hello from the other side")
            seen = await carol.reads("hello from the other side")
            assert (seen.event_id, seen.sender, seen.encrypted) == (answered, bot, True)
            await carol.says(room, "and again")
            await bridge.reads("and again")
            # It was told that Carol took one of its keys.
            assert any(count < bridge.machine.account.max_one_time_keys for count in bridge.counts)

            await carol.types(room)
            await carol.marks_read(room, answered)
            await bridge.until(lambda: any(e.type == EventType.TYPING for e in bridge.passing))
            await bridge.until(lambda: any(e.type == EventType.RECEIPT for e in bridge.passing))
        finally:
            await carol.close()


async def test_a_ghost_of_the_bridge_speaks_in_a_plain_room(tmp_path: Path) -> None:
    async with mautrix_bridge(tmp_path, signs_in=False) as (homeserver, bridge):
        user_id = await homeserver.register("dan", PASSWORD)
        dan = await NioClient.start(homeserver.base_url, user_id, PASSWORD, tmp_path / "nio")
        try:
            ghost = bridge.service.intent.user("@mautrix_li:localhost")
            await ghost.set_displayname("李（别处）")
            room = await bridge.service.intent.create_room(invitees=[user_id], name="走廊")
            await bridge.service.intent.invite_user(room, ghost.mxid)
            await dan.accepts_invitation(room)
            sent = await ghost.send_text(room, "我在别处")
            read = await dan.reads("我在别处")
            assert (read.event_id, read.sender) == (sent, "@mautrix_li:localhost")
            old = await ghost.send_text(room, "早就说过", timestamp=1_500_000_000_000)
            assert (await dan.reads("早就说过")).event_id == old
        finally:
            await dan.close()
