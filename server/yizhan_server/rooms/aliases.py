"""Room aliases and the public room directory's list of rooms.

Spec: client-server API, "Room aliases", "Listing rooms".
"""

from __future__ import annotations

from typing import Protocol

from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.federation_client.remembered import Ask
from yizhan_server.protocol.errors import Forbidden, InvalidParam, MatrixError, NotFound
from yizhan_server.protocol.identifiers import (
    RoomAlias,
    RoomID,
    ServerName,
    UserID,
    parse_room_alias,
    server_name_of,
)
from yizhan_server.rooms.power import current_power_levels
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.remote_aliases import AliasTarget, RemoteAliases
from yizhan_server.rooms.room import Room
from yizhan_server.storage import aliases as stored_aliases
from yizhan_server.storage import room_servers as stored_servers


class AliasSource(Protocol):
    """What application services do about aliases."""

    def check_alias(self, alias: str, service_id: str | None) -> None:
        """Answer M_EXCLUSIVE unless this service (None: a person) may give or take this alias."""
        ...

    async def offer_alias(self, alias: str) -> bool:
        """Let whoever has this alias make its room now; whether one says that it is there."""
        ...


class Aliases:
    """Names for rooms, and which rooms are listed."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        source: AliasSource,
        remote: RemoteAliases,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._source = source
        self._remote = remote
        self._server_name = server_name

    async def check_new(self, localpart: str, *, service: str | None = None) -> RoomAlias:
        """Return the alias with this localpart, or answer why it cannot be given.

        `service` is the id of the application service that asks for it.
        """
        if not localpart or ":" in localpart or "\0" in localpart:
            raise InvalidParam("The alias is not valid")
        alias = parse_room_alias(f"#{localpart}:{self._server_name}")
        self._source.check_alias(alias, service)
        if await stored_aliases.find_alias(self._db, alias) is not None:
            raise MatrixError(400, "M_ROOM_IN_USE", "The alias is taken")
        return alias

    async def locate(self, alias: str, ask: Ask) -> AliasTarget:
        """Return where an alias of whatever server leads, or answer M_NOT_FOUND.

        `ask` is called before another server is asked.
        """
        parsed = parse_room_alias(alias)
        if server_name_of(parsed) != self._server_name:
            return await self._remote.locate(parsed, ask)
        room_id = await self.resolve(alias)
        room = await self._rooms.get(room_id)
        servers = await stored_servers.largest_servers(self._db, room.nid)
        # Oneself first: the alias came from here, and a join that ends here is the shortest.
        own = [self._server_name] if self._server_name in servers or not servers else []
        others = [ServerName(each) for each in servers if each != self._server_name]
        return AliasTarget(room_id, [*own, *others])

    async def resolve(self, alias: str) -> RoomID:
        """Return the room that an alias of this server names, or answer M_NOT_FOUND."""
        parse_room_alias(alias)
        found = await stored_aliases.find_alias(self._db, alias)
        if found is None and await self._source.offer_alias(alias):
            found = await stored_aliases.find_alias(self._db, alias)
        if found is None:
            raise NotFound("There is no room with this alias")
        return RoomID(found.room_id)

    async def add(
        self, alias: str, room: Room, creator: UserID, *, service: str | None = None
    ) -> None:
        """Give a room an alias of this server; 409 when it is taken."""
        if server_name_of(parse_room_alias(alias)) != self._server_name:
            raise InvalidParam("Only aliases of this server can be given here")
        self._source.check_alias(alias, service)
        tx = Transaction()
        stored_aliases.append_alias(tx, alias, room.nid, creator)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise MatrixError(409, "M_UNKNOWN", "The alias is taken") from None

    async def remove(
        self, alias: str, user_id: UserID, *, is_admin: bool, service: str | None = None
    ) -> Room:
        """Take an alias away: its creator, the server's administrators and the room's may.

        Returns the room.
        """
        parse_room_alias(alias)
        found = await stored_aliases.find_alias(self._db, alias)
        if found is None:
            raise NotFound("There is no room with this alias")
        room = await self._rooms.get(found.room_id)
        if not is_admin:
            self._source.check_alias(alias, service)
        # A service has full control of the aliases in its namespaces.
        if found.creator != user_id and not is_admin and service is None:
            await _require_alias_power(room, user_id)
        tx = Transaction()
        stored_aliases.delete_alias(tx, alias)
        await self._db.commit(tx)
        return room

    async def of_room(self, room: Room) -> list[str]:
        """Return the room's aliases on this server."""
        return await stored_aliases.aliases_of_room(self._db, room.nid)

    async def is_published(self, room: Room) -> bool:
        """Whether the room directory lists the room."""
        return await stored_aliases.is_published(self._db, room.nid)

    async def publish(self, room: Room) -> None:
        """List the room in the directory."""
        tx = Transaction()
        stored_aliases.append_published(tx, room.nid)
        await self._db.commit(tx)

    async def set_published(
        self, room: Room, user_id: UserID, *, published: bool, is_admin: bool
    ) -> None:
        """List the room or not, on behalf of somebody who has the power to name it."""
        if not is_admin:
            await _require_alias_power(room, user_id)
        tx = Transaction()
        if published:
            stored_aliases.append_published(tx, room.nid)
        else:
            stored_aliases.delete_published(tx, room.nid)
        await self._db.commit(tx)


async def _require_alias_power(room: Room, user_id: UserID) -> None:
    if await room.membership(user_id) != "join":
        raise Forbidden("You are not in this room")
    levels = await current_power_levels(room)
    if levels.of_user(user_id) < levels.to_send("m.room.canonical_alias", is_state=True):
        raise Forbidden("You do not have the power to do this")
