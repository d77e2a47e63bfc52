"""How devices of other servers' users come in, and how they are kept.

Spec: server-server API, "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_server.e2ee.input import encode_key, is_name
from yizhan_server.e2ee.keys import MAX_IDENTITY_BYTES
from yizhan_server.e2ee.signatures import signed_part
from yizhan_server.protocol.errors import BadJson, MatrixError
from yizhan_server.storage.remote_devices import RemoteDevice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yizhan_server.protocol.identifiers import UserID

JsonObject = dict[str, Any]

MAX_DEVICES = 1000


def encode_device_keys(user_id: str, device_id: str, keys: JsonObject) -> bytes:
    """Return a device's identity keys as they are kept, or answer M_BAD_JSON or M_TOO_LARGE.

    What they leave out of what every client expects is filled in: whose they are was said beside
    them. It makes no signature right that was not. A device must not vanish from a list because
    its keys are of no use; that is for clients to see.
    """
    whose = {"user_id": user_id, "device_id": device_id}
    if any(keys.get(name, value) != value for name, value in whose.items()):
        raise BadJson("These are the keys of another user or device")
    kept = {
        "algorithms": [], "keys": {}, **signed_part(keys), **whose,
        "signatures": keys.get("signatures", {}),
    }  # fmt: skip
    if not isinstance(kept["signatures"], dict) or not isinstance(kept["keys"], dict):
        raise BadJson("'keys' and 'signatures' are objects")
    return encode_key(kept, "The keys of a device", MAX_IDENTITY_BYTES)


def fit_name(name: object) -> str | None:
    """Return what a device is called; None for what is no name or too long."""
    return name if isinstance(name, str) and is_name(name) else None


def devices_by_id(user_id: UserID, devices: Iterable[JsonObject]) -> dict[str, RemoteDevice]:
    """Return those of the given devices that have keys that are in order."""
    found: dict[str, RemoteDevice] = {}
    for device in devices:
        device_id, keys = device.get("device_id"), device.get("keys")
        if len(found) < MAX_DEVICES and is_name(device_id) and isinstance(keys, dict):
            assert isinstance(device_id, str), "names are texts"
            try:
                encoded = encode_device_keys(user_id, device_id, keys)
            except (MatrixError, ValueError):
                continue
            found[device_id] = RemoteDevice(encoded, fit_name(device.get("device_display_name")))
    return found
