"""Keyed short names for secrets, so that a log can say "the same pushkey again" and no more.

Keyed, because pushkeys and room ids are guessable by whoever sees them elsewhere (the push
service, other users): a plain hash would let them find the log line.
"""

from hashlib import blake2b


class Pseudonyms:
    """Makes names that only the holder of `key` (32 bytes) can link to what they stand for."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def name(self, secret: str) -> str:
        """Return 12 hexadecimal digits that stand for `secret` in logs."""
        return self.digest("log", secret, size=6).hex()

    def digest(self, purpose: str, *parts: str, size: int) -> bytes:
        """Return `size` bytes that depend on purpose and parts, different for each purpose."""
        mac = blake2b(key=self._key, digest_size=size, person=purpose.encode())
        for part in parts:
            encoded = part.encode()
            mac.update(len(encoded).to_bytes(4, "big") + encoded)
        return mac.digest()
