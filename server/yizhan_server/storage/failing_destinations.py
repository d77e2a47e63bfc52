"""Servers that could not be reached, and when they are tried again; a row goes when one is back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from yizhan_database import Database, Transaction


@dataclass(frozen=True, slots=True)
class FailingDestination:
    """A server that has not answered since some time."""

    server_name: str
    since_ms: int
    interval_ms: int
    """How long it is left alone after its last failure."""
    retry_ms: int


async def scan_failing_destinations(db: Database) -> AsyncIterator[FailingDestination]:
    """Yield all of them."""
    rows = db.scan(
        "SELECT server_name, since_ms, interval_ms, retry_ms FROM failing_destination"
        " WHERE server_name > ? ORDER BY server_name LIMIT ?",
        after="",
    )
    async for row in rows:
        yield FailingDestination(*row)


def replace_failing_destination(tx: Transaction, failing: FailingDestination) -> None:
    """Keep how a server fails."""
    delete_failing_destination(tx, failing.server_name)
    tx.execute(
        "INSERT INTO failing_destination (server_name, since_ms, interval_ms, retry_ms)"
        " VALUES (?, ?, ?, ?)",
        failing.server_name, failing.since_ms, failing.interval_ms, failing.retry_ms,
    )  # fmt: skip


def delete_failing_destination(tx: Transaction, server_name: str) -> None:
    """Forget that a server failed."""
    tx.execute("DELETE FROM failing_destination WHERE server_name = ?", server_name)


def delete_stale_destinations(tx: Transaction, before_ms: int) -> None:
    """Forget servers that might have been tried again since long ago, and were not."""
    tx.execute(
        "DELETE FROM failing_destination WHERE retry_ms < ? /* scan: once at each start */",
        before_ms,
    )
