"""A peer that plays the policy server of a room.

    judge = PlayedPolicyServer(peer, homeserver)
    await PeerInRoom.joins(peer, homeserver, room, "judge")
    await alice.sets(room, "m.room.policy", judge.policy)
    judge.forbidden.add("spam")

It signs whatever it is asked about, except for messages whose text is forbidden.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from yizhan_server.protocol.room_version import ROOM_VERSIONS, RoomVersion
from yizhan_server.protocol.signing import SigningKey, sign_event
from yizhan_testing.peer import Peer

JsonObject = dict[str, Any]

PATH = "/_matrix/policy/v1/sign"
KEY_ID = "ed25519:policy_server"


@dataclass
class PlayedPolicyServer:
    """What it holds, and what it was asked."""

    peer: Peer
    version: RoomVersion = ROOM_VERSIONS["12"]
    key: SigningKey = field(default_factory=lambda: SigningKey.generate("policy_server"))
    signing_key: SigningKey | None = None
    """Another key that it signs with instead."""
    forbidden: set[str] = field(default_factory=set)
    """Texts of messages, and memberships, that it refuses."""
    refusal: tuple[int, JsonObject] = (
        400, {"errcode": "M_FORBIDDEN", "error": "The message appears to contain possible spam"}
    )  # fmt: skip
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, nobody gets an answer."""
    events: list[JsonObject] = field(default_factory=list)
    """What it was asked about."""
    waiting: int = 0
    most_waiting: int = 0

    def __post_init__(self) -> None:
        self.open.set()
        self.peer.answers["POST", PATH] = self._sign

    @property
    def policy(self) -> JsonObject:
        """What a room says that uses it."""
        return {
            "via": self.peer.name,
            "public_keys": {"ed25519": self.key.verify_key.to_base64()},
        }

    @property
    def kinds(self) -> list[str]:
        """The types of the events that it was asked about."""
        return [event["type"] for event in self.events]

    @property
    def texts(self) -> list[str]:
        """The texts of the messages among them."""
        return [event["content"]["body"] for event in self.events if "body" in event["content"]]

    def signature(self, event: JsonObject) -> JsonObject:
        """Return what it answers where it agrees."""
        signed = sign_event(event, self.version, self.peer.name, self.signing_key or self.key)
        return {self.peer.name: {KEY_ID: signed["signatures"][self.peer.name][KEY_ID]}}

    def signs(self, event: JsonObject) -> JsonObject:
        """Return an event with its signature, as a server sends it that has asked."""
        return sign_event(event, self.version, self.peer.name, self.signing_key or self.key)

    async def _sign(self, request: web.BaseRequest) -> web.StreamResponse | JsonObject:
        assert request.headers["Authorization"].startswith("X-Matrix ")
        event = orjson.loads(await request.read())
        self.events.append(event)
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        if {event["content"].get("body"), event["content"].get("membership")} & self.forbidden:
            status, body = self.refusal
            return web.json_response(body, status=status)
        return self.signature(event)
