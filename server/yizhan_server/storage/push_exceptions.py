"""Users whose push rules judged an event otherwise than the predefined rules did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yizhan_database import Database, Pos, Transaction


@dataclass(frozen=True, slots=True)
class PushException:
    """One user's difference: `notify` and `highlight` are -1, 0 or 1 against the event's flags."""

    user_id: str
    notify: int
    highlight: int
    tweaks: str | None
    """JSON object of the tweaks to deliver; None when nothing is delivered."""


def append_exceptions(
    tx: Transaction, room: int, pos: Pos, exceptions: Sequence[PushException]
) -> None:
    """Record whose judgement of the event at `pos` differs."""
    tx.execute_many(
        "INSERT INTO push_exception (room, user_id, pos, notify, highlight, tweaks)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (room, each.user_id, pos, each.notify, each.highlight, each.tweaks)
            for each in exceptions
        ],
    )


async def exceptions_after(
    db: Database, room: int, user_id: str, after: int, upto: int
) -> list[tuple[int, int, int]]:
    """Return (pos, notify, highlight) of one user's exceptions in (after, upto]."""
    rows = await db.rows(
        "SELECT pos, notify, highlight FROM push_exception"
        " WHERE room = ? AND user_id = ? AND pos > ? AND pos <= ?",
        room, user_id, after, upto,
    )  # fmt: skip
    return [(pos, notify, highlight) for pos, notify, highlight in rows]
