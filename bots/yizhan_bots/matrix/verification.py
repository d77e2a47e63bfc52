"""SAS verification of the bot by a person's client, to-device and in rooms.

The bot has no eyes: it confirms every short authentication string. So its confirmation says
nothing about the person, and nothing is concluded from it: whom the bot believes is decided
by pinned identities alone. What the exchange gives is the other direction. A person who
compares the emoji with those on the bot's own page (or the fingerprint that `yizhan up`
prints) learns that the keys in the MAC are the bot's.

Spec: https://spec.matrix.org/v1.19/client-server-api/#short-authentication-string-sas-verification
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import vodozemac
from unpaddedbase64 import encode_base64

from yizhan_bots.matrix.cross_signing import canonical_json

log = logging.getLogger(__name__)

Json = dict[str, Any]

_PREFIX: Final = "m.key.verification."
_SAS: Final = "m.sas.v1"
_AGREEMENT: Final = "curve25519-hkdf-sha256"
_MACS: Final = ("hkdf-hmac-sha256.v2", "hkdf-hmac-sha256")
_STRINGS: Final = ("emoji", "decimal")
_OLDEST_MS: Final = 600_000
_FURTHEST_MS: Final = 300_000
_LIFETIME_MS: Final = 600_000
_MOST_AT_ONCE: Final = 100
"""Exchanges; each costs the one who starts it nothing, so there must be a bound."""

SendToDevice = Callable[[str, str, str, Json], Awaitable[None]]
"""(user, device, type, content)"""
SendToRoom = Callable[[str, str, Json], Awaitable[None]]
"""(room, type, content)"""
Spawn = Callable[[str, Any], object]
"""(name, coroutine)"""


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The keys that a person verifies: those of the bot's device and identity."""

    user_id: str
    device_id: str
    device_ed25519: str
    master_key: str


@dataclass(slots=True)
class _Exchange:
    """One verification in progress. `room_id` is None when it runs to-device."""

    transaction_id: str
    user_id: str
    device_id: str
    room_id: str | None
    started_ms: int
    sas: vodozemac.Sas | None = None
    established: vodozemac.EstablishedSas | None = None
    mac: str = ""
    emoji: tuple[int, ...] = ()
    sent_done: bool = False
    outbox: list[tuple[str, Json]] = field(default_factory=list)
    sending: bool = False


class Verifications:
    """The exchanges in progress, in memory: a client starts again after a restart of ours."""

    def __init__(
        self,
        *,
        own: OwnKeys,
        admits: Callable[[str], bool],
        to_device: SendToDevice,
        to_room: SendToRoom,
        spawn: Spawn,
        now_ms: Callable[[], int],
    ) -> None:
        self._own = own
        self._admits = admits
        self._to_device = to_device
        self._to_room = to_room
        self._spawn = spawn
        self._now_ms = now_ms
        self._running: dict[tuple[str, str], _Exchange] = {}

    @property
    def emoji(self) -> list[tuple[int, ...]]:
        """The emoji (indices of the spec's table) of the exchanges that show some now."""
        self._forget_old()
        return [exchange.emoji for exchange in self._running.values() if exchange.emoji]

    def take_to_device(self, sender: str, kind: str, content: Json) -> None:
        """Handle a to-device message, if it belongs to a verification."""
        transaction_id = content.get("transaction_id")
        if not kind.startswith(_PREFIX) or not isinstance(transaction_id, str):
            return
        step = kind.removeprefix(_PREFIX)
        device_id = content.get("from_device")
        if step in {"request", "start"} and isinstance(device_id, str):
            self._begin(transaction_id, sender, device_id, None, content)
        self._take(transaction_id, sender, step, content)

    def take_from_room(
        self, room_id: str, event_id: str, sender: str, kind: str, content: Json
    ) -> None:
        """Handle an event of a room that belongs to a verification."""
        if kind == "m.room.message":
            device_id = content.get("from_device")
            if content.get("to") == self._own.user_id and isinstance(device_id, str):
                self._begin(event_id, sender, device_id, room_id, content)
                self._take(event_id, sender, "request", content)
            return
        relation = content.get("m.relates_to")
        transaction_id = relation.get("event_id") if isinstance(relation, dict) else None
        if isinstance(transaction_id, str):
            self._take(transaction_id, sender, kind.removeprefix(_PREFIX), content)

    # --- the exchange ---

    def _begin(
        self, transaction_id: str, sender: str, device_id: str, room_id: str | None, content: Json
    ) -> None:
        self._forget_old()
        now, said_ms = self._now_ms(), content.get("timestamp", self._now_ms())
        key = (sender, transaction_id)
        if not self._admits(sender) or key in self._running:
            return
        if len(self._running) >= _MOST_AT_ONCE:
            return
        if room_id is None and not (
            isinstance(said_ms, int) and now - _OLDEST_MS <= said_ms <= now + _FURTHEST_MS
        ):
            return
        self._running[key] = _Exchange(transaction_id, sender, device_id, room_id, now)

    def _take(self, transaction_id: str, sender: str, step: str, content: Json) -> None:
        exchange = self._running.get((sender, transaction_id))
        if exchange is None:
            return
        steps: dict[str, Callable[[_Exchange, Json], None]] = {
            "request": self._take_request,
            "start": self._take_start,
            "key": self._take_key,
            "mac": self._take_mac,
        }
        try:
            if step in {"done", "cancel"}:
                if step == "cancel" or exchange.sent_done:
                    del self._running[sender, transaction_id]
            elif step in steps:
                steps[step](exchange, content)
        except (_Wrong, KeyError, TypeError, ValueError) as wrong:
            code = wrong.code if isinstance(wrong, _Wrong) else "m.invalid_message"
            log.info("verification cancelled", extra={"user_id": sender, "code": code})
            self._queue(exchange, "cancel", {"code": code, "reason": code})
            del self._running[sender, transaction_id]

    def _take_request(self, exchange: _Exchange, content: Json) -> None:
        if _SAS not in content["methods"]:
            raise _Wrong("m.unknown_method")
        self._queue(exchange, "ready", {"from_device": self._own.device_id, "methods": [_SAS]})

    def _take_start(self, exchange: _Exchange, content: Json) -> None:
        if exchange.sas is not None:
            raise _Wrong("m.unexpected_message")
        mac = next((m for m in _MACS if m in content["message_authentication_codes"]), None)
        strings = [s for s in _STRINGS if s in content["short_authentication_string"]]
        if (
            content.get("method") != _SAS
            or _AGREEMENT not in content["key_agreement_protocols"]
            or "sha256" not in content["hashes"]
            or mac is None
            or not strings
        ):
            raise _Wrong("m.unknown_method")
        # Whoever starts says from where; a request may have gone to several devices.
        exchange.device_id = str(content["from_device"])
        exchange.mac = mac
        exchange.sas = vodozemac.Sas()
        committed = exchange.sas.public_key.to_base64().encode() + canonical_json(content)
        self._queue(
            exchange,
            "accept",
            {
                "method": _SAS,
                "key_agreement_protocol": _AGREEMENT,
                "hash": "sha256",
                "message_authentication_code": mac,
                "short_authentication_string": strings,
                "commitment": encode_base64(hashlib.sha256(committed).digest()),
            },
        )

    def _take_key(self, exchange: _Exchange, content: Json) -> None:
        if exchange.sas is None or exchange.established is not None:
            raise _Wrong("m.unexpected_message")
        ours = exchange.sas.public_key.to_base64()
        theirs = str(content["key"])
        exchange.established = exchange.sas.diffie_hellman(
            vodozemac.Curve25519PublicKey.from_base64(theirs)
        )
        own = self._own
        info = "|".join(
            (
                "MATRIX_KEY_VERIFICATION_SAS",
                *(exchange.user_id, exchange.device_id, theirs),
                *(own.user_id, own.device_id, ours),
                exchange.transaction_id,
            )
        )
        exchange.emoji = tuple(exchange.established.bytes(info).emoji_indices)
        self._queue(exchange, "key", {"key": ours})
        self._queue(exchange, "mac", self._own_macs(exchange))

    def _own_macs(self, exchange: _Exchange) -> Json:
        own = self._own
        base = (
            f"MATRIX_KEY_VERIFICATION_MAC{own.user_id}{own.device_id}"
            f"{exchange.user_id}{exchange.device_id}{exchange.transaction_id}"
        )
        keys = {
            f"ed25519:{own.device_id}": own.device_ed25519,
            f"ed25519:{own.master_key}": own.master_key,
        }
        return {
            "mac": {name: _mac(exchange, key, base + name) for name, key in sorted(keys.items())},
            "keys": _mac(exchange, ",".join(sorted(keys)), base + "KEY_IDS"),
        }

    def _take_mac(self, exchange: _Exchange, content: Json) -> None:
        """Check that the person's client speaks the protocol; nothing is concluded from it."""
        if exchange.established is None:
            raise _Wrong("m.unexpected_message")
        own = self._own
        base = (
            f"MATRIX_KEY_VERIFICATION_MAC{exchange.user_id}{exchange.device_id}"
            f"{own.user_id}{own.device_id}{exchange.transaction_id}"
        )
        names = ",".join(sorted(content["mac"]))
        if not hmac.compare_digest(_mac(exchange, names, base + "KEY_IDS"), content["keys"]):
            raise _Wrong("m.key_mismatch")
        self._queue(exchange, "done", {})
        exchange.sent_done = True
        exchange.emoji = ()

    # --- sending ---

    def _queue(self, exchange: _Exchange, step: str, content: Json) -> None:
        if exchange.room_id is None:
            content = content | {"transaction_id": exchange.transaction_id}
        else:
            relation = {"rel_type": "m.reference", "event_id": exchange.transaction_id}
            content = content | {"m.relates_to": relation}
        exchange.outbox.append((_PREFIX + step, content))
        if not exchange.sending:
            exchange.sending = True
            self._spawn("verification", self._send(exchange))

    async def _send(self, exchange: _Exchange) -> None:
        try:
            while exchange.outbox:
                kind, content = exchange.outbox.pop(0)
                if exchange.room_id is None:
                    await self._to_device(exchange.user_id, exchange.device_id, kind, content)
                else:
                    await self._to_room(exchange.room_id, kind, content)
        finally:
            exchange.sending = False

    def _forget_old(self) -> None:
        oldest = self._now_ms() - _LIFETIME_MS
        self._running = {k: e for k, e in self._running.items() if e.started_ms >= oldest}


class _Wrong(Exception):
    """The other side broke the protocol."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _mac(exchange: _Exchange, text: str, info: str) -> str:
    assert exchange.established is not None
    if exchange.mac == "hkdf-hmac-sha256.v2":
        return exchange.established.calculate_mac(text, info)
    return exchange.established.calculate_mac_invalid_base64(text, info)
