"""The session id of a confirmation: whose it is and for which operation, sealed.

So a session that was begun for one operation can be told from one that nobody began, without
keeping anything for each request that was only begun; and the page on which a person confirms can
say what it is that they confirm.

Spec: client-server API, "User-Interactive Authentication API".
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson
from nacl.encoding import URLSafeBase64Encoder
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from yizhan_server.protocol.identifiers import UserID

if TYPE_CHECKING:
    from yizhan_server.clock import Clock


@dataclass(frozen=True, slots=True)
class Begun:
    """What a session was begun for."""

    user_id: UserID
    operation: str
    """Method and path."""


class ConfirmationSessions:
    """Seals and opens sessions. `secret` must be the same for all processes of the server."""

    def __init__(self, clock: Clock, secret: str, lifetime_seconds: int) -> None:
        key = blake2b(secret.encode(), digest_size=SecretBox.KEY_SIZE, person=b"confirmation")
        self._box = SecretBox(key.digest())
        self._clock = clock
        self._lifetime_ms = lifetime_seconds * 1000

    def seal(self, begun: Begun) -> str:
        """Return a new session id."""
        expires_ms = self._clock.now_ms() + self._lifetime_ms
        content = orjson.dumps([expires_ms, begun.user_id, begun.operation])
        sealed: bytes = self._box.encrypt(content, encoder=URLSafeBase64Encoder)
        return sealed.decode().rstrip("=")

    def open(self, session: str) -> Begun | None:
        """Return what a session was begun for; None if it is not of this kind or has expired."""
        padded = session + "=" * (-len(session) % 4)
        try:
            content = self._box.decrypt(padded.encode("ascii"), encoder=URLSafeBase64Encoder)
        except (CryptoError, ValueError):
            return None
        expires_ms, user_id, operation = orjson.loads(content)
        if self._clock.now_ms() >= expires_ms:
            return None
        return Begun(UserID(user_id), operation)
