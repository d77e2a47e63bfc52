"""A peer in a room of the homeserver: it joins, builds events by hand, sends and withholds them.

guest = await PeerInRoom.joins(peer, homeserver, room)
event = guest.says("hello")
assert await guest.sends(event) == {event.event_id: {}}
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

import orjson
from aiohttp import web

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.hashes import event_id_of
from yizhan_server.protocol.room_version import ROOM_VERSIONS, RoomVersion
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.peer import FederatingServer, Peer

JsonObject = dict[str, Any]

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"


def path_of(prefix: str, *parts: str) -> str:
    """Return a path of percent-encoded parts."""
    return "/".join((prefix, *(quote(part, safe="") for part in parts)))


@dataclass
class PeerInRoom:
    """What the peer knows of the room."""

    peer: Peer
    homeserver: FederatingServer
    room: str
    version: RoomVersion
    user_id: str
    state: dict[tuple[str, str], Pdu] = field(default_factory=dict)
    last: list[Pdu] = field(default_factory=list)
    events: dict[str, Pdu] = field(default_factory=dict)

    @classmethod
    async def joins(
        cls,
        peer: Peer,
        homeserver: FederatingServer,
        room: str,
        localpart: str = "guest",
        *,
        send_join: str = f"{V2}/send_join",
    ) -> Self:
        """Join as a user of the peer."""
        user_id = f"@{localpart}:{peer.name}"
        versions = "&".join(f"ver={version}" for version in ROOM_VERSIONS)
        path = path_of(f"{V1}/make_join", room, user_id)
        template = (await peer.asks(homeserver, "GET", f"{path}?{versions}")).json
        guest = cls(peer, homeserver, room, ROOM_VERSIONS[template["room_version"]], user_id)
        join = guest.signs(template["event"])
        path = path_of(send_join, room, join.event_id)
        answered = await peer.asks(homeserver, "PUT", path, join.raw)
        assert answered.status == 200, answered.content
        answer = answered.json[1] if isinstance(answered.json, list) else answered.json
        for raw in answer["state"]:
            guest._takes(parse_pdu(raw, guest.version))
        guest._takes(join)
        return guest

    def _takes(self, pdu: Pdu) -> None:
        self.events[pdu.event_id] = pdu
        self.last = [pdu]
        if pdu.is_state:
            self.state[pdu.key] = pdu

    def signs(self, event: JsonObject) -> Pdu:
        """Return an event with time, hash and signature."""
        raw = {**event, "origin_server_ts": time.time_ns() // 1_000_000}
        raw = hash_and_sign_event(raw, self.version, self.peer.name, self.peer.key)
        return parse_pdu(raw, self.version)

    def builds(
        self,
        kind: str,
        content: JsonObject,
        state_key: str | None = None,
        *,
        sender: str | None = None,
        after: list[Pdu] | None = None,
        auth: list[Pdu] | None = None,
        **fields: Any,
    ) -> Pdu:
        """Return a signed event that follows what came last, and is the last from now on."""
        sender = sender or self.user_id
        needed = auth_types_for_event(kind, sender, state_key, content, self.version)
        if auth is None:
            auth = [self.state[key] for key in needed if key in self.state]
        after = self.last if after is None else after
        event: JsonObject = {
            "room_id": self.room, "type": kind, "sender": sender, "content": content,
            "prev_events": [each.event_id for each in after],
            "auth_events": [each.event_id for each in auth],
            "depth": max(each.depth for each in after) + 1, **fields,
        }  # fmt: skip
        if state_key is not None:
            event["state_key"] = state_key
        pdu = self.signs(event)
        self.events[pdu.event_id] = pdu
        self.last = [pdu]
        return pdu

    def dates(self, event: Pdu, *, ago_ms: int) -> Pdu:
        """Return the event that came last as one of a time ago, and have it be the last."""
        unsigned = {
            key: value for key, value in event.raw.items() if key not in ("hashes", "signatures")
        }
        raw = {**unsigned, "origin_server_ts": event.origin_server_ts - ago_ms}
        raw = hash_and_sign_event(raw, self.version, self.peer.name, self.peer.key)
        pdu = parse_pdu(raw, self.version)
        self.events[pdu.event_id] = pdu
        self.last = [pdu]
        return pdu

    def says(self, text: str, **fields: Any) -> Pdu:
        return self.builds("m.room.message", {"msgtype": "m.text", "body": text}, **fields)

    async def sends(self, *pdus: Pdu) -> dict[str, Any]:
        """Send events in a transaction; returns what became of each."""
        content = {
            "origin": self.peer.name, "origin_server_ts": 1, "edus": [],
            "pdus": [pdu.raw for pdu in pdus],
        }  # fmt: skip
        answered = await self.peer.asks(
            self.homeserver, "PUT", f"{V1}/send/{time.time_ns()}", content
        )
        assert answered.status == 200, answered.content
        results: dict[str, Any] = answered.json["pdus"]
        return results

    def gives_missing(self, *pdus: Pdu) -> None:
        """Answer the next questions for missing events with these."""
        answer = {"events": [pdu.raw for pdu in pdus]}
        self.peer.answers["POST", path_of(f"{V1}/get_missing_events", self.room)] = answer

    def gives_state(self) -> None:
        """Answer for the room's state wherever it is asked for, and for every event."""

        async def state_ids(_: web.BaseRequest) -> JsonObject:
            ids = [each.event_id for each in self.state.values()]
            return {"pdu_ids": ids, "auth_chain_ids": ids}

        self.peer.answers["GET", path_of(f"{V1}/state_ids", self.room)] = state_ids
        for event_id, pdu in self.events.items():
            answer = {"origin": self.peer.name, "origin_server_ts": 1, "pdus": [pdu.raw]}
            self.peer.answers["GET", path_of(f"{V1}/event", event_id)] = answer

    def received(self) -> list[JsonObject]:
        """Have every transaction taken from now on; returns the list that its events go into."""
        found: list[JsonObject] = []

        async def take(request: web.BaseRequest) -> JsonObject:
            body = orjson.loads(await request.read())
            found.extend(body["pdus"])
            ids = [event_id_of(pdu, self.version) for pdu in body["pdus"]]
            return {"pdus": {event_id: {} for event_id in ids}}

        self.peer.handlers_below[f"{V1}/send/"] = take
        return found
