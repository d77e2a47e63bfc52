"""nio's Olm machine, with the parts replaced that decide whom a room key belongs to.

nio looks a Megolm session up by the `sender_key` that stands in clear in the event, and keeps
whatever arrives first. Here the owner of a session is what the Olm message that carried the
key authenticated: the curve25519 key of the Olm session, the Ed25519 key inside the ciphertext
and the user that both the ciphertext and the envelope name. Whether those belong together,
and to an identity that counts, is judged later against `/keys/query` (`identities`).

Spec: https://spec.matrix.org/v1.19/client-server-api/#molmv1curve25519-aes-sha2
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import vodozemac
from nio.crypto import Olm, OlmDevice, OutboundGroupSession  # type: ignore[import-untyped]
from nio.event_builders import ToDeviceMessage  # type: ignore[import-untyped]
from nio.events import ToDeviceEvent  # type: ignore[import-untyped]
from nio.events.misc import BadEvent, UnknownBadEvent  # type: ignore[import-untyped]
from nio.responses import KeysClaimResponse, KeysUploadResponse  # type: ignore[import-untyped]

from yizhan_bots.matrix.cross_signing import canonical_json
from yizhan_bots.matrix.keystore import DIRECT, RESENT, SECOND_HAND, RoomKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from yizhan_bots.matrix.cross_signing import Device
    from yizhan_bots.matrix.keystore import KeyStore

log = logging.getLogger(__name__)

Json = dict[str, Any]

MEGOLM: Final = "m.megolm.v1.aes-sha2"


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A room key that we asked a person's devices for."""

    room_id: str
    session_id: str
    user_id: str
    request_id: str


class Machine(Olm):  # type: ignore[misc] # nio carries no types
    """One device's Olm account, its sessions, and what it does with keys that arrive."""

    def __init__(
        self, user_id: str, device_id: str, keys: KeyStore, now_ms: Callable[[], int]
    ) -> None:
        self._keys = keys
        self._now_ms = now_ms
        self.asked: dict[tuple[str, str], KeyRequest] = {}
        self.arrived: set[tuple[str, str]] = set()
        """(room, session) of the room keys that came since somebody last took them."""
        self.arrivals = 0
        """How many steps of /sync have made new room keys durable."""
        super().__init__(user_id, device_id, keys)

    @property
    def identity_key(self) -> str:
        """Our device's curve25519 key."""
        key: str = self.account.identity_keys["curve25519"]
        return key

    @property
    def fingerprint_key(self) -> str:
        """Our device's Ed25519 key."""
        key: str = self.account.identity_keys["ed25519"]
        return key

    def take_to_device(self, event: Json) -> tuple[str, str, Json] | None:
        """Handle one to-device message; a decrypted one that is no key is returned.

        Returns (sender, type, content). Whatever is malformed is dropped: it was written by
        somebody else and must not stop the stream that everybody's keys come in.
        """
        self._inner: tuple[str, str, Json] | None = None
        try:
            parsed = ToDeviceEvent.parse_event(event)
            if parsed is not None and not isinstance(parsed, (BadEvent, UnknownBadEvent)):
                self.decrypt_event(parsed)
        except Exception as error:  # noqa: BLE001 - nio and vodozemac raise many kinds
            log.warning("to-device message dropped", extra={"reason": type(error).__name__})
        return self._inner

    def decrypt(self, sender: str, sender_key: str, message: Any) -> Any:
        """Decrypt one Olm message and act on it (nio's hook)."""
        result = super().decrypt(sender, sender_key, message)
        if isinstance(message, vodozemac.PreKeyMessage):
            # nio saves the account before the one-time key is used up, not after.
            self.save_account()
        return result

    def _handle_olm_event(self, sender: str, sender_key: str, payload: Json) -> None:
        content = payload["content"]
        ed25519 = payload["keys"].get("ed25519")
        if not isinstance(ed25519, str):
            return
        if payload["type"] == "m.room_key":
            self._take_room_key(sender, sender_key, ed25519, content)
        elif payload["type"] == "m.forwarded_room_key":
            self._take_forwarded_key(sender, sender_key, ed25519, content)
        else:
            self._inner = (sender, payload["type"], content)

    def _take_room_key(self, sender: str, sender_key: str, ed25519: str, content: Json) -> None:
        if content.get("algorithm") != MEGOLM:
            return
        session = vodozemac.InboundGroupSession(vodozemac.SessionKey(content["session_key"]))
        self._keep(sender, sender_key, ed25519, content, session=session, how=DIRECT)

    def _take_forwarded_key(
        self, sender: str, sender_key: str, ed25519: str, content: Json
    ) -> None:
        request = self.asked.get((content["room_id"], content["session_id"]))
        if content.get("algorithm") != MEGOLM or request is None or request.user_id != sender:
            return
        session = vodozemac.InboundGroupSession.import_session(
            vodozemac.ExportedSessionKey(content["session_key"])
        )
        from_owner = (
            content["sender_key"] == sender_key
            and content["sender_claimed_ed25519_key"] == ed25519
            and not content.get("forwarding_curve25519_key_chain")
        )
        if from_owner:
            self._keep(sender, sender_key, ed25519, content, session=session, how=RESENT)
        else:
            claimed = content["sender_key"], content["sender_claimed_ed25519_key"]
            self._keep(sender, *claimed, content, session=session, how=SECOND_HAND)
        self.outgoing_to_device_messages.append(
            ToDeviceMessage(
                "m.room_key_request",
                sender,
                "*",
                {
                    "action": "request_cancellation",
                    "request_id": request.request_id,
                    "requesting_device_id": self.device_id,
                },
            )
        )

    def _keep(
        self,
        user_id: str,
        sender_key: str,
        ed25519: str,
        content: Json,
        *,
        session: vodozemac.InboundGroupSession,
        how: str,
    ) -> None:
        room_id, session_id = content["room_id"], content["session_id"]
        texts = (room_id, session_id, sender_key, ed25519)
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            return
        if session.session_id != session_id:
            return
        key = RoomKey(
            room_id,
            session_id,
            sender_key,
            user_id,
            ed25519,
            how,
            session.first_known_index,
            self._keys.pickled(session),
        )
        self._keys.record_room_key(key, self._now_ms())
        self.arrived.add((room_id, session_id))

    def create_group_session(self, *_: object) -> None:
        """Do not keep the sessions that we encrypt with: our own messages are never read back."""

    # --- devices of others, sending ---

    def use_devices(self, user_id: str, devices: Iterable[Device], trusted: set[str]) -> None:
        """Make exactly these the devices that nio knows of the person.

        Those in `trusted` (device ids) are verified in nio's sense, all others blacklisted, so
        that no path through nio ever gives them a key by default.
        """
        known = self.device_store[user_id]
        known.clear()
        for device in devices:
            keys = {"ed25519": device.ed25519, "curve25519": device.curve25519}
            known[device.device_id] = OlmDevice(user_id, device.device_id, keys)
            if device.device_id in trusted:
                self.verify_device(known[device.device_id])
            else:
                self.blacklist_device(known[device.device_id])

    def has_olm_session(self, device: Device) -> bool:
        """Whether a message can be encrypted for the device without claiming a key."""
        return self.session_store.get(device.curve25519) is not None

    def take_claimed_keys(self, one_time_keys: Json) -> None:
        """Start Olm sessions with the one-time keys of a `/keys/claim` answer."""
        for user_id, devices in one_time_keys.items():
            for device_id, keys in devices.items() if isinstance(devices, dict) else ():
                try:
                    claimed = KeysClaimResponse({user_id: {device_id: keys}}, {})
                    self.handle_response(claimed)
                except Exception as error:  # noqa: BLE001 - a bad key of one device is its affair
                    log.warning("one-time key dropped", extra={"reason": type(error).__name__})

    def encrypt_to_device(self, device: Device, message_type: str, content: Json) -> Json | None:
        """Encrypt over Olm; None without a session. Commit the key store before sending it."""
        session = self.session_store.get(device.curve25519)
        if session is None:
            return None
        recipient = OlmDevice(
            device.user_id,
            device.device_id,
            {"ed25519": device.ed25519, "curve25519": device.curve25519},
        )
        encrypted: Json = self._olm_encrypt(session, recipient, message_type, content)
        return encrypted

    def encrypt_to_room(self, session: OutboundGroupSession, room_id: str, payload: Json) -> Json:
        """Encrypt `payload` (type and content) with a shared outbound session."""
        plaintext = canonical_json(payload | {"room_id": room_id}).decode()
        return {
            "algorithm": MEGOLM,
            "sender_key": self.identity_key,
            "ciphertext": session.encrypt(plaintext),
            "session_id": session.id,
            "device_id": self.device_id,
        }

    def keys_uploaded(self, signed_curve25519_count: int) -> None:
        """Note that what `share_keys` returned is on the server now."""
        self.handle_response(KeysUploadResponse(0, signed_curve25519_count))
