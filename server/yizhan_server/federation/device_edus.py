"""Changes of devices and cross-signing keys, as they are told to other servers.

They follow from the record of changes, so that nothing is stored for a server that is away; what
it is told when it is back are the keys as they are then. Of somebody who comes into a room of
servers that no longer heard of them, or never did, these are told the last change once more.

Spec: server-server API, "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

import orjson

from yizhan_database import Database
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import ServerName, UserID
from yizhan_server.storage import device_changes as stored_changes
from yizhan_server.storage import devices as stored_devices
from yizhan_server.storage import e2ee_keys as stored_keys
from yizhan_server.storage.device_changes import ChangeKind, OwedChange

NO_SUCH_DEVICE = "cross-signing keys"
"""One that is called so all the same loses nothing: it is in the list that is then asked for."""


class DeviceEdus:
    """Derives EDUs from the record of changes."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def concerned(self, after: int, upto: int) -> set[ServerName]:
        """Return the servers that share a room with somebody whose keys changed, or who came."""
        servers = await stored_changes.servers_concerned(self._db, after, upto)
        return {ServerName(server) for server in servers}

    async def owed(
        self, server: ServerName, after: int, upto: int, limit: int
    ) -> tuple[list[JsonObject], int]:
        """Return the first EDUs of (after, upto], and up to where these are all."""
        changes = await stored_changes.owed_changes(self._db, server, after, upto, limit)
        if len(changes) == limit:
            upto = changes[-1].pos
            # Changes recorded before each had a position of its own may share the last one.
            changes += [
                change
                for change in await stored_changes.owed_changes(
                    self._db, server, upto - 1, upto, limit * 100
                )
                if change not in changes
            ]
        met, upto = await self._met(server, after, upto, limit)
        told = [*met, *((change.pos, change) for change in changes if change.pos <= upto)]
        told.sort(key=lambda each: each[0])
        return [await self._edu(change) for _, change in told], upto

    async def _met(
        self, server: ServerName, after: int, upto: int, limit: int
    ) -> tuple[list[tuple[int, OwedChange]], int]:
        """Return the last changes of those who met the server in (after, upto], and where.

        A server that has no list of theirs, or an old one, finds that it misses what is before.
        """
        meetings = await stored_changes.meetings(self._db, server, after, upto, limit)
        if not meetings:
            return [], upto
        if len(meetings) == limit:
            last = meetings[-1].pos
            meetings = [each for each in meetings if each.pos < last] or meetings
            upto = meetings[-1].pos
        said = await stored_changes.memberships_said(self._db, {each.event for each in meetings})
        met: dict[str, tuple[int, OwedChange]] = {}
        for meeting in meetings:
            user_id = meeting.user_id
            if user_id in met or said.get(meeting.event) != "join":
                continue
            if await self._has_heard(server, user_id, after):
                continue
            change = await stored_changes.last_change_before(self._db, user_id, meeting.pos)
            # What is of this stretch itself is owed anyhow.
            if change is not None and change.pos <= after:
                met[user_id] = (meeting.pos, change)
        return list(met.values()), upto

    async def _has_heard(self, server: ServerName, user_id: str, upto: int) -> bool:
        """Whether a server shared a room with somebody at a position, and shares it still."""
        for room in await stored_changes.rooms_shared(self._db, server, user_id, upto):
            event = await stored_changes.member_event_at(self._db, room, user_id, upto)
            said = await stored_changes.memberships_said(self._db, [event]) if event else {}
            if said.get(event) == "join":
                return True
        return False

    async def _edu(self, change: OwedChange) -> JsonObject:
        if change.kind is ChangeKind.CROSS_SIGNING:
            return await self._signing_keys(change.user_id, change.pos)
        content: JsonObject = {
            "user_id": change.user_id,
            "device_id": change.device_id,
            "stream_id": change.pos,
            "prev_id": [] if change.prev_pos is None else [change.prev_pos],
        }
        user_id = UserID(change.user_id)
        device = await stored_devices.find_device(self._db, user_id, change.device_id)
        keys = await stored_keys.find_device_keys(self._db, change.user_id, change.device_id)
        if device is None:
            content["deleted"] = True
        elif keys is not None and keys.keys is not None:
            content["keys"] = orjson.loads(keys.keys)
        return {"edu_type": "m.device_list_update", "content": content}

    async def _signing_keys(self, user_id: str, pos: int) -> JsonObject:
        identity = (await stored_keys.find_cross_signing(self._db, [user_id])).get(user_id)
        if identity is None:
            return _told_to_ask_anew(user_id, pos)
        content: JsonObject = {"user_id": user_id, "master_key": orjson.loads(identity.master)}
        if identity.self_signing is not None:
            content["self_signing_key"] = orjson.loads(identity.self_signing)
        return {"edu_type": "m.signing_key_update", "content": content}


def _told_to_ask_anew(user_id: str, pos: int) -> JsonObject:
    """Return the EDU for cross-signing keys that are gone, as those of a deactivated account.

    Nothing says that but the whole list, which has none; and what follows nothing has it asked
    for.
    """
    content: JsonObject = {
        "user_id": user_id,
        "device_id": NO_SUCH_DEVICE,
        "stream_id": pos,
        "prev_id": [],
        "deleted": True,
    }
    return {"edu_type": "m.device_list_update", "content": content}
