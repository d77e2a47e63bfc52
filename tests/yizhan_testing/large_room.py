"""A room of thousands, which a peer tells of and nobody has ever been in.

large = LargeRoom(peer, ROOM_VERSIONS["12"], members=2000)
large.lets_in(bob.user_id)
await bob.call("POST", f"/v3/join/{large.room_id}", {}, params={"via": peer.name})
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.peer import Peer

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"
SINCE_MS = 1_700_000_000_000

JsonObject = dict[str, Any]


class LargeRoom:
    """The state of the room, of version 3 or later.

    With `deep` False, the depths of its events say nothing.
    """

    def __init__(
        self, peer: Peer, version: RoomVersion, members: int, *, deep: bool = True
    ) -> None:
        self.peer = peer
        self.version = version
        self.state: dict[tuple[str, str], Pdu] = {}
        self.room_id: str | None = None
        self._deep = deep
        self._last: Pdu | None = None
        owner = f"@owner:{peer.name}"
        named = version.room_id_is_create_hash
        self._adds("m.room.create", owner, "", {"room_version": version.identifier}, named=named)
        self._adds("m.room.member", owner, owner, {"membership": "join"})
        levels = {} if named else {owner: 100}
        self._adds("m.room.power_levels", owner, "", {"users": levels})
        self._adds("m.room.join_rules", owner, "", {"join_rule": "public"})
        for number in range(members):
            user_id = f"@member{number}:{peer.name}"
            content = {
                "membership": "join",
                "displayname": f"某单位某处室第{number}号工作人员",
                "avatar_url": f"mxc://{peer.name}/abcdefghijklmnopqrstuvwx{number}",
            }
            self._adds("m.room.member", user_id, user_id, content)

    def _adds(
        self, kind: str, sender: str, state_key: str, content: JsonObject, *, named: bool = False
    ) -> None:
        """Add a state event; with `named` its hash names the room."""
        depth = len(self.state) + 1
        event: JsonObject = {
            "type": kind, "sender": sender, "state_key": state_key, "content": content,
            "depth": depth if self._deep else 1, "origin_server_ts": SINCE_MS + depth,
            "prev_events": [] if self._last is None else [self._last.event_id],
            "auth_events": self._authorising(kind, UserID(sender), state_key, content),
        }  # fmt: skip
        if kind == "m.room.create" and not self.version.room_id_is_create_hash:
            self.room_id = f"!large:{self.peer.name}"
            if self.version.identifier != "11":
                content["creator"] = sender
        if not named:
            event["room_id"] = self.room_id
        raw = hash_and_sign_event(event, self.version, self.peer.name, self.peer.key)
        self._last = parse_pdu(raw, self.version)
        self.room_id = self._last.room_id
        self.state[self._last.key] = self._last

    def _authorising(
        self, kind: str, sender: UserID, state_key: str, content: JsonObject
    ) -> list[str]:
        keys = auth_types_for_event(kind, sender, state_key, content, self.version)
        return [self.state[key].event_id for key in keys if key in self.state]

    def answer(self) -> JsonObject:
        """Return what is answered to who joins; what authorises comes last."""
        return {
            "origin": self.peer.name,
            "state": [pdu.raw for pdu in reversed(self.state.values())],
            "auth_chain": [],
        }

    def lets_in(self, user_id: str) -> None:
        """Have the peer let a user in, any number of times."""
        assert self._last is not None, "the room has begun"
        content = {"membership": "join"}
        template = {
            "type": "m.room.member", "sender": user_id, "state_key": user_id, "content": content,
            "room_id": self.room_id, "depth": len(self.state) + 1,
            "prev_events": [self._last.event_id],
            "auth_events": self._authorising("m.room.member", UserID(user_id), user_id, content),
        }  # fmt: skip
        body = orjson.dumps(self.answer())

        async def make_join(_: web.BaseRequest) -> JsonObject:
            return {"room_version": self.version.identifier, "event": template}

        async def send_join(_: web.BaseRequest) -> web.StreamResponse:
            return web.Response(body=body, content_type="application/json")

        async def send(_: web.BaseRequest) -> JsonObject:
            return {"pdus": {}}

        self.peer.handlers_below |= {
            f"{V1}/make_join/": make_join, f"{V2}/send_join/": send_join, f"{V1}/send/": send,
        }  # fmt: skip
