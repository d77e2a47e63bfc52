"""The rendezvous of sign-in by QR code: a place where two devices leave each other messages.

What passes is encrypted between the two; here it is bytes that are overwritten in turn. In
memory, of bounded number and size and for minutes: nobody needs an account for it.

Spec: MSC4108 (the version of 2024, which clients in use speak).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import MatrixError, NotFound

if TYPE_CHECKING:
    from yizhan_server.clock import Clock

MAX_BYTES = 4096
LIFETIME_MS = 120_000
MAX_PLACES = 1000


@dataclass(frozen=True, slots=True)
class Left:
    """What lies at a place, and the mark by which its version is known."""

    data: bytes
    etag: str
    left_ms: int
    expires_ms: int


class Rendezvous:
    """The places."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # In the order of their latest writing, which is that of their ends.
        self._places: OrderedDict[str, Left] = OrderedDict()

    def create(self, data: bytes) -> tuple[str, Left]:
        """Leave something at a new place; returns its name. The oldest place makes room."""
        self._forget_ended()
        if len(self._places) >= MAX_PLACES:
            self._places.popitem(last=False)
        name = secrets.token_urlsafe(24)
        return name, self._put(name, data)

    def find(self, name: str) -> Left:
        """Return what lies at a place, or answer M_NOT_FOUND."""
        self._forget_ended()
        left = self._places.get(name)
        if left is None:
            raise NotFound("There is no such rendezvous")
        return left

    def replace(self, name: str, etag: str, data: bytes) -> Left:
        """Leave something else, if what lies there is still what the caller has seen."""
        if self.find(name).etag != etag:
            raise MatrixError(
                412, "M_UNKNOWN", "Somebody else has written meanwhile",
                **{"org.matrix.msc4108.errcode": "M_CONCURRENT_WRITE"},
            )  # fmt: skip
        return self._put(name, data)

    def remove(self, name: str) -> None:
        """Give a place up."""
        self.find(name)
        del self._places[name]

    def _put(self, name: str, data: bytes) -> Left:
        now_ms = self._clock.now_ms()
        left = Left(data, f'"{secrets.token_hex(8)}"', now_ms, now_ms + LIFETIME_MS)
        self._places[name] = left
        self._places.move_to_end(name)
        return left

    def _forget_ended(self) -> None:
        now_ms = self._clock.now_ms()
        while self._places and next(iter(self._places.values())).expires_ms <= now_ms:
            self._places.popitem(last=False)
