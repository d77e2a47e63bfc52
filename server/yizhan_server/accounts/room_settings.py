"""What a person has set for a room, carried over to the room that replaces it.

Spec: client-server API, "Room Upgrades", the end of "Server behaviour".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson

from yizhan_server.protocol.errors import MatrixError, NotFound

if TYPE_CHECKING:
    from yizhan_server.accounts.account_data import AccountData
    from yizhan_server.accounts.push_rules import PushRules
    from yizhan_server.protocol.identifiers import RoomID, UserID

log = logging.getLogger(__name__)

DIRECT = "m.direct"


class RoomSettings:
    """Tags, the mark of a direct chat, and the push rules of a room."""

    def __init__(self, account_data: AccountData, push_rules: PushRules) -> None:
        self._account_data = account_data
        self._push_rules = push_rules

    async def copy_room_settings(self, user_id: UserID, old: RoomID, new: RoomID) -> None:
        """Give `new` what the user set for `old`. A part that fails is left out."""
        for copy in (self._copy_tags, self._copy_direct, self._copy_push_rules):
            try:
                await copy(user_id, old, new)
            except MatrixError as error:
                log.info("a room setting was not copied", extra={"why": error.errcode})

    async def _copy_tags(self, user_id: UserID, old: RoomID, new: RoomID) -> None:
        for tag, content in (await self._account_data.get_tags(user_id, old)).items():
            # Exactly one room of a user is that of the server's notices.
            if tag != "m.server_notice":
                await self._account_data.set_tag(user_id, new, tag, content)

    async def _copy_direct(self, user_id: UserID, old: RoomID, new: RoomID) -> None:
        try:
            direct = orjson.loads(await self._account_data.get(user_id, DIRECT))
        except NotFound:
            return
        concerned = [
            rooms
            for rooms in direct.values()
            if isinstance(rooms, list) and old in rooms and new not in rooms
        ]
        for rooms in concerned:
            rooms.append(new)
        if concerned:
            await self._account_data.set(user_id, DIRECT, direct)

    async def _copy_push_rules(self, user_id: UserID, old: RoomID, new: RoomID) -> None:
        ruleset = await self._push_rules.get(user_id)
        for rule in ruleset.get("room", ()):
            if rule["rule_id"] == old:
                body = {"actions": rule["actions"]}
                await self._push_rules.put_rule(user_id, "room", new, body, before=None, after=None)
