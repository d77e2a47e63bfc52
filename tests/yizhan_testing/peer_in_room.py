"""A peer (`peer`) with a user in a room of the homeserver, who sends whatever events it likes.

    guest = await joined(peer, homeserver, room)
    answer = await guest.sends(guest.event("m.room.message", {"body": "hi"}))

What it makes is hashed and signed rightly, unless the test spoils it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import quote

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.event import Pdu, build_pdu, parse_pdu
from yizhan_server.protocol.hashes import reference_hash
from yizhan_server.protocol.identifiers import EventID, RoomID, UserID
from yizhan_server.protocol.room_version import ROOM_VERSIONS, EventIdFormat, RoomVersion
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.peer import Answered, FederatingServer, Peer

JsonObject = dict[str, Any]

_txns = count(1)


@dataclass
class PeerInRoom:
    """The peer's user, and what the peer knows of the room."""

    peer: Peer
    homeserver: FederatingServer
    room_id: RoomID
    version: RoomVersion
    user_id: UserID
    state: dict[tuple[str, str], Pdu] = field(default_factory=dict)
    last: list[Pdu] = field(default_factory=list)
    """What its next event follows."""
    known: dict[EventID, Pdu] = field(default_factory=dict)

    def event(
        self,
        kind: str,
        content: JsonObject,
        state_key: str | None = None,
        *,
        sender: str | None = None,
        follows: list[EventID] | None = None,
        auth: list[EventID] | None = None,
        depth: int | None = None,
        room_id: str | None = None,
    ) -> Pdu:
        """Return an event that follows the last one, authorised by the state that is known."""
        author = UserID(sender or self.user_id)
        if auth is None:
            keys = auth_types_for_event(kind, author, state_key, content, self.version)
            auth = [self.state[key].event_id for key in keys if key in self.state]
        prev = [each.event_id for each in self.last] if follows is None else follows
        event_id = None
        if self.version.event_id_format is EventIdFormat.FIELD:
            event_id = EventID(f"${next(_txns)}:{self.peer.name}")
        pdu = build_pdu(
            self.version, type=kind, sender=author, state_key=state_key, content=content,
            room_id=RoomID(room_id or self.room_id), origin_server_ts=time.time_ns() // 1_000_000,
            depth=max((each.depth for each in self.last), default=0) + 1
            if depth is None else depth,
            prev_events=prev, auth_events=auth,
            server_name=self.peer.name, signing_key=self.peer.key, event_id=event_id,
            reference_hashes={
                each: reference_hash(self.known[each].raw, self.version)
                for each in [*prev, *auth] if each in self.known
            },
        )  # fmt: skip
        self.known[pdu.event_id] = pdu
        return pdu

    def follows(self, pdu: Pdu) -> Pdu:
        """Have the next event follow this one, and take it for part of the state if it is."""
        self.last = [pdu]
        if pdu.is_state:
            self.state[pdu.key] = pdu
        return pdu

    async def sends(
        self,
        *events: Pdu | JsonObject,
        txn_id: str | None = None,
        edus: tuple[JsonObject, ...] = (),
    ) -> Answered:
        """Send a transaction."""
        raws = [event.raw if isinstance(event, Pdu) else event for event in events]
        uri = f"/_matrix/federation/v1/send/{txn_id or f't{next(_txns)}'}"
        body = {
            "origin": self.peer.name, "origin_server_ts": time.time_ns() // 1_000_000,
            "pdus": raws, "edus": list(edus),
        }  # fmt: skip
        return await self.peer.asks(self.homeserver, "PUT", uri, body)


async def joined(
    peer: Peer, homeserver: FederatingServer, room: str, localpart: str = "mallory"
) -> PeerInRoom:
    """Have a user of the peer join a public room of the homeserver."""
    user_id = UserID(f"@{localpart}:{peer.name}")
    place = f"{quote(room, safe='')}/{quote(user_id, safe='')}"
    versions = "&".join(f"ver={each}" for each in ROOM_VERSIONS)
    uri = f"/_matrix/federation/v1/make_join/{place}?{versions}"
    template = (await peer.asks(homeserver, "GET", uri)).json
    version = ROOM_VERSIONS[template["room_version"]]
    given = template["event"]
    guest = PeerInRoom(peer, homeserver, RoomID(room), version, user_id)
    raw = {**given, "origin_server_ts": time.time_ns() // 1_000_000}
    if version.event_id_format is EventIdFormat.FIELD:
        raw["event_id"] = f"${next(_txns)}:{peer.name}"
    join = parse_pdu(hash_and_sign_event(raw, version, peer.name, peer.key), version)
    guest.known[join.event_id] = join
    uri = f"/_matrix/federation/v2/send_join/{quote(room, safe='')}/{quote(join.event_id, safe='')}"
    answer = await peer.asks(homeserver, "PUT", uri, join.raw)
    assert answer.status == 200, answer.content
    for raw in answer.json["state"]:
        pdu = parse_pdu(raw, version)
        guest.state[pdu.key] = pdu
        guest.known[pdu.event_id] = pdu
    guest.follows(join)
    return guest
