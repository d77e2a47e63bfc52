"""Rooms of a Synapse, entered through the federation client: every endpoint, answered by others.

The events are built here by hand, from what the endpoints answer, as the handshakes have it. Who
joins is a user of this server's name that no account stands behind.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import orjson

from yizhan_server.federation_client.answers import RawPdu, read_pdu
from yizhan_server.federation_client.client import FederationClient
from yizhan_server.federation_client.media import Scale
from yizhan_server.federation_client.rooms import Template
from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.event import Pdu, parse_pdu
from yizhan_server.protocol.hashes import event_id_of
from yizhan_server.protocol.identifiers import EventID, RoomAlias, RoomID, ServerName, UserID
from yizhan_server.protocol.room_version import ROOM_VERSIONS, RoomVersion
from yizhan_server.protocol.signing import SigningKey, has_signature_by, hash_and_sign_event
from yizhan_testing.homeserver import HomeserverInProcess, Person
from yizhan_testing.media import encoded, gradient, uploads
from yizhan_testing.synapse import Synapse

JsonObject = dict[str, Any]


@dataclass
class Visitor:
    """Our side of the rooms."""

    client: FederationClient
    here: ServerName
    there: ServerName
    key: SigningKey

    @property
    def user_id(self) -> UserID:
        return UserID(f"@ghost:{self.here}")

    def signs(self, event: JsonObject, version: RoomVersion) -> tuple[EventID, JsonObject]:
        """Complete an event; returns its ID and what is sent."""
        raw = {**event, "origin": self.here, "origin_server_ts": time.time_ns() // 1_000_000}
        signed = hash_and_sign_event(raw, version, self.here, self.key)
        return event_id_of(signed, version), signed

    def completes(self, template: Template) -> tuple[EventID, JsonObject, RoomVersion]:
        version = ROOM_VERSIONS[template.room_version]
        return (*self.signs(template.event, version), version)


async def go_through_rooms(
    homeserver: HomeserverInProcess, synapse: Synapse, zhang: Person, key: SigningKey
) -> None:
    """Join, look, speak, knock, invite and leave, and fetch a file."""
    visitor = Visitor(
        homeserver.parts.federation_client,
        ServerName(homeserver.server_name),
        ServerName(synapse.server_name),
        key,
    )
    for version in ("6", "10", "11"):
        await joins_speaks_and_leaves(visitor, zhang, version)
    await knocks(visitor, zhang)
    await invites(visitor, zhang)
    await fetches(visitor, zhang)


async def joins_speaks_and_leaves(visitor: Visitor, zhang: Person, version_name: str) -> None:
    client, there = visitor.client, visitor.there
    alias = f"r{version_name}"
    room = RoomID(
        await zhang.creates_room(
            name="局务会", preset="public_chat", visibility="public",
            room_alias_name=alias, room_version=version_name,
        )
    )  # fmt: skip
    said = EventID(await zhang.says(room, "请各科室报送材料"))
    last = EventID(await zhang.says(room, "截止时间：周五"))

    found = await client.queries.directory(there, RoomAlias(f"#{alias}:{there}"))
    assert (found.room_id, found.servers) == (room, [there])
    # Synapse fills its list from statistics that it makes later.
    assert "chunk" in await client.queries.public_rooms(there, {"limit": 10})
    assert (await client.queries.hierarchy(there, room))["room"]["name"] == "局务会"

    template = await client.rooms.make_join(there, room, visitor.user_id, [version_name, "12"])
    assert template.room_version == version_name
    join_id, join, version = visitor.completes(template)
    joined = await client.rooms.send_join(there, room, join_id, join)
    state = by_key(joined.state, version)
    assert ("m.room.create", "") in state
    assert state["m.room.name", ""].content == {"name": "局务会"}

    await looks_around(visitor, room, version, said, last, join_id)
    needed = auth_types_for_event("m.room.message", visitor.user_id, None, {}, version)
    message_id, message = visitor.signs(
        {
            "room_id": room, "type": "m.room.message", "sender": visitor.user_id,
            "content": {"msgtype": "m.text", "body": "收到"}, "depth": 100,
            "prev_events": [join_id],
            "auth_events": [state[key].event_id if key in state else join_id for key in needed],
        },
        version,
    )  # fmt: skip
    transaction = {"origin": visitor.here, "origin_server_ts": 1, "pdus": [message], "edus": []}
    taken = await client.events.send_transaction(there, alias, orjson.dumps(transaction))
    assert taken == {}
    await reads(zhang, room, message_id)

    leave_id, leave, _ = visitor.completes(
        await client.rooms.make_leave(there, room, visitor.user_id)
    )
    await client.rooms.send_leave(there, room, leave_id, leave)
    members = await zhang.get(f"/v3/rooms/{room}/joined_members")
    assert list(members["joined"]) == [zhang.user_id]


async def reads(zhang: Person, room: RoomID, event_id: EventID) -> None:
    """Wait until a message has come; Synapse answers a transaction before it has handled it."""
    async with asyncio.timeout(30):
        while True:
            timeline = (await zhang.syncs(timeout_ms=5000)).timeline(room)
            if event_id in {event["event_id"] for event in timeline}:
                return


async def looks_around(
    visitor: Visitor,
    room: RoomID,
    version: RoomVersion,
    said: EventID,
    last: EventID,
    join_id: EventID,
) -> None:
    events, there = visitor.client.events, visitor.there
    one = parse_pdu(read_pdu(await events.event(there, said), version), version)
    assert (one.event_id, one.content["body"]) == (said, "请各科室报送材料")
    older = parsed(await events.backfill(there, room, [last], 5), version)
    assert {said, last} <= set(older)
    assert len(older) <= 5
    between = await events.missing_events(there, room, earliest=[said], latest=[join_id], limit=10)
    assert list(parsed(between, version)) == [last]

    ids = await events.state_ids(there, room, last)
    whole = await events.state(there, room, last)
    assert set(ids.pdu_ids) == set(parsed(whole.pdus, version))
    assert set(ids.auth_chain_ids) <= set(parsed(whole.auth_chain, version)) | set(ids.pdu_ids)
    chain = parsed(await events.event_auth(there, room, join_id), version)
    assert "m.room.create" in {event.type for event in chain.values()}

    found = await events.event_by_time(there, room, one.origin_server_ts, "f")
    assert found.event_id == said


async def knocks(visitor: Visitor, zhang: Person) -> None:
    client, there = visitor.client, visitor.there
    rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = RoomID(await zhang.creates_room(name="值班室", initial_state=[rule], room_version="10"))
    knock_id, knock, _ = visitor.completes(
        await client.rooms.make_knock(there, room, visitor.user_id, ["10", "11"])
    )
    shown = await client.rooms.send_knock(there, room, knock_id, knock)
    assert "m.room.join_rules" in {orjson.loads(bytes(event))["type"] for event in shown}
    member = await zhang.get(f"/v3/rooms/{room}/state/m.room.member/{visitor.user_id}")
    assert member["membership"] == "knock"


async def invites(visitor: Visitor, zhang: Person) -> None:
    version = ROOM_VERSIONS["10"]
    room = RoomID(f"!ours:{visitor.here}")
    _, create = visitor.signs(
        {
            "room_id": room, "type": "m.room.create", "state_key": "", "sender": visitor.user_id,
            "content": {"room_version": "10", "creator": visitor.user_id}, "depth": 1,
            "prev_events": [], "auth_events": [],
        },
        version,
    )  # fmt: skip
    event_id, event = visitor.signs(
        {
            "room_id": room, "type": "m.room.member", "sender": visitor.user_id,
            "state_key": zhang.user_id, "content": {"membership": "invite"}, "depth": 9,
            "prev_events": [], "auth_events": [],
        },
        version,
    )  # fmt: skip
    raw = await visitor.client.rooms.invite(
        visitor.there, room, event_id, event, room_version="10", room_state=[create]
    )
    signed = read_pdu(raw, version)
    assert event_id_of(signed, version) == event_id
    assert has_signature_by(signed, visitor.there)
    assert has_signature_by(signed, visitor.here)
    assert (await zhang.syncs()).room(room, "invite") != {}


async def fetches(visitor: Visitor, zhang: Person) -> None:
    picture = encoded(gradient(300, 200))
    media_id = (await uploads(zhang, picture, "image/png", filename="图.png")).partition("/")[2]
    media, there = visitor.client.media, visitor.there
    async with media.download(there, media_id, max_bytes=len(picture)) as file:
        assert file.content_type == "image/png"
        assert file.content_disposition is not None
        assert b"".join([piece async for piece in file.pieces]) == picture
    scale = Scale(96, 96, "crop")
    async with media.thumbnail(there, media_id, scale, max_bytes=100_000) as file:
        assert file.content_type in {"image/png", "image/jpeg", "image/webp"}
        assert b"".join([piece async for piece in file.pieces]) != b""


def parsed(raws: list[RawPdu], version: RoomVersion) -> dict[EventID, Pdu]:
    """Return events by ID; each has the format of its version."""
    events = [parse_pdu(read_pdu(raw, version), version) for raw in raws]
    return {event.event_id: event for event in events}


def by_key(raws: list[RawPdu], version: RoomVersion) -> dict[tuple[str, str], Pdu]:
    return {event.key: event for event in parsed(raws, version).values()}
