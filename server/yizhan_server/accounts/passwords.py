"""Passwords: argon2id, off the event loop, at most two at once.

19 MiB each: two at a time bound the memory that a crowd of sign-ins can take, and two are all
that two cores can compute. A queue that grows beyond a few seconds is refused instead.
"""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from yizhan_server.protocol.errors import LimitExceeded, MatrixError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_PASSWORD_BYTES = 1024
_AT_ONCE = 2
_MAX_WAITING = 64
_RETRY_AFTER_MS = 2000

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)


class Passwords:
    """Hashes and verifies passwords; `close` ends its threads."""

    def __init__(self, minimum_length: int = 1) -> None:
        self._minimum_length = minimum_length
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="password")
        self._waiting = 0
        self._dummy_hash: str | None = None

    def check_strength(self, password: str, localpart: str) -> None:
        """Answer M_WEAK_PASSWORD for a password that must not be set."""
        if len(password) < self._minimum_length:
            raise MatrixError(
                400,
                "M_WEAK_PASSWORD",
                f"The password needs at least {self._minimum_length} characters",
            )
        if password.casefold() == localpart.casefold():
            raise MatrixError(400, "M_WEAK_PASSWORD", "The password is the user name")
        if _encoded(password) is None:
            raise MatrixError(
                400, "M_WEAK_PASSWORD", f"The password exceeds {MAX_PASSWORD_BYTES} bytes"
            )

    async def hash(self, password: str) -> str:
        """Return the PHC string of a password that passed `check_strength`."""
        encoded = _encoded(password)
        assert encoded is not None
        return await self._run(lambda: _hasher.hash(encoded))

    async def verify(self, password: str, password_hash: str | None) -> bool:
        """Tell whether the password is right.

        Without a hash (no such account, or one without password) a random one is tried, so that
        the time taken does not tell which accounts exist.
        """
        encoded = _encoded(password)
        if encoded is None:
            return False
        if password_hash is None:
            if self._dummy_hash is None:
                self._dummy_hash = await self._run(lambda: _hasher.hash(secrets.token_bytes()))
            await self._run(lambda: _is_right(encoded, self._dummy_hash or ""))
            return False
        return await self._run(lambda: _is_right(encoded, password_hash))

    def close(self) -> None:
        """End the threads; computations under way are finished first."""
        self._pool.shutdown()

    async def _run(self, compute: Callable[[], T]) -> T:
        if self._waiting >= _MAX_WAITING:
            raise LimitExceeded(_RETRY_AFTER_MS)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, compute)
        finally:
            self._waiting -= 1


def _encoded(password: str) -> bytes | None:
    """Return the password's bytes, or None when it is too long (or not text) to be anyone's."""
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        return None
    return encoded if len(encoded) <= MAX_PASSWORD_BYTES else None


def _is_right(password: bytes, password_hash: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
