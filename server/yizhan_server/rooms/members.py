"""What people do to memberships: join, invite, knock, leave, kick, ban.

Each action is one m.room.member event of our own user; the authorisation rules decide. What
needs another server, because this one is not in the room or the target is not of this one, goes
through `handshakes`.

Spec: client-server API, "Room membership", "Restricted rooms".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.accounts.invite_permission import blocks_invites
from yizhan_server.protocol.errors import Forbidden, MatrixError, NotFound
from yizhan_server.protocol.identifiers import EventID, ServerName, UserID, server_name_of
from yizhan_server.rooms.blocking import check_not_blocked
from yizhan_server.rooms.handshakes.handshakes import Handshakes
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.restricted_joins import AUTHORISER, find_authoriser
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.succession import Succession
from yizhan_server.rooms.writer import Draft, EventWriter
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.streams import Stream

log = logging.getLogger(__name__)

UNABLE_HERE = ("M_UNABLE_TO_AUTHORISE_JOIN", "M_UNABLE_TO_GRANT_JOIN")


class MemberProfiles(Protocol):
    """What a member event says of a person beside the membership."""

    async def member_profile(self, user_id: UserID) -> Mapping[str, str]:
        """Return `displayname` and `avatar_url`, those that are set."""
        ...

    async def is_account(self, user_id: UserID) -> bool:
        """Whether this server has the account, in use."""
        ...


class UserSource(Protocol):
    """What application services do about users whom nobody has seen yet."""

    async def offer_user(self, user_id: str) -> bool:
        """Let whoever has this user register it now; whether one says that it is there."""
        ...


class Members:
    """Changes memberships on behalf of users of this server."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        rooms: Rooms,
        writer: EventWriter,
        profiles: MemberProfiles,
        succession: Succession,
        source: UserSource,
        handshakes: Handshakes,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._stream = stream
        self._rooms = rooms
        self._writer = writer
        self._profiles = profiles
        self._succession = succession
        self._source = source
        self._handshakes = handshakes
        self._server_name = server_name

    async def join(
        self,
        user_id: UserID,
        room_id: str,
        reason: str | None,
        extra: Mapping[str, Any],
        via: Sequence[ServerName] = (),
    ) -> Room:
        """Join a room; joining again changes nothing. `via` are servers that may be in it."""
        content = {**extra, **await self._content(user_id, "join", reason)}
        room = await self._handshakes.find_room_here(room_id)
        if room is None:
            await check_not_blocked(self._db, room_id)
            room = await self._handshakes.join(user_id, room_id, via, content)
        if room is None:
            # Somebody else of this server was joining it meanwhile.
            room = await self._rooms.get(room_id)
        room = await self._join_here(room, user_id, content)
        await self._succession.follow_into(room, user_id)
        return room

    async def _join_here(self, room: Room, user_id: UserID, content: dict[str, Any]) -> Room:
        """Join a room that this server is in."""
        membership = await room.membership(user_id)
        if membership == "join":
            return room
        await check_not_blocked(self._db, room.room_id)
        try:
            content = await self._authorised(room, user_id, content)
        except MatrixError as error:
            if error.errcode not in UNABLE_HERE:
                raise
            # Another server in the room may know the user as a member of the right one.
            return await self._handshakes.join_elsewhere(room, user_id, content, error)
        await self._writer.send(room, Draft(user_id, "m.room.member", content, user_id))
        return room

    async def own_content(
        self, user_id: UserID, room_id: str, content: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the content of one's own member event as a client may send it.

        Who lets the user into a restricted room is not for the user to say: this server's
        signature would say that it is so.
        """
        room = await self._handshakes.find_room_here(room_id)
        if room is None:
            raise Forbidden("This server is not in the room")
        kept = {key: value for key, value in content.items() if key != AUTHORISER}
        if kept.get("membership") != "join":
            return kept
        if await room.membership(user_id) != "join":
            await check_not_blocked(self._db, room_id)
        return await self._authorised(room, user_id, kept)

    async def _authorised(
        self, room: Room, user_id: UserID, content: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the content of a join with who lets the user in, where somebody has to."""
        if await room.membership(user_id) in ("join", "invite"):
            return content
        authoriser = await find_authoriser(self._handshakes.find_room_here, room, user_id)
        return content if authoriser is None else {**content, AUTHORISER: authoriser}

    async def invite(
        self,
        room: Room,
        sender: UserID,
        target: UserID,
        *,
        reason: str | None = None,
        is_direct: bool = False,
    ) -> None:
        """Invite a user, of whatever server."""
        await check_not_blocked(self._db, room.room_id)
        content = await self.invite_content(target, reason=reason, is_direct=is_direct)
        draft = Draft(sender, "m.room.member", content, target)
        if self.is_ours(target):
            await self._writer.send(room, draft)
        elif await room.membership(target) != "invite":
            await self._handshakes.inviting.invite(room, draft)

    async def invite_with(self, room: Room, draft: Draft) -> EventID:
        """Invite a user, who has been found invitable, with a member event of the client's own."""
        await check_not_blocked(self._db, room.room_id)
        if self.is_ours(UserID(draft.state_key or "")):
            return await self._writer.send(room, draft)
        return await self._handshakes.inviting.invite(room, draft)

    def is_ours(self, user_id: UserID) -> bool:
        """Whether a user is of this server."""
        return server_name_of(user_id) == self._server_name

    async def invite_content(
        self, target: UserID, *, reason: str | None, is_direct: bool
    ) -> dict[str, Any]:
        """Return the content of an invitation, or answer why `target` cannot be invited."""
        await self.check_invitable(target)
        content = await self._content(target, "invite", reason)
        if is_direct:
            content["is_direct"] = True
        return content

    async def check_invitable(self, target: UserID) -> None:
        """Answer why somebody cannot be invited: another server's, nobody, or not willing."""
        if not self.is_ours(target):
            self._handshakes.check_peer(target)
            return
        known = await self._profiles.is_account(target) or (
            await self._source.offer_user(target) and await self._profiles.is_account(target)
        )
        if not known:
            raise NotFound("There is no such user")
        if await blocks_invites(self._db, target):
            raise MatrixError(403, "M_INVITE_BLOCKED", "This user takes no invitations")

    async def knock(
        self, user_id: UserID, room_id: str, reason: str | None, via: Sequence[ServerName] = ()
    ) -> Room:
        """Ask to be invited. `via` are servers that may be in the room."""
        content = await self._content(user_id, "knock", reason)
        room = await self._handshakes.find_room_here(room_id)
        if room is None:
            await check_not_blocked(self._db, room_id)
            return await self._handshakes.knock(user_id, room_id, via, content)
        if await room.membership(user_id) != "knock":
            await check_not_blocked(self._db, room_id)
            await self._writer.send(room, Draft(user_id, "m.room.member", content, user_id))
        return room

    async def leave(self, user_id: UserID, room_id: str, reason: str | None) -> None:
        """Leave a room, or decline its invitation; leaving again changes nothing."""
        room = await self._rooms.find(room_id)
        content = await self._content(None, "leave", reason)
        if (
            room is not None
            and await self._handshakes.find_room_here(room_id) is None
            and await self._handshakes.decline(user_id, room, content)
        ):
            return
        membership = None if room is None else await room.membership(user_id)
        if room is None or membership is None:
            raise Forbidden("You are not in this room")
        if membership == "leave":
            return
        await self._writer.send(room, Draft(user_id, "m.room.member", content, user_id))

    async def kick(self, room: Room, sender: UserID, target: UserID, reason: str | None) -> None:
        """Remove a member, or withdraw an invitation or a knock."""
        if await room.membership(target) not in ("join", "invite", "knock"):
            raise Forbidden("This user is not in the room")
        content = await self._content(None, "leave", reason)
        await self._writer.send(room, Draft(sender, "m.room.member", content, target))

    async def ban(self, room: Room, sender: UserID, target: UserID, reason: str | None) -> None:
        """Ban a user, member or not."""
        content = await self._content(None, "ban", reason)
        await self._writer.send(room, Draft(sender, "m.room.member", content, target))

    async def unban(self, room: Room, sender: UserID, target: UserID, reason: str | None) -> None:
        """Lift a ban."""
        if await room.membership(target) != "ban":
            raise Forbidden("This user is not banned")
        content = await self._content(None, "leave", reason)
        await self._writer.send(room, Draft(sender, "m.room.member", content, target))

    async def forget(self, user_id: UserID, room_id: str) -> None:
        """Hide a room that the user has left from that user."""
        room = await self._rooms.find(room_id)
        if room is None:
            raise NotFound("You have never been in this room")
        membership = await stored_rooms.find_membership(self._db, room.nid, user_id)
        if membership is None:
            raise NotFound("You have never been in this room")
        if membership.membership not in ("leave", "ban"):
            raise MatrixError(400, "M_UNKNOWN", "You are still in this room; leave it first")
        tx = Transaction()
        stored_rooms.forget_membership(tx, room.nid, user_id)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            # Invited or joined again meanwhile.
            raise MatrixError(400, "M_UNKNOWN", "You are in this room again") from None

    async def replace_own_member_event(self, user_id: UserID) -> None:
        """Carry a changed profile into the member events of the user's rooms."""
        for membership in await stored_rooms.memberships_of_user(self._db, user_id):
            if membership.membership != "join":
                continue
            room = (await self._rooms.by_nid([membership.room]))[membership.room]
            event = await room.state_event("m.room.member", user_id)
            if event is None:
                continue
            kept = {
                key: value
                for key, value in event.pdu.content.items()
                if key not in ("displayname", "avatar_url", AUTHORISER)
            }
            content = {**kept, **await self._profiles.member_profile(user_id)}
            try:
                await self._writer.send(room, Draft(user_id, "m.room.member", content, user_id))
            except MatrixError as error:
                # Banned or removed meanwhile, or its policy server has something against it: that
                # room keeps the name it had.
                log.info(
                    "member event not replaced",
                    extra={"room_id": room.room_id, "why": error.errcode},
                )

    async def leave_all(self, user_id: UserID) -> None:
        """Leave every joined room and refuse every invitation; a room that fails is passed over."""
        for membership in await stored_rooms.memberships_of_user(self._db, user_id):
            if membership.membership not in ("join", "invite", "knock"):
                continue
            room = (await self._rooms.by_nid([membership.room]))[membership.room]
            try:
                await self.leave(user_id, room.room_id, None)
            except MatrixError as error:
                log.warning(
                    "could not leave a room", extra={"room_id": room.room_id, "why": error.errcode}
                )

    async def _content(
        self, subject: UserID | None, membership: str, reason: str | None
    ) -> dict[str, Any]:
        content: dict[str, Any] = {"membership": membership}
        if subject is not None:
            content.update(await self._profiles.member_profile(subject))
        if reason is not None:
            content["reason"] = reason
        return content
