"""The time of the machine, put forward as far as a test likes."""

from __future__ import annotations

from typing_extensions import override

from yizhan_server.clock import SystemClock


class LaterClock(SystemClock):
    """A clock that runs `later_ms` ahead."""

    def __init__(self, later_ms: int = 0) -> None:
        self.later_ms = later_ms

    @override
    def now_ms(self) -> int:
        return super().now_ms() + self.later_ms
