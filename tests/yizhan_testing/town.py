"""People with real clients on one homeserver: what stories begin with."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from yizhan_testing.js_client import JsClient
from yizhan_testing.nio_client import NioClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.servers import RunningHomeserver

PASSWORD = "correct horse battery staple"
_numbers = count(1)


@dataclass(frozen=True)
class Town:
    """Registers people and signs in their devices; closes what it has opened."""

    homeserver: RunningHomeserver
    folder: Path
    open: AsyncExitStack

    async def person(self, name: str) -> str:
        """Make an account under a name that nobody else has; returns the user id."""
        return await self.homeserver.register(f"{name}{next(_numbers)}", PASSWORD)

    async def js(self, user_id: str, **options: Any) -> JsClient:
        """Sign in one more matrix-js-sdk device of that person."""
        client = await JsClient.start(self.homeserver.base_url, user_id, PASSWORD, **options)
        self.open.push_async_callback(client.close)
        return client

    async def nio(self, user_id: str) -> NioClient:
        """Sign in one more matrix-nio device of that person."""
        folder = self.folder / f"nio{next(_numbers)}"
        client = await NioClient.start(self.homeserver.base_url, user_id, PASSWORD, folder)
        self.open.push_async_callback(client.close)
        return client

    async def two_with_identities(self) -> tuple[JsClient, JsClient]:
        """Sign in two new people, each with cross-signing, secret storage and key backup."""
        alice = await self.js(await self.person("alice"))
        bob = await self.js(await self.person("bob"))
        await asyncio.gather(alice.sets_up_identity(), bob.sets_up_identity())
        return alice, bob


@asynccontextmanager
async def open_town(homeserver: RunningHomeserver, folder: Path) -> AsyncIterator[Town]:
    """Close every client at the end."""
    async with AsyncExitStack() as stack:
        yield Town(homeserver, folder, stack)


async def share_room(alice: JsClient, bob: JsClient) -> str:
    """Make an encrypted room of two; both know that both are in it."""
    room = await alice.creates_room(invite=[bob.user_id])
    await bob.accepts_invitation(room, by=alice.user_id)
    await alice.sees_member(room, bob.user_id)
    await bob.sees_member(room, alice.user_id)
    return room


@dataclass(frozen=True)
class Pair:
    """Two people who have identities and share an encrypted room."""

    alice: JsClient
    bob: JsClient
    room: str
