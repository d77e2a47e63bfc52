"""Devices that receive keys for somebody who is signed in nowhere (MSC3814).

A client leaves such a device with the server: its public keys like any device's, and its private
state encrypted. Whoever signs in later takes it over, reads what was sent to it, and ends it. It
has no access token, and there is at most one per user.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from yizhan_database import Database, Transaction
from yizhan_server.accounts.sessions import check_device_id, fit_device_name
from yizhan_server.clock import Clock
from yizhan_server.e2ee.keys import Keys
from yizhan_server.e2ee.to_device import ToDevice
from yizhan_server.flows.logout import Logout
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.errors import InvalidParam, MatrixError, MissingParam, NotFound
from yizhan_server.protocol.identifiers import DeviceID, UserID
from yizhan_server.storage import dehydrated_devices as storage
from yizhan_server.storage import devices as stored_devices
from yizhan_server.streams import Stream

KEYS = ("device_keys", "one_time_keys", "fallback_keys")
MAX_DATA_BYTES = 65_536

_TOKEN = re.compile(r"d([0-9]{1,17})", re.ASCII)


class Dehydration:
    """Keeps one dehydrated device per user."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        clock: Clock,
        keys: Keys,
        to_device: ToDevice,
        logout: Logout,
    ) -> None:
        self._db = db
        self._stream = stream
        self._clock = clock
        self._keys = keys
        self._to_device = to_device
        self._logout = logout

    async def put(self, user_id: UserID, body: dict[str, Any]) -> DeviceID:
        """Keep a device with its keys, in place of the one before; return its id."""
        wanted, data = body.get("device_id"), body.get("device_data")
        if not isinstance(wanted, str) or not isinstance(data, dict) or "device_keys" not in body:
            raise MissingParam("'device_id', 'device_data' and 'device_keys' are needed")
        device_id = check_device_id(wanted)
        encoded = encode_canonical(data)
        if len(encoded) > MAX_DATA_BYTES:
            raise InvalidParam(f"'device_data' is larger than {MAX_DATA_BYTES} bytes")
        if await stored_devices.find_device(self._db, user_id, device_id) is not None:
            raise InvalidParam("There is a device with this id")
        name = body.get("initial_device_display_name")
        tx = Transaction()
        stored_devices.insert_device(
            tx, user_id, device_id,
            fit_device_name(name if isinstance(name, str) else None), self._clock.now_ms(),
        )  # fmt: skip
        await self._db.commit(tx)
        try:
            await self._keys.upload(
                user_id, device_id, {key: body[key] for key in KEYS if key in body}
            )
        except MatrixError:
            await self._logout.end(user_id, [device_id])
            raise
        before = await storage.find_dehydrated_device(self._db, user_id)
        tx = Transaction()
        storage.replace_dehydrated_device(tx, user_id, device_id, encoded)
        await self._db.commit(tx)
        if before is not None:
            await self._logout.end(user_id, [before[0]])
        return device_id

    async def get(self, user_id: UserID) -> dict[str, Any]:
        """Return the user's dehydrated device, or answer M_NOT_FOUND."""
        device_id, data = await self._find(user_id)
        return {"device_id": device_id, "device_data": orjson.Fragment(data)}

    async def end(self, user_id: UserID) -> DeviceID:
        """End the user's dehydrated device and return its id."""
        device_id, _ = await self._find(user_id)
        tx = Transaction()
        storage.delete_dehydrated_device(tx, user_id)
        await self._db.commit(tx)
        await self._logout.end(user_id, [device_id])
        return device_id

    async def messages(self, user_id: UserID, device_id: str, next_batch: object) -> dict[str, Any]:
        """Return what was sent to the device; a token proves that what came before was received."""
        if (await self._find(user_id))[0] != device_id:
            raise NotFound("This is not your dehydrated device")
        if next_batch is not None:
            token = _TOKEN.fullmatch(next_batch) if isinstance(next_batch, str) else None
            if token is None:
                raise InvalidParam("'next_batch' is not a token of this endpoint")
            await self._to_device.acknowledge(user_id, device_id, int(token[1]))
        upto = self._stream.position
        events, last = await self._to_device.pending(user_id, device_id, upto)
        return {
            "events": [orjson.Fragment(event) for event in events],
            "next_batch": f"d{upto if last is None else last}",
        }

    async def _find(self, user_id: UserID) -> tuple[DeviceID, bytes]:
        found = await storage.find_dehydrated_device(self._db, user_id)
        if found is None:
            raise NotFound("You have no dehydrated device")
        return found
