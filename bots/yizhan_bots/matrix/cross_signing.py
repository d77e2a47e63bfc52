"""Cross-signing: making an identity of one's own, and judging those of others.

matrix-nio has none of it, and clients stop talking to devices without it (MSC4153). The
module needs nothing else of the bots, so any client can be cross-signed with it: give
`publish` a function that sends requests, `nio_requests(client)` for a nio client.

Spec: https://spec.matrix.org/v1.19/client-server-api/#cross-signing
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey
from unpaddedbase64 import decode_base64, encode_base64

from yizhan_bots.matrix.http import Refusal

if TYPE_CHECKING:
    from pathlib import Path

    import nio  # type: ignore[import-untyped]

Json = dict[str, Any]

USAGES: Final = ("master", "self_signing", "user_signing")


class Requests(Protocol):
    """Sends one client-server request; raises `Refusal` unless the answer is a 200."""

    async def __call__(self, method: str, where: str, body: Json | None = None) -> Json:
        """Request `where` (below `/_matrix/client/`) and return the JSON object."""
        ...


def canonical_json(value: object) -> bytes:
    """Encode as Matrix canonical JSON (input came from JSON, so no floats are expected)."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def fingerprint(master_key: str) -> str:
    """Write a key the way clients show it: unpadded base64 in groups of four."""
    return " ".join(master_key[i : i + 4] for i in range(0, len(master_key), 4))


# --- an identity of our own -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """The three private keys of one user. Whoever holds them can make any device ours."""

    user_id: str
    master: SigningKey = field(repr=False)
    self_signing: SigningKey = field(repr=False)
    user_signing: SigningKey = field(repr=False)

    @classmethod
    def generate(cls, user_id: str) -> OwnIdentity:
        """Make fresh keys."""
        return cls(user_id, SigningKey.generate(), SigningKey.generate(), SigningKey.generate())

    @classmethod
    def load(cls, file: Path, user_id: str) -> OwnIdentity | None:
        """Read the keys kept in `file`; None when there is no file.

        Raises ValueError when the file belongs to another user or is damaged.
        """
        if not file.exists():
            return None
        kept = json.loads(file.read_text())
        if kept.get("user_id") != user_id:
            raise ValueError(f"{file.name} holds the keys of another account")
        return cls(user_id, *(SigningKey(decode_base64(kept[usage])) for usage in USAGES))

    def save(self, file: Path) -> None:
        """Keep the keys in `file`, readable by this user only; durable when it returns."""
        content = {"user_id": self.user_id}
        content |= {usage: encode_base64(bytes(self._key(usage))) for usage in USAGES}
        write_private(file, json.dumps(content))

    @property
    def master_key(self) -> str:
        """The public master key, unpadded base64."""
        return _public(self.master)

    def public_keys(self) -> Json:
        """The body of `/keys/device_signing/upload`."""
        keys = {f"{usage}_key": self._public_key_object(usage) for usage in USAGES}
        for usage in ("self_signing", "user_signing"):
            self._sign(keys[f"{usage}_key"], self.master)
        return keys

    def sign_device(self, device_keys: Json) -> Json:
        """Return the device keys with our self-signing signature as the only one."""
        signed = {k: v for k, v in device_keys.items() if k not in {"signatures", "unsigned"}}
        self._sign(signed, self.self_signing)
        return signed

    def _key(self, usage: str) -> SigningKey:
        key: SigningKey = getattr(self, usage)
        return key

    def _public_key_object(self, usage: str) -> Json:
        public = _public(self._key(usage))
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}

    def _sign(self, value: Json, key: SigningKey) -> None:
        signature = encode_base64(key.sign(canonical_json(value)).signature)
        value["signatures"] = {self.user_id: {f"ed25519:{_public(key)}": signature}}


async def publish(
    request: Requests, own: OwnIdentity, device_id: str, device_ed25519: str, password: str | None
) -> None:
    """Make `own` the account's identity on the server and sign the given device with it.

    Does only what is missing, so it may run at every start. `device_ed25519` is our own copy
    of the device's key: the server's word for it would let the server have another key signed.
    `password` answers user-interactive authentication when the server asks for it. Raises
    `Refusal`, and ValueError when the server shows another key for our device.
    """
    shown = await _query(request, own.user_id)
    identity = read_identity(own.user_id, shown)
    if identity.master_key != own.master_key or identity.self_signing_key is None:
        await _upload_keys(request, own, password)
    device = identity.devices.get(device_id)
    if device is None or device.ed25519 != device_ed25519:
        raise ValueError("the homeserver does not show this device with the key that it has")
    if not (device.signed and identity.master_key == own.master_key):
        body = {own.user_id: {device_id: own.sign_device(device.keys)}}
        answer = await request("POST", "v3/keys/signatures/upload", body)
        if answer.get("failures"):
            raise ValueError("the homeserver refused the signature on our own device")


async def _upload_keys(request: Requests, own: OwnIdentity, password: str | None) -> None:
    where = "v3/keys/device_signing/upload"
    try:
        await request("POST", where, own.public_keys())
    except Refusal as refusal:
        session = refusal.body.get("session")
        if refusal.status != 401 or "flows" not in refusal.body or password is None:
            raise
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": own.user_id},
            "password": password,
            "session": session,
        }
        await request("POST", where, own.public_keys() | {"auth": auth})


async def _query(request: Requests, user_id: str) -> Json:
    return await request("POST", "v3/keys/query", {"device_keys": {user_id: []}})


def nio_requests(client: nio.AsyncClient) -> Requests:
    """Let a nio client send the requests of this module."""

    async def request(method: str, where: str, body: Json | None = None) -> Json:
        response = await client.send(
            method,
            f"/_matrix/client/{where}",
            None if body is None else json.dumps(body),
            {"Authorization": f"Bearer {client.access_token}", "Content-Type": "application/json"},
        )
        answer: Json = await response.json()
        if response.status != 200:
            raise Refusal(
                response.status, answer.get("errcode", ""), answer.get("error", ""), answer
            )
        return answer

    return request


# --- the identities of others -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose keys are signed by themselves; `signed`: by its owner's identity too."""

    user_id: str
    device_id: str
    ed25519: str
    curve25519: str
    signed: bool
    keys: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """What one `/keys/query` answer proves about a user."""

    user_id: str
    master_key: str | None
    self_signing_key: str | None
    """None unless the master key signed it."""
    devices: dict[str, Device]

    def find_device(self, curve25519: str, ed25519: str) -> Device | None:
        """The listed device that has exactly these two keys."""
        for device in self.devices.values():
            if device.curve25519 == curve25519 and device.ed25519 == ed25519:
                return device
        return None


def read_identity(user_id: str, answer: Json) -> Identity:
    """Keep of a `/keys/query` answer what its signatures prove; never raises on bad input."""
    master = _find_key(answer, "master", user_id)
    self_signing = None
    if master is not None:
        self_signing = _find_key(answer, "self_signing", user_id)
        signed_object = _get(answer, "self_signing_keys", user_id)
        if self_signing is None or not is_signed(signed_object, user_id, master, master):
            self_signing = None
    devices = {}
    listed = _get(answer, "device_keys", user_id)
    for device_id, keys in listed.items() if isinstance(listed, dict) else ():
        device = _read_device(user_id, device_id, keys, self_signing)
        if device is not None:
            devices[device_id] = device
    return Identity(user_id, master, self_signing, devices)


def is_signed(value: object, signer: str, key_name: str, public_key: str) -> bool:
    """Whether `value` carries a valid Ed25519 signature of `signer` by the named key."""
    signature = _get(value, "signatures", signer, f"ed25519:{key_name}")
    if not isinstance(value, dict) or not isinstance(signature, str):
        return False
    unsigned = {k: v for k, v in value.items() if k not in {"signatures", "unsigned"}}
    try:
        VerifyKey(decode_base64(public_key)).verify(
            canonical_json(unsigned), decode_base64(signature)
        )
    except (CryptoError, ValueError, TypeError):
        return False
    return True


def _find_key(answer: Json, usage: str, user_id: str) -> str | None:
    shown = _get(answer, f"{usage}_keys", user_id)
    if not isinstance(shown, dict) or shown.get("user_id") != user_id:
        return None
    usages, keys = shown.get("usage"), shown.get("keys")
    if not isinstance(usages, list) or usage not in usages:
        return None
    if not isinstance(keys, dict) or len(keys) != 1:
        return None
    [(name, public)] = keys.items()
    # The name must be the key itself: signatures are looked up by that name.
    return public if isinstance(public, str) and name == f"ed25519:{public}" else None


def _read_device(
    user_id: str, device_id: str, keys: object, self_signing: str | None
) -> Device | None:
    if not isinstance(keys, dict):
        return None
    if keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        return None
    ed25519 = _get(keys, "keys", f"ed25519:{device_id}")
    curve25519 = _get(keys, "keys", f"curve25519:{device_id}")
    if not isinstance(ed25519, str) or not isinstance(curve25519, str):
        return None
    if not is_signed(keys, user_id, device_id, ed25519):
        return None
    signed = self_signing is not None and is_signed(keys, user_id, self_signing, self_signing)
    return Device(user_id, device_id, ed25519, curve25519, signed, keys)


def _get(value: object, *names: str) -> object:
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _public(key: SigningKey) -> str:
    return encode_base64(bytes(key.verify_key))


def write_private(file: Path, content: str) -> None:
    """Replace `file` by `content`, mode 0600, all or nothing, on disk when it returns."""
    beside = file.with_name(file.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(file)
