"""The side of a server in the room: templates for others' member events, and taking these.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting
Invites)".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import BadJson, Forbidden, MatrixError
from yizhan_server.protocol.event import InvalidPdu, Pdu, parse_pdu
from yizhan_server.protocol.identifiers import ServerName, UserID, server_name_of
from yizhan_server.protocol.signing import SigningKey, sign_event
from yizhan_server.rooms.incoming.placing import Outcome
from yizhan_server.rooms.incoming.reception import Reception
from yizhan_server.rooms.incoming.verification import Verification
from yizhan_server.rooms.join_rules import allowed_rooms
from yizhan_server.rooms.policy_servers import PolicyServers
from yizhan_server.rooms.restricted_joins import AUTHORISER, find_authoriser
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import RoomOfServer, ServerAccess
from yizhan_server.rooms.serving_events import ServingEvents, StateBefore
from yizhan_server.rooms.stripped_state import described_by
from yizhan_server.rooms.writer import Draft, EventWriter
from yizhan_server.storage.events import LOCAL

NOT_IN_TEMPLATES = frozenset(("event_id", "hashes", "signatures"))
"""What the other server adds, since the event is its own."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A join that was taken, with the state that it joins."""

    room: Room
    event: Pdu
    before: StateBefore


class Residing:
    """Lets users of other servers in and out."""

    def __init__(
        self,
        access: ServerAccess,
        writer: EventWriter,
        verification: Verification,
        reception: Reception,
        policies: PolicyServers,
        serving: ServingEvents,
        server_name: ServerName,
        signing_key: SigningKey,
    ) -> None:
        self._access = access
        self._writer = writer
        self._verification = verification
        self._reception = reception
        self._policies = policies
        self._serving = serving
        self._server_name = server_name
        self._signing_key = signing_key

    async def make_join(
        self, origin: ServerName, room_id: str, user_id: UserID, versions: Collection[str]
    ) -> JsonObject:
        """Return a join for the user's server to complete."""
        room = await self._room_for(origin, room_id, user_id)
        _check_version(room, versions)
        content = {"membership": "join"}
        if await room.membership(user_id) not in ("join", "invite"):
            authoriser = await find_authoriser(self._access.find_here, room, user_id)
            if authoriser is not None:
                content[AUTHORISER] = authoriser
        return await self._template(room, user_id, content)

    async def make_leave(self, origin: ServerName, room_id: str, user_id: UserID) -> JsonObject:
        """Return a leave, usually of somebody who rejects an invitation."""
        room = await self._room_for(origin, room_id, user_id, even_if_empty=True)
        return await self._template(room, user_id, {"membership": "leave"})

    async def make_knock(
        self, origin: ServerName, room_id: str, user_id: UserID, versions: Collection[str]
    ) -> JsonObject:
        """Return a knock."""
        room = await self._room_for(origin, room_id, user_id)
        _check_version(room, versions)
        return await self._template(room, user_id, {"membership": "knock"})

    async def send_join(
        self, origin: ServerName, room_id: str, event_id: str, raw: JsonObject
    ) -> Joined:
        """Take a join, signed by the user's server, and pass it on to the room."""
        room = await self._access.access_resident_room(origin, room_id)
        if await self._authorises_here(room, raw):
            sender = UserID(str(raw.get("sender")))
            if await room.membership(sender) not in ("join", "invite"):
                await find_authoriser(self._access.find_here, room, sender)
            raw = sign_event(raw, room.version, self._server_name, self._signing_key)
        pdu = await self._take(origin, room, event_id, raw, "join")
        of = RoomOfServer(room, origin)
        return Joined(room, pdu, await self._serving.state_before(of, pdu.event_id))

    async def send_leave(
        self, origin: ServerName, room_id: str, event_id: str, raw: JsonObject
    ) -> None:
        """Take a leave and pass it on to the room."""
        room = await self._access.access_resident_room(origin, room_id, even_if_empty=True)
        await self._take(origin, room, event_id, raw, "leave")

    async def send_knock(
        self, origin: ServerName, room_id: str, event_id: str, raw: JsonObject
    ) -> list[JsonObject]:
        """Take a knock and pass it on; returns the events that describe the room."""
        room = await self._access.access_resident_room(origin, room_id)
        await self._take(origin, room, event_id, raw, "knock")
        return [event.raw for event in await described_by(room)]

    async def _room_for(
        self, origin: ServerName, room_id: str, user_id: UserID, *, even_if_empty: bool = False
    ) -> Room:
        if server_name_of(user_id) != origin:
            raise Forbidden("The user is not of your server")
        return await self._access.access_resident_room(origin, room_id, even_if_empty=even_if_empty)

    async def _template(self, room: Room, user_id: UserID, content: dict[str, Any]) -> JsonObject:
        pdu = await self._writer.build(room, Draft(user_id, "m.room.member", content, user_id))
        event = {key: value for key, value in pdu.raw.items() if key not in NOT_IN_TEMPLATES}
        return {
            "room_version": room.version.identifier,
            "event": {**event, "origin": self._server_name},
        }

    async def _authorises_here(self, room: Room, raw: JsonObject) -> bool:
        """Whether the join names a user of ours as the one who lets its sender in."""
        content = raw.get("content")
        authoriser = content.get(AUTHORISER) if isinstance(content, dict) else None
        if not isinstance(authoriser, str) or await allowed_rooms(room) is None:
            return False
        if server_name_of(authoriser) != self._server_name:
            return False
        try:
            # Nothing may be signed that is not even an event.
            parse_pdu(raw, room.version)
        except InvalidPdu as error:
            raise BadJson(str(error)) from None
        return True

    async def _take(
        self, origin: ServerName, room: Room, event_id: str, raw: JsonObject, membership: str
    ) -> Pdu:
        """Verify and place a member event of a user of `origin`, and pass it on."""
        pdu = await self._verification.verify_one(raw, room.version)
        _check_is(pdu, room, event_id, membership)
        if server_name_of(pdu.sender) != origin:
            raise Forbidden("The event is not by a user of your server")
        # Asked for here, so that who wants in learns why not.
        pdu = await self._policies.recommended(room, pdu)
        outcomes = await self._reception.receive_verified(origin, room, [pdu], flags=LOCAL)
        if outcomes.get(pdu.event_id) is not Outcome.ACCEPTED:
            raise Forbidden("The room does not permit this event")
        return pdu


def _check_version(room: Room, versions: Collection[str]) -> None:
    if room.version.identifier not in versions:
        raise MatrixError(
            400,
            "M_INCOMPATIBLE_ROOM_VERSION",
            "Your server does not know the version of this room",
            room_version=room.version.identifier,
        )


def _check_is(pdu: Pdu, room: Room, event_id: str, membership: str) -> None:
    """Answer M_BAD_JSON unless the event is what the endpoint takes."""
    if pdu.room_id != room.room_id or pdu.event_id != event_id:
        raise BadJson("The event is not the one that the path names")
    if pdu.type != "m.room.member" or pdu.membership != membership:
        raise BadJson(f"The event is not a {membership}")
    if pdu.state_key != pdu.sender:
        raise BadJson("The event is not about its sender")
