"""Inviting people of other servers, and being invited by them.

Spec: server-server API, "Inviting to a room"; client-server API, "Stripped state".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from yizhan_server.federation_client.errors import RemoteFailure, RemoteRefused, told_to_client
from yizhan_server.federation_client.rooms import RoomRequests
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import BadJson, Forbidden, InvalidParam, MatrixError
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, ServerName, UserID, server_name_of
from yizhan_server.protocol.policy_server import with_signatures
from yizhan_server.protocol.room_version import ROOM_VERSIONS, EventIdFormat
from yizhan_server.protocol.signing import SigningKey, sign_event
from yizhan_server.rooms.handshakes.joining import shown_state
from yizhan_server.rooms.handshakes.out_of_band import OutOfBand
from yizhan_server.rooms.handshakes.versions import Versions
from yizhan_server.rooms.incoming.placing import Outcome, Placing
from yizhan_server.rooms.incoming.verification import Verification
from yizhan_server.rooms.policy_servers import PolicyServers
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import ServerAccess, check_server_acl
from yizhan_server.rooms.stripped_state import described_by
from yizhan_server.rooms.writer import Draft, EventWriter
from yizhan_server.storage.events import LOCAL


class InvitableUsers(Protocol):
    """Knows who of this server may be invited."""

    async def check_invitable(self, target: UserID) -> None:
        """Answer why a user of this server cannot be invited."""
        ...


class Inviting:
    """Both sides of an invitation across servers."""

    def __init__(
        self,
        requests: RoomRequests,
        rooms: Rooms,
        access: ServerAccess,
        writer: EventWriter,
        placing: Placing,
        policies: PolicyServers,
        verification: Verification,
        versions: Versions,
        out_of_band: OutOfBand,
        server_name: ServerName,
        signing_key: SigningKey,
    ) -> None:
        self._requests = requests
        self._rooms = rooms
        self._access = access
        self._writer = writer
        self._placing = placing
        self._policies = policies
        self._verification = verification
        self._versions = versions
        self._out_of_band = out_of_band
        self._server_name = server_name
        self._signing_key = signing_key

    async def invite(self, room: Room, draft: Draft) -> EventID:
        """Invite a user of another server, which has to agree before the room learns of it."""
        assert draft.state_key is not None, "an invitation is a member event"
        server = server_name_of(draft.state_key)
        assert server is not None, "the target has been parsed"
        pdu = await self._policies.recommended(room, await self._writer.build(room, draft))
        signed = await self._ask(server, room, pdu)
        # Other events may have come meanwhile; the invitation follows those before them.
        outcomes = await self._placing.place(room, [signed], flags=LOCAL)
        if outcomes.get(signed.event_id) is not Outcome.ACCEPTED:
            raise Forbidden("The room no longer permits this invitation")
        return signed.event_id

    async def _ask(self, server: ServerName, room: Room, pdu: Pdu) -> Pdu:
        shown = [event.raw for event in await described_by(room, pdu.sender)]
        version = room.version
        try:
            raw = await self._requests.invite(
                server, room.room_id, pdu.event_id, pdu.raw,
                room_version=version.identifier, room_state=shown,
            )  # fmt: skip
        except RemoteRefused as refusal:
            old = version.event_id_format is EventIdFormat.FIELD
            if not (old and refusal.status in (400, 404)):
                raise told_to_client(refusal) from None
            try:
                raw = await self._requests.invite_v1(
                    server, room.room_id, pdu.event_id, pdu.raw, room_state=shown
                )
            except RemoteFailure as failure:
                raise told_to_client(failure) from None
        except RemoteFailure as failure:
            raise told_to_client(failure) from None
        found = await self._verification.verified([raw], version, room.room_id)
        if not found or found[0].event_id != pdu.event_id:
            # Not a 5xx: clients would try again, and have somebody invited time after time.
            raise BadJson("The other server answered with something else than the invitation")
        # Whatever else it changed: neither the content nor others' signatures are its to remove.
        return with_signatures(pdu, found[0].raw["signatures"])

    async def take(
        self,
        origin: ServerName,
        room_id: str,
        event_id: str,
        raw: JsonObject,
        *,
        version_name: str,
        room_state: Sequence[JsonObject],
        users: InvitableUsers,
    ) -> JsonObject:
        """Take an invitation of a user of ours; returns the event with our signature."""
        version = ROOM_VERSIONS.get(version_name)
        if version is None:
            raise MatrixError(
                400, "M_INCOMPATIBLE_ROOM_VERSION", "This server does not know the room version",
                room_version=version_name,
            )  # fmt: skip
        known = await self._rooms.find(room_id)
        if known is not None:
            await check_server_acl(known, origin)
        pdu = await self._verification.verify_one(raw, version)
        target = _target(pdu, origin, room_id, event_id, self._server_name)
        await users.check_invitable(target)
        signed = await self._verification.verify_one(
            sign_event(pdu.raw, version, self._server_name, self._signing_key), version
        )
        room = await self._versions.find_room(pdu.room_id, version, room_state)
        if room is None:
            raise InvalidParam("The room is of another version")
        async with room.lock:  # a join that ends meanwhile would be forgotten
            # Where it is here, the invitation comes to the room from the one that asks.
            if not await self._access.is_here(room):
                # Somebody who was banned may not be any more: nobody tells a server outside.
                await self._out_of_band.record(room, signed, shown_state(room_state, version))
        return signed.raw

    async def rescind(self, origin: ServerName, room: Room, pdu: Pdu) -> bool:
        """Take the end of an invitation or knock of a room that this server is not in.

        Whether `pdu` was one. Only the server that invited, or the event that names the
        invitation as what permits it, is believed: the room's state is not known here.
        """
        if pdu.type != "m.room.member" or pdu.state_key is None:
            return False
        if pdu.membership not in ("leave", "ban"):
            return False
        if server_name_of(pdu.state_key) != self._server_name:
            return False
        async with room.lock:  # as above
            membership = await self._out_of_band.membership(room, pdu.state_key)
            if membership is None or membership.membership not in ("invite", "knock"):
                return False
            event = await self._out_of_band.event_of(room, membership)
            if event is None or event.event_id not in pdu.auth_events:
                return False
            if await self._access.is_here(room):
                return False
            await self._out_of_band.record(room, pdu)
        return True


def _target(pdu: Pdu, origin: ServerName, room_id: str, event_id: str, own: ServerName) -> UserID:
    """Return whom an invitation is for, or answer why it is none."""
    if pdu.room_id != room_id or pdu.event_id != event_id:
        raise BadJson("The event is not the one that the path names")
    if pdu.type != "m.room.member" or pdu.membership != "invite" or pdu.state_key is None:
        raise BadJson("The event is not an invitation")
    if server_name_of(pdu.state_key) != own:
        raise BadJson("The user is not of this server")
    if server_name_of(pdu.sender) != origin:
        raise Forbidden("The event is not by a user of your server")
    return UserID(pdu.state_key)
