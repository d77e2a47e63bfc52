"""Inviting somebody of whom only an address is known, with the help of an identity server.

If the address is somebody's, that user is invited. If not, the identity server keeps the
invitation, and the room gets an `m.room.third_party_invite`; when somebody proves to have the
address, the identity server tells us, and this event is exchanged for a real invitation.

Spec: client-server API, "Third-party invites"; server-server API, "Third-party invites".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from yizhan_server.federation_client.errors import RemoteFailure, told_to_client
from yizhan_server.protocol.errors import BadJson, Forbidden, MatrixError
from yizhan_server.protocol.identifiers import RoomID, UserID, parse_user_id, server_name_of
from yizhan_server.protocol.signing import is_signed_by_any
from yizhan_server.rooms.power import current_power_levels
from yizhan_server.rooms.writer import Draft

if TYPE_CHECKING:
    from yizhan_server.accounts.member_profiles import MemberProfiles
    from yizhan_server.federation_client.rooms import RoomRequests
    from yizhan_server.identity.servers import IdentityServers
    from yizhan_server.protocol.identifiers import ServerName
    from yizhan_server.rooms.handshakes.handshakes import Handshakes
    from yizhan_server.rooms.members import Members
    from yizhan_server.rooms.room import Room
    from yizhan_server.rooms.server_access import ServerAccess
    from yizhan_server.rooms.writer import EventWriter

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]

_MAX_TOKEN_LENGTH = 255

MAX_INVITES = 100
"""That one binding may turn into invitations. Whoever calls need not have signed anything, and for
rooms that are not here another server is asked each time."""

MAX_KEYS = 10
"""Of one announcement; identity servers have two, and each signature is tried with each."""


class ThirdPartyInvites:
    """Invites by address."""

    def __init__(
        self,
        servers: IdentityServers,
        members: Members,
        writer: EventWriter,
        profiles: MemberProfiles,
        access: ServerAccess,
        handshakes: Handshakes,
        requests: RoomRequests,
    ) -> None:
        self._servers = servers
        self._members = members
        self._writer = writer
        self._profiles = profiles
        self._access = access
        self._handshakes = handshakes
        self._requests = requests

    async def invite(
        self,
        room: Room,
        sender: UserID,
        *,
        id_server: ServerName,
        token: str,
        medium: str,
        address: str,
    ) -> None:
        """Invite who has the address, or whoever will prove to have it."""
        address = address.strip().lower() if medium == "email" else address.strip()
        levels = await current_power_levels(room)
        # Before anybody is asked: an identity server writes to the address at once.
        if levels.of_user(sender) < levels.invite:
            raise Forbidden("You may not invite others into this room")
        target = await self._servers.find_user(id_server, token, medium, address)
        if target is not None:
            await self._members.invite(room, sender, target)
            return
        stored = await self._servers.store_invite(
            id_server, token, await self._description(room, sender, medium, address)
        )
        state_key, content = _announcement(stored)
        await self._writer.send(
            room, Draft(sender, "m.room.third_party_invite", content, state_key)
        )

    async def _description(
        self, room: Room, sender: UserID, medium: str, address: str
    ) -> JsonObject:
        """Return what the identity server writes to the address about room and sender."""
        described: JsonObject = {
            "medium": medium, "address": address, "room_id": room.room_id, "sender": sender
        }  # fmt: skip
        for kind, key, name in (
            ("m.room.name", "name", "room_name"),
            ("m.room.avatar", "url", "room_avatar_url"),
            ("m.room.canonical_alias", "alias", "room_alias"),
            ("m.room.join_rules", "join_rule", "room_join_rules"),
            ("m.room.create", "type", "room_type"),
        ):
            event = await room.state_event(kind)
            value = None if event is None else event.pdu.content.get(key)
            if isinstance(value, str):
                described[name] = value
        profile = await self._profiles.member_profile(sender)
        for key, name in (
            ("displayname", "sender_display_name"),
            ("avatar_url", "sender_avatar_url"),
        ):
            if key in profile:
                described[name] = profile[key]
        return described

    async def accept_binding(self, user_id: str, invites: list[JsonObject]) -> None:
        """Turn what was kept for an address into invitations of the user who has it now.

        Anybody may call this; every invitation proves itself by the identity server's signature.
        One that proves nothing, or is for a room that is not here, holds up none of the others;
        the refusal is answered when all have had their turn.
        """
        if len(invites) > MAX_INVITES:
            raise BadJson(f"At most {MAX_INVITES} invitations at a time")
        failure: MatrixError | None = None
        for invite in invites:
            try:
                await self._exchange(user_id, invite)
            except MatrixError as error:
                log.info("a kept invitation could not be used", extra={"why": error.errcode})
                failure = error
        if failure is not None:
            raise failure

    async def _exchange(self, user_id: str, invite: JsonObject) -> None:
        signed, room_id = invite.get("signed"), invite.get("room_id")
        if not isinstance(signed, dict) or not isinstance(room_id, str):
            raise Forbidden("The invitation is not signed")
        if signed.get("mxid") != user_id:
            raise Forbidden("The invitation is for somebody else")
        room = await self._handshakes.find_room_here(room_id)
        if room is None:
            await self._have_exchanged(UserID(user_id), invite, signed)
            return
        target = UserID(user_id)
        content = await self._members.invite_content(target, reason=None, is_direct=False)
        await self._writer.send(room, await self._proven(room, target, signed, content))

    async def _have_exchanged(self, target: UserID, invite: JsonObject, signed: JsonObject) -> None:
        """Have the server of whoever invited make the invitation; it comes from there."""
        sender, room_id = str(invite.get("sender")), RoomID(str(invite.get("room_id")))
        server = server_name_of(sender)
        if server is None or self._members.is_ours(UserID(sender)):
            raise Forbidden("The invitation is for a room that is not here")
        if not self._members.is_ours(target):
            # Nobody else's server would take it, nor is it ours to ask for.
            raise Forbidden("The invitation is for a user of another server")
        event: JsonObject = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": sender,
            "state_key": target,
            "content": {
                "membership": "invite",
                "third_party_invite": {"display_name": "", "signed": _proof(signed)},
            },
        }
        try:
            await self._requests.exchange_third_party_invite(server, room_id, event)
        except RemoteFailure as failure:
            raise told_to_client(failure) from None

    async def exchange(self, origin: ServerName, room_id: str, event: JsonObject) -> None:
        """Invite a user of `origin`, who has proven to have the address that was invited."""
        room = await self._access.access_resident_room(origin, room_id)
        content, target = event.get("content"), event.get("state_key")
        invite = content.get("third_party_invite") if isinstance(content, dict) else None
        signed = invite.get("signed") if isinstance(invite, dict) else None
        if (
            event.get("type") != "m.room.member"
            or event.get("room_id") != room_id
            or not isinstance(content, dict)
            or content.get("membership") != "invite"
            or not isinstance(signed, dict)
        ):
            raise BadJson("The event is not a third party's invitation")
        user_id = parse_user_id(target if isinstance(target, str) else "")
        if server_name_of(user_id) != origin or signed.get("mxid") != user_id:
            raise Forbidden("The invitation is for somebody else")
        draft = await self._proven(room, user_id, signed, {"membership": "invite"})
        if not self._members.is_ours(draft.sender):
            raise Forbidden("Somebody of another server has invited")
        await self._handshakes.inviting.invite(room, draft)

    async def _proven(
        self, room: Room, target: UserID, signed: JsonObject, content: JsonObject
    ) -> Draft:
        """Return the invitation that `signed` proves, or answer M_FORBIDDEN."""
        token = signed.get("token")
        if not isinstance(token, str):
            raise Forbidden("The invitation is not signed")
        announced = await room.state_event("m.room.third_party_invite", token)
        if announced is None or not await self._is_proven(signed, announced.pdu.content):
            raise Forbidden("No valid key signed the invitation")
        content["third_party_invite"] = {
            "display_name": announced.pdu.content.get("display_name", ""),
            "signed": _proof(signed),
        }
        return Draft(UserID(announced.pdu.sender), "m.room.member", content, target)

    async def _is_proven(self, signed: JsonObject, announced: JsonObject) -> bool:
        """Whether a key of the announcement signed this that its server still stands by."""
        listed = announced.get("public_keys")
        entries = [announced, *(listed if isinstance(listed, list) else [])]
        for entry in entries[:MAX_KEYS]:
            key = entry.get("public_key") if isinstance(entry, dict) else None
            if not isinstance(key, str) or not is_signed_by_any(signed, [key]):
                continue
            url = entry.get("key_validity_url")
            if isinstance(url, str) and await self._servers.is_key_valid(url, key):
                return True
        return False


def _proof(signed: JsonObject) -> JsonObject:
    return {name: signed.get(name) for name in ("mxid", "signatures", "token")}


def _announcement(stored: JsonObject) -> tuple[str, JsonObject]:
    """Return state key and content of the event that announces a kept invitation."""
    token, keys, name = stored.get("token"), stored.get("public_keys"), stored.get("display_name")
    if (
        not isinstance(token, str)
        or not 0 < len(token) <= _MAX_TOKEN_LENGTH
        or not isinstance(name, str)
        or not isinstance(keys, list)
        or not keys
    ):
        raise MatrixError(502, "M_UNKNOWN", "The identity server's answer is not usable")
    listed = [
        {"public_key": key.get("public_key"), "key_validity_url": key.get("key_validity_url")}
        for key in keys
        if isinstance(key, dict)
    ]
    if len(listed) != len(keys) or not all(isinstance(v, str) for e in listed for v in e.values()):
        raise MatrixError(502, "M_UNKNOWN", "The identity server's answer is not usable")
    # The first also at the top: that is where it stood before there could be several.
    return token, {"display_name": name, "public_keys": listed, **listed[0]}
