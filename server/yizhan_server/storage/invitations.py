"""What invited and knocking people are shown of rooms that this server is not in."""

from __future__ import annotations

from typing import Any

from yizhan_database import Database, Transaction
from yizhan_server.protocol.canonical_json import encode_any, parse_roughly


def replace_state(tx: Transaction, room: int, user_id: str, state: list[dict[str, Any]]) -> None:
    """Keep the state events that came with an invitation or a knock."""
    tx.execute(
        "INSERT INTO invitation_state (room, user_id, state) VALUES (?, ?, ?)"
        " ON CONFLICT (room, user_id) DO UPDATE SET state = excluded.state",
        room, user_id, encode_any(state),
    )  # fmt: skip


def delete_state(tx: Transaction, room: int, user_id: str) -> None:
    """Forget them: the invitation is over."""
    tx.execute("DELETE FROM invitation_state WHERE room = ? AND user_id = ?", room, user_id)


def delete_states(tx: Transaction, room: int) -> None:
    """Forget those that came with anybody's."""
    tx.execute("DELETE FROM invitation_state WHERE room = ?", room)


async def find_state(db: Database, room: int, user_id: str) -> list[dict[str, Any]] | None:
    """Return the state events that came with a user's invitation or knock."""
    row = await db.row(
        "SELECT state FROM invitation_state WHERE room = ? AND user_id = ?", room, user_id
    )
    if row is None:
        return None
    state: list[dict[str, Any]] = parse_roughly(row[0])
    return state
