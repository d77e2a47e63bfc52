"""A change that only its user's own devices see in /sync."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yizhan_database import Commit, Pos, Transaction
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.streams import Stream


def record_own_change(tx: Transaction, stream: Stream, user_id: UserID) -> Pos:
    """Return the position for the change; its commit makes it visible and wakes the user."""
    pos = tx.position()

    def show(commit: Commit) -> None:
        stream.publish(commit[pos])
        stream.wake([user_id])

    tx.after_commit(show)
    return pos
