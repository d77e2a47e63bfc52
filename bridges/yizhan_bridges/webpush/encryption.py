"""Message encryption for Web Push. Pure, but for the random numbers.

One record of `aes128gcm`, under a key agreed between a P-256 key made for this message and
the key of the subscription, mixed with the subscription's authentication secret.

RFC 8188 (content coding), RFC 8291 (key agreement).
"""

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MAX_BODY_BYTES = 4096
"""The body that every push service must take (RFC 8030 §7.2)."""

_RECORD_SIZE = 4096
_HEADER_BYTES = 16 + 4 + 1 + 65  # salt, record size, length of the key, the key
MAX_PLAINTEXT_BYTES = MAX_BODY_BYTES - _HEADER_BYTES - 16 - 1  # tag, padding delimiter

_PADDING_STEP = 256
_LAST_RECORD = b"\x02"


def encrypt(
    plaintext: bytes,
    subscription_key: ec.EllipticCurvePublicKey,
    auth_secret: bytes,
    *,
    message_key: ec.EllipticCurvePrivateKey | None = None,
    salt: bytes | None = None,
    padded_bytes: int | None = None,
) -> bytes:
    """Return the request body for `plaintext`, of at most MAX_PLAINTEXT_BYTES.

    It is padded to a multiple of 256 bytes (or to `padded_bytes`): the length of the rooms'
    identifiers would otherwise tell the push service which room it was. `message_key` and
    `salt` are for known-answer tests; both must be fresh for each message.
    """
    if len(plaintext) > MAX_PLAINTEXT_BYTES:
        raise ValueError("the plaintext is longer than one push message")
    message_key = message_key or ec.generate_private_key(ec.SECP256R1())
    salt = salt or os.urandom(16)
    message_public = _point(message_key.public_key())
    secret = _hkdf(
        message_key.exchange(ec.ECDH(), subscription_key),
        salt=auth_secret,
        info=b"WebPush: info\x00" + _point(subscription_key) + message_public,
        length=32,
    )
    content_key = _hkdf(secret, salt=salt, info=b"Content-Encoding: aes128gcm\x00", length=16)
    nonce = _hkdf(secret, salt=salt, info=b"Content-Encoding: nonce\x00", length=12)
    if padded_bytes is None:
        padded_bytes = min(-(-len(plaintext) // _PADDING_STEP) * _PADDING_STEP, MAX_PLAINTEXT_BYTES)
    record = plaintext + _LAST_RECORD + bytes(max(0, padded_bytes - len(plaintext)))
    header = salt + _RECORD_SIZE.to_bytes(4, "big") + bytes([len(message_public)]) + message_public
    return header + AESGCM(content_key).encrypt(nonce, record, None)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)
