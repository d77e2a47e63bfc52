"""What the memberships of our own users need of other servers, in one hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from yizhan_server.federation_client.peers import Peers
from yizhan_server.protocol.errors import Forbidden, MatrixError, NotFound
from yizhan_server.protocol.identifiers import RoomID, ServerName, UserID, server_name_of
from yizhan_server.rooms.handshakes.inviting import Inviting
from yizhan_server.rooms.handshakes.joining import Joining
from yizhan_server.rooms.handshakes.out_of_band import OutOfBand
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.server_access import ServerAccess


class Handshakes:
    """Chooses which servers to ask, and keeps the answers apart from what is here."""

    def __init__(
        self,
        rooms: Rooms,
        access: ServerAccess,
        peers: Peers,
        joining: Joining,
        inviting: Inviting,
        out_of_band: OutOfBand,
        server_name: ServerName,
    ) -> None:
        self._rooms = rooms
        self._access = access
        self._peers = peers
        self._joining = joining
        self.inviting = inviting
        self._out_of_band = out_of_band
        self._server_name = server_name

    async def find_room_here(self, room_id: str) -> Room | None:
        """Return a room that somebody of this server is in."""
        return await self._access.find_here(room_id)

    def check_peer(self, user_id: UserID) -> None:
        """Answer M_FORBIDDEN for a user of a server that this one does not speak with."""
        server = server_name_of(user_id)
        if server is None or not self._peers.is_allowed(server):
            raise Forbidden("Federation with the server of this user is closed")

    async def join(
        self, user_id: UserID, room_id: str, via: Sequence[ServerName], content: Mapping[str, Any]
    ) -> Room | None:
        """Join a room through other servers; None if it has come here meanwhile."""
        servers = await self._servers(user_id, room_id, via)
        async with self._joining.lock(room_id):
            if await self.find_room_here(room_id) is not None:
                return None
            return await self._joining.join(user_id, RoomID(room_id), servers, content)

    def is_being_joined(self, room_id: str) -> bool:
        """Whether a room is being joined through other servers, or left."""
        return self._joining.lock(room_id).locked()

    async def until_joined(self, room_id: str) -> None:
        """Wait for the end of that, whichever it is."""
        async with self._joining.lock(room_id):
            pass

    async def join_elsewhere(
        self, room: Room, user_id: UserID, content: Mapping[str, Any], why: MatrixError
    ) -> Room:
        """Join a room of ours with the consent of another server; `why` nobody here gives it."""
        if len(await self._access.servers_in(room)) < 2:
            raise why
        servers = await self._servers(user_id, room.room_id, ())
        async with self._joining.lock(room.room_id):
            return await self._joining.join_with_consent(user_id, room, servers, content)

    async def knock(
        self, user_id: UserID, room_id: str, via: Sequence[ServerName], content: Mapping[str, Any]
    ) -> Room:
        """Knock on a room through other servers."""
        servers = await self._servers(user_id, room_id, via)
        async with self._joining.lock(room_id):
            return await self._joining.knock(user_id, RoomID(room_id), servers, content)

    async def decline(self, user_id: UserID, room: Room, content: Mapping[str, Any]) -> bool:
        """Decline an invitation, or take back a knock, of a room that this server is not in.

        False, and nothing done, if the room has come here meanwhile: a join may be under way that
        its servers know of already.
        """
        async with self._joining.lock(room.room_id):
            if await self.find_room_here(room.room_id) is not None:
                return False
            await self._decline(user_id, room, content)
            return True

    async def _decline(self, user_id: UserID, room: Room, content: Mapping[str, Any]) -> None:
        membership = await self._out_of_band.membership(room, user_id)
        if membership is None or membership.membership in ("join", "ban"):
            raise Forbidden("You are not in this room")
        if membership.membership == "leave":
            return
        event = await self._out_of_band.event_of(room, membership)
        assert event is not None, "a membership's event is stored"
        servers = await self._servers(user_id, room.room_id, ())
        await self._joining.decline(user_id, room, servers, content, event)

    async def _servers(
        self, user_id: UserID, room_id: str, via: Sequence[ServerName]
    ) -> list[ServerName]:
        """Return the servers to ask: the inviter's, those named, the one that made the room."""
        servers: list[ServerName | None] = []
        room = await self._rooms.find(room_id)
        if room is not None:
            membership = await self._out_of_band.membership(room, user_id)
            if membership is not None:
                servers.append(server_name_of(membership.sender))
        servers += via
        if ":" in room_id:
            servers.append(server_name_of(room_id))
        if room is not None:
            servers += [ServerName(each) for each in await self._access.servers_in(room)]
        known = list(
            dict.fromkeys(each for each in servers if each not in (None, self._server_name))
        )
        allowed = [each for each in known if self._peers.is_allowed(each)]
        if known and not allowed:
            raise Forbidden("Federation with the servers of this room is closed")
        if not allowed:
            raise NotFound("This server does not know the room")
        return allowed
