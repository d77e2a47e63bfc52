"""What the server itself says to people: one room each, which nobody else can speak in.

Spec: client-server API, "Server Notices".
"""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakValueDictionary

from yizhan_config.settings import ServerNotices as NoticeSettings
from yizhan_database import Database, Transaction
from yizhan_server.accounts.account_data import AccountData
from yizhan_server.accounts.accounts import Accounts
from yizhan_server.accounts.profiles import Profiles
from yizhan_server.protocol.errors import InvalidParam, MatrixError, NotFound
from yizhan_server.protocol.identifiers import EventID, UserID
from yizhan_server.rooms.creation import NewRoom, RoomCreation
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.writer import ClientTxn, Draft, EventWriter
from yizhan_server.storage import server_notices as storage

TAG = "m.server_notice"


class ServerNotices:
    """Speaks to people in the name of the server."""

    def __init__(
        self,
        db: Database,
        rooms: Rooms,
        writer: EventWriter,
        creation: RoomCreation,
        accounts: Accounts,
        profiles: Profiles,
        account_data: AccountData,
        settings: NoticeSettings,
    ) -> None:
        self._db = db
        self._rooms = rooms
        self._writer = writer
        self._creation = creation
        self._accounts = accounts
        self._profiles = profiles
        self._account_data = account_data
        self._settings = settings
        self._locks: WeakValueDictionary[UserID, asyncio.Lock] = WeakValueDictionary()

    async def send(
        self,
        user_id: UserID,
        content: dict[str, Any],
        *,
        kind: str = "m.room.message",
        state_key: str | None = None,
        txn: ClientTxn | None = None,
    ) -> EventID:
        """Say something to a user of this server, who is invited if not there; for administrators.

        M_NOT_FOUND for who has no account here, M_INVALID_PARAM while notices are switched off.
        """
        if not self._settings.localpart:
            raise InvalidParam("Server notices are switched off: server_notices.localpart is empty")
        if await self._accounts.find_active(user_id) is None:
            raise NotFound("There is no such user")
        lock = self._locks.setdefault(user_id, asyncio.Lock())
        async with lock:
            sender = await self._sender()
            room = await self._room_of(user_id, sender)
            if await room.membership(user_id) not in ("join", "invite"):
                # No invitation of a person: whoever refuses those is told all the same.
                invite = {"membership": "invite"}
                await self._writer.send(room, Draft(sender, "m.room.member", invite, user_id))
            await self._account_data.set_tag(user_id, room.room_id, TAG, {})
        return await self._writer.send(room, Draft(sender, kind, content, state_key), txn)

    async def check_may_leave(self, user_id: UserID, room_id: str) -> None:
        """Answer M_CANNOT_LEAVE_SERVER_NOTICE_ROOM to who refuses to be told."""
        if await storage.find_notice_room(self._db, user_id) != room_id:
            return
        room = await self._rooms.find(room_id)
        if room is not None and await room.membership(user_id) == "invite":
            raise MatrixError(
                403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", "The invitation to the server's notices "
                "cannot be refused; join, then leave",
            )  # fmt: skip

    async def _sender(self) -> UserID:
        """Return the account that speaks, made when it first does."""
        sender = self._accounts.check_name(self._settings.localpart)
        if await self._accounts.find(sender) is None:
            name = self._settings.display_name
            await self._accounts.create(
                self._settings.localpart, None,
                also=lambda tx, user: self._profiles.record_display_name(tx, user, name),
            )  # fmt: skip
        return sender

    async def _room_of(self, user_id: UserID, sender: UserID) -> Room:
        """Return the user's room of notices, made when it is first needed."""
        room_id = await storage.find_notice_room(self._db, user_id)
        room = None if room_id is None else await self._rooms.find(room_id)
        if room is not None and await room.membership(sender) == "join":
            return room
        made = await self._creation.create(
            sender,
            NewRoom(
                preset="private_chat",
                name=self._settings.room_name,
                power_levels={"users_default": -10, "events_default": 0},
                # The server has no keys; what it says is no secret.
                may_encrypt=False,
            ),
        )
        tx = Transaction()
        storage.replace_notice_room(tx, user_id, made.room_id)
        await self._db.commit(tx)
        return made
