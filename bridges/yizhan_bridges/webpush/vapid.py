"""How the gateway names itself to push services: one P-256 key, a signed token per service.

Browsers bind a subscription to this key when they subscribe. Losing it, or making another,
therefore ends every subscription: it lives in the data folder and belongs in the back-up.

RFC 8292
"""

import base64
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from yizhan_config.errors import ConfigurationError
from yizhan_config.secret_files import check_private

# RFC 8292 §2 allows 24 hours; half of it forgives clocks that are hours wrong.
_LIFETIME_SECONDS = 12 * 3600
_RENEWED_BEFORE_SECONDS = 3600
# Origins come from clients: a table of them must not grow with what strangers send.
_MAX_CACHED_TOKENS = 1000


class VapidKey:
    """The key pair, and the Authorization headers made with it."""

    def __init__(
        self,
        private_key: ec.EllipticCurvePrivateKey,
        contact: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`contact` is the `mailto:` or `https:` address of whoever runs this gateway."""
        self._private_key = private_key
        self._contact = contact
        self._now = now
        self._tokens: dict[str, tuple[str, float]] = {}
        point = private_key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.public_key = _base64url(point)
        """What browsers take as `applicationServerKey`: the point in base64url."""

    def get_authorization(self, origin: str) -> str:
        """Return the Authorization header for the push service at `origin` (RFC 6454)."""
        now = self._now()
        token, expires = self._tokens.get(origin, ("", 0.0))
        if expires - now < _RENEWED_BEFORE_SECONDS:
            expires = now + _LIFETIME_SECONDS
            token = self._sign({"aud": origin, "exp": int(expires), "sub": self._contact})
            if len(self._tokens) >= _MAX_CACHED_TOKENS:
                self._tokens.clear()
            self._tokens[origin] = (token, expires)
        return f"vapid t={token}, k={self.public_key}"

    def derive_key(self, context: str) -> bytes:
        """Return 32 secret bytes for another purpose, as lasting as the key itself."""
        scalar = self._private_key.private_numbers().private_value.to_bytes(32, "big")
        hkdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=context.encode())
        return hkdf.derive(scalar)

    def _sign(self, claims: dict[str, str | int]) -> str:
        header = {"typ": "JWT", "alg": "ES256"}
        signed = ".".join(_base64url(msgspec.json.encode(part)) for part in (header, claims))
        signature = self._private_key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(signature)
        return f"{signed}.{_base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def load_or_create_private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the PEM file, or make it (mode 0600) where there is none.

    Raises ConfigurationError when it is no P-256 key or others may read it.
    """
    if not path.exists():
        _create(path)
    return _load(path)


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    check_private(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ConfigurationError(
            f"{path} 不是 P-256 私钥（PEM）；请从备份恢复。删除它会使所有浏览器订阅失效。",
            f"{path} is not a P-256 private key in PEM; restore it from the back-up. "
            "Deleting it ends every browser's subscription.",
            key="push_gateway.vapid_key_file",
        )
    return key


def _create(path: Path) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: of two gateways that start at once, the second must use the
        # first one's key instead of replacing it under browsers that have subscribed.
        os.link(unfinished, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
