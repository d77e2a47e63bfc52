"""Which version a room is of that this server is not in.

Whoever invites, or lets in, says so; anybody can, of any room. The first word holds, until the
event that made the room proves another: the room's ID is its hash, or names the server that has
signed it.

Spec: room versions; server-server API, "Inviting to a room" (`invite_room_state`).
"""

from __future__ import annotations

from collections.abc import Sequence

from yizhan_server.federation_client.answers import RawPdu
from yizhan_server.protocol.auth_rules import check_auth
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.identifiers import RoomID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.incoming.adoption import Adoption
from yizhan_server.rooms.incoming.judgement import CREATE
from yizhan_server.rooms.incoming.verification import Verification
from yizhan_server.rooms.room import Room


class Versions:
    """Finds rooms by their ID and what is said of their version."""

    def __init__(self, verification: Verification, adoption: Adoption) -> None:
        self._verification = verification
        self._adoption = adoption

    async def find_room(
        self, room_id: RoomID, version: RoomVersion, told: Sequence[RawPdu | JsonObject]
    ) -> Room | None:
        """Return the room, known from now on; None if it is known to be of another version.

        `told` is what came with that word, perhaps the event that made the room.
        """
        room = await self._adoption.known_room(room_id, version)
        if room.version is version:
            return room
        if room.committed.extremities or not await self._is_proven(room_id, version, told):
            return None
        return room if await self._adoption.correct_version(room, version) else None

    async def _is_proven(
        self, room_id: RoomID, version: RoomVersion, told: Sequence[RawPdu | JsonObject]
    ) -> bool:
        name = CREATE[0].encode()
        likely = [raw for raw in told if not isinstance(raw, RawPdu) or name in bytes(raw)]
        parsed = await self._verification.parsed(likely, version, room_id)
        creates = [pdu for pdu in parsed if pdu.is_state and pdu.key == CREATE][:1]
        for pdu in await self._verification.signed(creates, version):
            try:
                check_auth(pdu, {}, version)
            except AuthRuleRejection:
                return False
            return bool(pdu.content.get("room_version", "1") == version.identifier)
        return False
