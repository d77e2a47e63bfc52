"""The session of a registration: what its first request said, sealed, in the client's own hands.

A client may leave out in the later requests what it said in the first one, and may repeat the
last one whose answer was lost. To remember that for strangers would let them fill the database;
so the session id itself holds it, encrypted and signed, readable by this server only.

Spec: client-server API, "User-Interactive Authentication API", "Account registration".
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson
from nacl.encoding import URLSafeBase64Encoder
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from yizhan_server.clock import Clock

MAX_SESSION_BYTES: Final = 4096


class RegistrationSessions:
    """Seals and opens sessions. `secret` must be the same for all processes of the server."""

    def __init__(self, clock: Clock, secret: str, lifetime_seconds: int) -> None:
        key = blake2b(secret.encode(), digest_size=SecretBox.KEY_SIZE, person=b"registration")
        self._box = SecretBox(key.digest())
        self._clock = clock
        self._lifetime_ms = lifetime_seconds * 1000

    def seal(self, said: Mapping[str, Any]) -> str | None:
        """Return a session id that holds what was said; None if that is too much."""
        content = orjson.dumps([self._clock.now_ms() + self._lifetime_ms, said])
        sealed: bytes = self._box.encrypt(content, encoder=URLSafeBase64Encoder)
        session = sealed.decode().rstrip("=")
        return session if len(session) <= MAX_SESSION_BYTES else None

    def open(self, session: str) -> dict[str, Any]:
        """Return what was said; {} if the session is not of this kind or has expired."""
        padded = session + "=" * (-len(session) % 4)
        try:
            content = self._box.decrypt(padded.encode("ascii"), encoder=URLSafeBase64Encoder)
        except (CryptoError, ValueError):
            return {}
        expires_ms, said = orjson.loads(content)
        return said if self._clock.now_ms() < expires_ms else {}
