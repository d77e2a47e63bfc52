"""Words for what people of two departments do, and what a server of bad will says.

alice, bob, room = await meet(pair)
await tells(b, a, "m.typing", {...})
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_testing.departments import Department
    from yizhan_testing.homeserver import HomeserverInProcess, Person, SyncAnswer

JsonObject = dict[str, Any]
Pair = list["Department"]


async def shares_room(alice: Person, bob: Person, a: HomeserverInProcess) -> str:
    """Return a room of alice's that bob, of another server, has joined."""
    room = await alice.creates_room(preset="public_chat")
    path = f"/v3/join/{quote(room, safe='')}"
    await bob.call("POST", path, {}, params={"via": a.server_name})
    return room


async def meet(pair: Pair) -> tuple[Person, Person, str]:
    a, b = pair
    alice, bob = await a.person("alice"), await b.person("bob")
    room = await shares_room(alice, bob, a)

    async def alice_sees_bob() -> None:
        members = await alice.get(f"/v3/rooms/{quote(room, safe='')}/joined_members")
        assert bob.user_id in members["joined"]

    await until(alice, alice_sees_bob)
    return alice, bob, room


async def sees(person: Person, wanted: Callable[[SyncAnswer], bool], within_s: float = 10) -> None:
    """Sync until an answer is as wanted."""
    async with asyncio.timeout(within_s):
        while not wanted(await person.syncs(timeout_ms=2000)):
            pass


async def tells(
    origin: HomeserverInProcess,
    destination: HomeserverInProcess,
    kind: str,
    content: JsonObject,
    txn_id: str | None = None,
) -> None:
    """Send an EDU that only a server of bad will would, or only twice by mistake."""
    body = {
        "origin": origin.server_name,
        "origin_server_ts": 1,
        "pdus": [],
        "edus": [{"edu_type": kind, "content": content}],
    }
    requests = origin.parts.federation_client.events
    name = txn_id or secrets.token_urlsafe(8)
    await requests.send_transaction(
        destination.parts.services.server_name, name, orjson.dumps(body)
    )
