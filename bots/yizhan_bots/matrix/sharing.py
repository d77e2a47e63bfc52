"""Encrypting for a room: who gets the Megolm key, and who is told that they do not.

A key goes to the devices that count (`identities`). All other devices of the room's members
get `m.room_key.withheld` once. A `public` message (only ever in a direct room, and free of
secrets by contract) is encrypted by a session of its own, used once, whose key goes to every
listed device of the person: the readable answer to somebody who is not verified yet.

Sessions live in memory only: after a restart new ones are made, so that no ratchet step can
ever be used twice.

Spec: https://spec.matrix.org/v1.19/client-server-api/#mmegolmv1aes-sha2
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nio.crypto import OutboundGroupSession  # type: ignore[import-untyped]

from yizhan_bots.matrix.http import Homeserver, Refusal, Unreachable, path
from yizhan_bots.matrix.machine import MEGOLM, Machine
from yizhan_bots.matrix.sync import commit_keys, new_txn_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from yizhan_bots.matrix.cross_signing import Device
    from yizhan_bots.matrix.identities import Identities
    from yizhan_bots.matrix.keystore import KeyStore
    from yizhan_bots.matrix.rooms import Room
    from yizhan_database import Database

log = logging.getLogger(__name__)

Json = dict[str, Any]

CLAIM_SECONDS = 15.0
CLAIM_AGAIN_MS = 60_000
_DEVICES_PER_REQUEST = 50


@dataclass(slots=True)
class _Outbound:
    """One Megolm session of ours and which devices (user, device, curve25519) heard of it."""

    session: OutboundGroupSession
    shared: set[tuple[str, str, str]] = field(default_factory=set)
    withheld: set[tuple[str, str, str]] = field(default_factory=set)


class Sharing:
    """Our outbound sessions."""

    def __init__(
        self,
        *,
        database: Database,
        homeserver: Homeserver,
        own_user_id: str,
        machine: Machine,
        keys: KeyStore,
        identities: Identities,
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._homeserver = homeserver
        self._own = own_user_id
        self._machine = machine
        self._keys = keys
        self._identities = identities
        self._now_ms = now_ms
        self._outbound: dict[str, _Outbound] = {}
        self._claimed_ms: dict[tuple[str, str, str], int] = {}

    async def encrypt(
        self, room: Room, event_type: str, content: Json, *, public: bool = False
    ) -> Json:
        """Return the content of the m.room.encrypted event, its key shared before.

        `m.relates_to` stays outside the ciphertext, as the spec demands. Raises `Unreachable`
        or `Refusal`; the same call may then be repeated.
        """
        inner = {k: v for k, v in content.items() if k != "m.relates_to"}
        recipients, others = await self._recipients(room, public=public)
        once = _Outbound(self._new_session(room)) if public else None
        outbound = once or self._current(room, recipients)
        await self._share(room, outbound, recipients, others)
        payload = {"type": event_type, "content": inner}
        encrypted = self._machine.encrypt_to_room(outbound.session, room.room_id, payload)
        if "m.relates_to" in content:
            encrypted["m.relates_to"] = content["m.relates_to"]
        return encrypted

    async def _recipients(self, room: Room, *, public: bool) -> tuple[list[Device], list[Device]]:
        recipients: list[Device] = []
        others: list[Device] = []
        for user_id in sorted(room.present - {self._own}):
            try:
                person = await self._identities.get(user_id)
            except (Unreachable, Refusal) as error:
                # One unreachable server must not silence the room; they get the next key.
                log.warning("devices unknown", extra={"user_id": user_id, "reason": str(error)})
                continue
            for device in person.identity.devices.values():
                gets_key = public or person.counts(device)
                (recipients if gets_key else others).append(device)
        return recipients, others

    def _current(self, room: Room, recipients: Iterable[Device]) -> _Outbound:
        outbound = self._outbound.get(room.room_id)
        allowed = {_id(device) for device in recipients}
        # Somebody left, signed out or ceased to count: what follows is not for them.
        if outbound is None or outbound.session.expired or not outbound.shared <= allowed:
            outbound = self._outbound[room.room_id] = _Outbound(self._new_session(room))
        return outbound

    def _new_session(self, room: Room) -> OutboundGroupSession:
        session = OutboundGroupSession()
        session.max_age = timedelta(milliseconds=room.rotation_ms)
        session.max_messages = room.rotation_messages
        session.shared = True  # nio's own guard; `_share` runs before each use
        return session

    async def _share(
        self,
        room: Room,
        outbound: _Outbound,
        recipients: Sequence[Device],
        others: Sequence[Device],
    ) -> None:
        new = [device for device in recipients if _id(device) not in outbound.shared]
        await self._claim([device for device in new if not self._machine.has_olm_session(device)])
        key = {
            "algorithm": MEGOLM,
            "room_id": room.room_id,
            "session_id": outbound.session.id,
            "session_key": outbound.session.session_key,
        }
        encrypted = []
        withheld = [(device, "m.unverified") for device in others]
        for device in new:
            content = self._machine.encrypt_to_device(device, "m.room_key", key)
            if content is None:
                withheld.append((device, "m.no_olm"))
            else:
                encrypted.append((device, content))
        await commit_keys(self._database, self._keys)
        await self._send("m.room.encrypted", encrypted)
        outbound.shared |= {_id(device) for device, _ in encrypted}
        refused = [(d, code) for d, code in withheld if _id(d) not in outbound.withheld]
        await self._send(
            "m.room_key.withheld",
            [(d, self._withheld(room, outbound, code)) for d, code in refused],
        )
        outbound.withheld |= {_id(device) for device, _ in refused}

    def _withheld(self, room: Room, outbound: _Outbound, code: str) -> Json:
        content = {
            "algorithm": MEGOLM,
            "code": code,
            "sender_key": self._machine.identity_key,
        }
        if code != "m.no_olm":
            content |= {"room_id": room.room_id, "session_id": outbound.session.id}
        return content

    async def _claim(self, devices: Sequence[Device]) -> None:
        """Start Olm sessions; a device without one-time keys is asked again after a while."""
        now = self._now_ms()
        wanted: dict[str, dict[str, str]] = {}
        for device in devices:
            if now - self._claimed_ms.get(_id(device), -CLAIM_AGAIN_MS) < CLAIM_AGAIN_MS:
                continue
            self._claimed_ms[_id(device)] = now
            wanted.setdefault(device.user_id, {})[device.device_id] = "signed_curve25519"
        if not wanted:
            return
        answer = await self._homeserver.request(
            "POST",
            "v3/keys/claim",
            {"one_time_keys": wanted, "timeout": int(CLAIM_SECONDS * 500)},
            seconds=CLAIM_SECONDS,
        )
        self._machine.take_claimed_keys(answer.get("one_time_keys", {}))
        for device in devices:
            if self._machine.has_olm_session(device):
                self._claimed_ms.pop(_id(device), None)

    async def _send(self, event_type: str, messages: Sequence[tuple[Device, Json]]) -> None:
        for start in range(0, len(messages), _DEVICES_PER_REQUEST):
            by_user: dict[str, dict[str, Json]] = {}
            for device, content in messages[start : start + _DEVICES_PER_REQUEST]:
                by_user.setdefault(device.user_id, {})[device.device_id] = content
            await self._homeserver.request(
                "PUT", path("v3", "sendToDevice", event_type, new_txn_id()), {"messages": by_user}
            )


def _id(device: Device) -> tuple[str, str, str]:
    return device.user_id, device.device_id, device.curve25519
