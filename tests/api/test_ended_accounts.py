"""Accounts that have ended, when the server ended amid that.

Spec: client-server API, "Account deactivation".
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING
from urllib.parse import quote

from yizhan_server.app import MIGRATIONS
from yizhan_testing.databases import opened_fresh
from yizhan_testing.homeserver import served, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_server.protocol.identifiers import UserID
    from yizhan_testing.databases import Dialect


class EndsHere:
    """In place of the rooms: the server is killed before any is left."""

    async def leave_all(self, user_id: UserID) -> None:
        raise RuntimeError(user_id)


async def test_rooms_of_an_ended_account_are_left_after_a_restart(
    tmp_path: Path, dialect: Dialect
) -> None:
    settings = settings_for(tmp_path)
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as db:
        async with served(settings, db) as homeserver:
            alice, bob = await homeserver.person("alice"), await homeserver.person("bob")
            room = await alice.creates_room(preset="public_chat")
            await bob.joins(room)
            await alice.syncs()
            homeserver.parts.services.deactivation._rooms = EndsHere()
            identifier = {"type": "m.id.user", "user": bob.user_id}
            auth = {"type": "m.login.password", "identifier": identifier, "password": bob.password}
            refused = await bob.refused("POST", "/v3/account/deactivate", {"auth": auth})
            assert refused.status == 500
        async with served(settings, db) as homeserver:
            alice.http, alice.base_url = homeserver.http, homeserver.base_url
            path = f"/v3/rooms/{quote(room)}/joined_members"
            joined = {}
            for _ in range(100):
                joined = (await alice.get(path))["joined"]
                if bob.user_id not in joined:
                    break
                await asyncio.sleep(0.05)
            assert set(joined) == {alice.user_id}
