"""Answers /keys/query: the identity keys of people's devices and their cross-signing keys.

A handful of statements, however many users of this server are asked for; for those of others see
`remote_keys.py`. What a requester may not see is never
read: other people's signatures of master keys stay with whoever made them.

Spec: client-server API, "Key and signature security".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from yizhan_server.e2ee.remote_keys import Wanted, portions
from yizhan_server.e2ee.signatures import cross_signing_public_key, load_key
from yizhan_server.protocol.errors import BadJson
from yizhan_server.protocol.identifiers import ServerName, parse_user_id, server_name_of
from yizhan_server.storage import e2ee_keys as storage
from yizhan_server.storage import remote_devices as stored_remote

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.e2ee.remote_keys import RemoteKeys
    from yizhan_server.protocol.identifiers import UserID

JsonObject = dict[str, Any]


class KeyQueries:
    """Looks keys up."""

    def __init__(self, db: Database, remote: RemoteKeys, *, server_name: ServerName) -> None:
        self._db = db
        self._remote = remote
        self._server_name = server_name

    async def query(
        self, requester: UserID | None, wanted: JsonObject, timeout_ms: int = 0
    ) -> JsonObject:
        """Return the /keys/query answer for user -> device ids (none: all devices).

        Without a requester it is for another server, which is told no names of devices. Other
        servers are waited for so long.

        Answers M_BAD_JSON or InvalidIdentifier's M_INVALID_PARAM.
        """
        local: Wanted = {}
        remote: Wanted = {}
        for user_id, device_ids in wanted.items():
            server = server_name_of(parse_user_id(user_id))
            if not isinstance(device_ids, list) or not all(
                isinstance(device_id, str) for device_id in device_ids
            ):
                raise BadJson("'device_keys' maps users to lists of device ids")
            if server == self._server_name:
                local[user_id] = set(device_ids)
            else:
                remote[user_id] = set(device_ids)
        answer: JsonObject = {
            "device_keys": {user_id: {} for user_id in local},
            "master_keys": {},
            "self_signing_keys": {},
            "user_signing_keys": {},
            "failures": {},
        }
        if remote:
            await self._add_remote(answer, requester, remote, timeout_ms)
        for user_ids in portions(local):
            await self._add_devices(answer, local, user_ids, with_names=requester is not None)
            await self._add_cross_signing(answer, requester, user_ids)
            await asyncio.sleep(0)
        return answer

    async def _add_remote(
        self, answer: JsonObject, requester: UserID | None, wanted: Wanted, timeout_ms: int
    ) -> None:
        """Add other servers' users: what is kept of them, be it old, and what was asked for."""
        kept, found = await self._remote.query(wanted, timeout_ms)
        for name, part in found.items():
            answer[name] |= part
        for user_ids in portions(sorted(kept)):
            for user_id in user_ids:
                answer["device_keys"][user_id] = {}
            for user_id, device_id, device in await stored_remote.devices_of_users(
                self._db, user_ids
            ):
                if not wanted[user_id] or device_id in wanted[user_id]:
                    shown = _shown(device.keys, device.display_name)
                    answer["device_keys"][user_id][device_id] = shown
            await self._add_cross_signing(answer, requester, user_ids)

    async def _add_devices(
        self,
        answer: JsonObject,
        wanted: dict[str, set[str]],
        user_ids: list[str],
        *,
        with_names: bool,
    ) -> None:
        found = await storage.find_devices_of_users(self._db, user_ids)
        for user_id, device_id, keys, display_name in found:
            if wanted[user_id] and device_id not in wanted[user_id]:
                continue
            shown = _shown(keys, display_name if with_names else None)
            answer["device_keys"][user_id][device_id] = shown

    async def _add_cross_signing(
        self, answer: JsonObject, requester: UserID | None, user_ids: list[str]
    ) -> None:
        identities = await storage.find_cross_signing(self._db, user_ids)
        if not identities:
            return
        for user_id, identity in identities.items():
            answer["master_keys"][user_id] = orjson.Fragment(identity.master)
            if identity.self_signing is not None:
                answer["self_signing_keys"][user_id] = orjson.Fragment(identity.self_signing)
            if identity.user_signing is not None and user_id == requester:
                answer["user_signing_keys"][user_id] = orjson.Fragment(identity.user_signing)
        if requester is None:
            return
        signatures = await storage.find_master_signatures(self._db, requester, identities.keys())
        for user_id, signer_key, signed_key, signature in signatures:
            master = load_key(identities[user_id].master)
            if cross_signing_public_key(master) == signed_key:
                own = master.setdefault("signatures", {}).setdefault(requester, {})
                own[f"ed25519:{signer_key}"] = signature
                answer["master_keys"][user_id] = master


def _shown(keys: bytes, display_name: str | None) -> orjson.Fragment:
    """Return a device's keys, which are stored without `unsigned` and never empty."""
    unsigned = {} if display_name is None else {"device_display_name": display_name}
    return orjson.Fragment(b'%b,"unsigned":%b}' % (keys[:-1], orjson.dumps(unsigned)))
