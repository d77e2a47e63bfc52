"""Faults that a simulation must find. Only the first server gets them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from yizhan_server.protocol.state_resolution import ordering, v2
from yizhan_testing.simulation.network import serving
from yizhan_testing.simulation.town import NAMES


def reversed_mainline() -> None:
    """Replay what is not about power in the wrong order."""
    right = ordering.mainline_ordered

    def wrong(events: Iterable[Any], *more: Any) -> Generator[Any, Any, list[Any]]:
        ordered = yield from right(events, *more)  # type: ignore[arg-type]
        return ordered[::-1] if serving.get("") == NAMES[0] else ordered

    setattr(v2, "mainline_ordered", wrong)  # noqa: B010 - not what it is for others


FAULTS: dict[str, Callable[[], None]] = {"reversed-mainline": reversed_mainline}
