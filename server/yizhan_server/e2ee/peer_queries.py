"""What other servers may know of the keys of this server's users.

The names that people give their devices are not told: no client needs them to encrypt, and they
say what somebody carries.

Spec: server-server API, "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.identifiers import parse_user_id, server_name_of
from yizhan_server.storage import device_changes as stored_changes
from yizhan_server.storage import e2ee_keys as storage

if TYPE_CHECKING:
    from collections.abc import Collection

    from yizhan_database import Database
    from yizhan_server.e2ee.key_queries import JsonObject, KeyQueries
    from yizhan_server.e2ee.keys import Keys
    from yizhan_server.protocol.identifiers import ServerName, UserID

MAX_USERS = 1000
"""In one question of another server."""


class PeerKeyQueries:
    """Answers other servers; only about local users, which is all that they may ask for."""

    def __init__(
        self, db: Database, queries: KeyQueries, keys: Keys, *, server_name: ServerName
    ) -> None:
        self._db = db
        self._queries = queries
        self._keys = keys
        self._server_name = server_name

    async def devices(self, user_id: UserID) -> JsonObject:
        """Return a user's devices; `stream_id` is the position of the last change to them."""
        self._check_local([user_id])
        # Read before the devices: what changes in between is then told again, not lost.
        stream_id = await stored_changes.last_change(self._db, user_id)
        found = await storage.find_devices_of_users(self._db, [user_id])
        answer: JsonObject = {
            "user_id": user_id,
            "stream_id": stream_id,
            "devices": [
                {"device_id": device_id, "keys": orjson.Fragment(keys)}
                for _, device_id, keys, _ in found
            ],
        }
        identity = (await storage.find_cross_signing(self._db, [user_id])).get(user_id)
        if identity is not None:
            answer["master_key"] = orjson.Fragment(identity.master)
            if identity.self_signing is not None:
                answer["self_signing_key"] = orjson.Fragment(identity.self_signing)
        return answer

    async def query(self, wanted: JsonObject) -> JsonObject:
        """Return device and cross-signing keys for user -> device ids (none: all devices)."""
        self._check_local(wanted)
        answer = await self._queries.query(None, wanted)
        return {name: answer[name] for name in ("device_keys", "master_keys", "self_signing_keys")}

    async def claim(self, wanted: JsonObject) -> JsonObject:
        """Take a one-time key for each user -> device -> algorithm."""
        self._check_local(wanted)
        return {"one_time_keys": (await self._keys.claim(wanted))["one_time_keys"]}

    def _check_local(self, user_ids: Collection[str]) -> None:
        if len(user_ids) > MAX_USERS:
            raise InvalidParam(f"At most {MAX_USERS} users are asked for at once")
        if any(server_name_of(parse_user_id(each)) != self._server_name for each in user_ids):
            raise InvalidParam("Only users of this server can be asked for here")
