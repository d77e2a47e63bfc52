"""A browser's push subscription, as clients register it: `pushkey` is p256dh, `data` the rest.

The form is the one that Sygnal documents, so that clients made for it register unchanged.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec

from yizhan_bridges.notification import Device
from yizhan_bridges.provider import PushkeyRejected

_MAX_ENDPOINT_CHARACTERS = 2048
_AUTH_SECRET_BYTES = 16


@dataclass(frozen=True, repr=False)
class Subscription:
    """Where and how to reach one browser. Its fields are capabilities and never logged."""

    endpoint: str
    key: ec.EllipticCurvePublicKey
    auth_secret: bytes
    events_only: bool
    only_last_per_room: bool
    default_payload: dict[str, Any]

    @classmethod
    def parse(cls, device: Device) -> Self:
        """Read a pusher; raises PushkeyRejected, since an incomplete one never becomes whole."""
        data = device.data or {}
        endpoint = data.get("endpoint")
        if not isinstance(endpoint, str) or len(endpoint) > _MAX_ENDPOINT_CHARACTERS:
            raise PushkeyRejected("data.endpoint is missing or too long")
        auth_secret = _decode(data.get("auth"))
        if auth_secret is None or len(auth_secret) != _AUTH_SECRET_BYTES:
            raise PushkeyRejected("data.auth is not 16 bytes in base64url")
        default_payload = data.get("default_payload")
        return cls(
            endpoint=endpoint,
            key=_parse_key(device.pushkey),
            auth_secret=auth_secret,
            events_only=data.get("events_only") is True,
            only_last_per_room=data.get("only_last_per_room") is True,
            default_payload=default_payload if isinstance(default_payload, dict) else {},
        )


def _parse_key(pushkey: str) -> ec.EllipticCurvePublicKey:
    point = _decode(pushkey)
    # RFC 8291 §3.1 has the uncompressed form only, which is what the encryption hashes.
    if point is None or len(point) != 65:
        raise PushkeyRejected("the pushkey is not an uncompressed P-256 point in base64url")
    try:
        # Checks that the point is on the curve: otherwise ECDH would leak about our key.
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise PushkeyRejected("the pushkey is not a point of P-256") from None


def _decode(text: object) -> bytes | None:
    """Decode base64url, also with padding or in the ordinary alphabet, as some clients send it."""
    if not isinstance(text, str):
        return None
    text = text.rstrip("=").translate(str.maketrans("+/", "-_"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
