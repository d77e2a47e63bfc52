"""What other servers are owed, and the transaction that each busy one is being sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from yizhan_database import Database, Pos, Transaction, in_list
from yizhan_server.protocol.event import Pdu, redact_pdu
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.storage.events import LOCAL, REDACTED, join_pdu


@dataclass(frozen=True, slots=True)
class BusyDestination:
    """A server that something is owed to."""

    server: str
    sent_pos: int
    txn_id: str | None = None
    body: bytes | None = None
    upto_pos: int | None = None
    upto_edu: int | None = None


@dataclass(frozen=True, slots=True)
class OwnEvent:
    """A live event that this server passes on."""

    pos: int
    room: int
    pdu: Pdu


async def own_events(db: Database, after: int, upto: int, limit: int) -> list[OwnEvent]:
    """Return the first events in (after, upto] that this server passes on, ascending."""
    rows = await db.rows(
        "SELECT e.pos, e.room, r.version, e.flags, e.client, e.rest"
        " FROM event AS e JOIN room AS r ON r.nid = e.room"
        f" WHERE (e.flags & {LOCAL}) <> 0 AND e.pos > 0 AND e.pos > ? AND e.pos <= ?"
        " ORDER BY e.pos LIMIT ?",
        after, upto, limit,
    )  # fmt: skip
    return [
        OwnEvent(pos, room, _pdu(version, flags, client, rest))
        for pos, room, version, flags, client, rest in rows
    ]


async def own_events_for(
    db: Database, server: str, after: int, upto: int, limit: int
) -> list[OwnEvent]:
    """Return the first events in (after, upto] that are owed to a server in their rooms."""
    rows = await db.rows(
        "SELECT e.pos, e.room, r.version, e.flags, e.client, e.rest"
        " FROM event AS e JOIN room AS r ON r.nid = e.room"
        f" WHERE (e.flags & {LOCAL}) <> 0 AND e.pos > 0 AND e.pos > ? AND e.pos <= ?"
        " AND (EXISTS (SELECT 1 FROM room_server AS s WHERE s.room = e.room AND s.server = ?"
        " AND s.from_pos < e.pos AND (s.to_pos = 0 OR s.to_pos >= e.pos))"
        " OR (e.type = 'm.room.member' AND e.state_key LIKE '%:' || ?))"
        " ORDER BY e.pos LIMIT ?",
        after, upto, server, server, limit,
    )  # fmt: skip
    return [
        OwnEvent(pos, room, _pdu(version, flags, client, rest))
        for pos, room, version, flags, client, rest in rows
    ]


def _pdu(version_name: str, flags: int, client: bytes, rest: bytes) -> Pdu:
    version = ROOM_VERSIONS[version_name]
    pdu = join_pdu(client, rest, version)
    return redact_pdu(pdu, version) if flags & REDACTED else pdu


def mark_busy(tx: Transaction, servers: Collection[str], after: int) -> None:
    """Note that servers are owed something above a position; busy ones know already."""
    if servers:
        tx.execute_many(
            "INSERT INTO busy_destination (server, sent_pos) VALUES (?, ?) ON CONFLICT DO NOTHING",
            [(server, after) for server in servers],
        )


async def scan_busy_servers(db: Database) -> AsyncIterator[str]:
    """Yield the servers that something is owed to."""
    sql = "SELECT server FROM busy_destination WHERE server > ? ORDER BY server LIMIT ?"
    async for (server,) in db.scan(sql, after=""):
        yield server


async def find_busy(db: Database, server: str) -> BusyDestination | None:
    """Return how far a busy server is."""
    row = await db.row(
        "SELECT server, sent_pos, txn_id, body, upto_pos, upto_edu FROM busy_destination"
        " WHERE server = ?",
        server,
    )
    return None if row is None else BusyDestination(*row)


def begin_transaction(
    tx: Transaction,
    server: str,
    sent_pos: int,
    txn_id: str,
    body: bytes,
    upto_pos: int,
    now_ms: int,
) -> None:
    """Note that a server is owed something above a position, and keep the transaction that says it.

    It is all that is owed up to `upto_pos` to a server that is not busy; busy ones know already.
    """
    tx.execute(
        "INSERT INTO busy_destination"
        " (server, sent_pos, txn_id, body, upto_pos, upto_edu, since_ms)"
        " VALUES (?, ?, ?, ?, ?, 0, ?) ON CONFLICT DO NOTHING",
        server, sent_pos, txn_id, body, upto_pos, now_ms,
    )  # fmt: skip


def store_transaction(
    tx: Transaction,
    server: str,
    txn_id: str,
    body: bytes,
    upto_pos: int,
    upto_edu: int,
    now_ms: int,
) -> None:
    """Keep the transaction that a server is about to be sent. A guard: there is one at a time."""
    tx.guard(
        "UPDATE busy_destination SET txn_id = ?, body = ?, upto_pos = ?, upto_edu = ?,"
        " since_ms = ? WHERE server = ? AND txn_id IS NULL",
        txn_id, body, upto_pos, upto_edu, now_ms, server,
    )  # fmt: skip


def finish_transaction(tx: Transaction, server: str, txn_id: str, upto_edu: int) -> None:
    """Note that the server has taken its transaction."""
    tx.guard(
        "UPDATE busy_destination SET sent_pos = upto_pos, txn_id = NULL, body = NULL,"
        " upto_pos = NULL, upto_edu = NULL WHERE server = ? AND txn_id = ?",
        server, txn_id,
    )  # fmt: skip
    tx.execute("DELETE FROM outbox WHERE server = ? AND nid <= ?", server, upto_edu)


def advance_sent(tx: Transaction, server: str, pos: int) -> None:
    """Note that a server is owed nothing up to a position."""
    tx.execute(
        "UPDATE busy_destination SET sent_pos = ? WHERE server = ? AND sent_pos < ?"
        " AND txn_id IS NULL",
        pos, server, pos,
    )  # fmt: skip


def delete_busy(tx: Transaction, server: str) -> None:
    """Note that a server is owed nothing, unless a message has just been put into its outbox."""
    tx.execute(
        "DELETE FROM busy_destination WHERE server = ? AND txn_id IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.server = busy_destination.server)",
        server,
    )


def append_edus(
    tx: Transaction, edus: list[tuple[str, Pos, bytes]], follower: str, now_ms: int
) -> None:
    """Queue EDUs (server, position, JSON) that must arrive, and note their servers as busy.

    One that was not has been sent everything that `follower`, who notes such things, has seen.
    """
    tx.execute_many(
        "INSERT INTO outbox (server, nid, edu, ts_ms) VALUES (?, ?, ?, ?)",
        [(*edu, now_ms) for edu in edus],
    )
    tx.execute_many(
        "INSERT INTO busy_destination (server, sent_pos)"
        " VALUES (?, coalesce((SELECT pos FROM follower WHERE name = ?), 0))"
        " ON CONFLICT DO NOTHING",
        [(server, follower) for server in dict.fromkeys(server for server, _, _ in edus)],
    )


async def first_edus(db: Database, server: str, after: int, limit: int) -> list[tuple[int, bytes]]:
    """Return the first EDUs (number, JSON) above a number that wait for a server."""
    rows = await db.rows(
        "SELECT nid, edu FROM outbox WHERE server = ? AND nid > ? ORDER BY nid LIMIT ?",
        server, after, limit,
    )  # fmt: skip
    return [(nid, edu) for nid, edu in rows]


async def waits_since_ms(db: Database, server: str) -> int:
    """Return since when the oldest that is kept for a server waits; 0 if that is not known.

    2**62 if nothing is kept.
    """
    rows = await db.rows(
        "SELECT since_ms FROM busy_destination WHERE server = ? AND txn_id IS NOT NULL"
        " UNION ALL SELECT ts_ms FROM outbox WHERE server = ?"
        " AND nid = (SELECT min(nid) FROM outbox WHERE server = ?)",
        server, server, server,
    )  # fmt: skip
    return min((ms for (ms,) in rows), default=2**62)


async def find_surplus(db: Database, server: str, most: int) -> int | None:
    """Return the last of the EDUs that are too many for a server; None if there is none."""
    row = await db.row(
        "SELECT nid FROM outbox WHERE server = ? ORDER BY nid DESC LIMIT 1 OFFSET ?", server, most
    )
    return None if row is None else row[0]


def date_undated(tx: Transaction, server: str, now_ms: int) -> None:
    """Have what was kept for a server before times were kept wait since now."""
    tx.execute("UPDATE outbox SET ts_ms = ? WHERE server = ? AND ts_ms = 0", now_ms, server)
    tx.execute(
        "UPDATE busy_destination SET since_ms = ? WHERE server = ? AND since_ms = 0",
        now_ms, server,
    )  # fmt: skip


def delete_waiting(tx: Transaction, server: str, before_ms: int, surplus: int) -> None:
    """Give up the EDUs for a server from before a time, and those up to `surplus`.

    So also the transaction on its way, if it is from before: what the stream owes the server
    beside them will be in the next one.
    """
    tx.execute(
        "DELETE FROM outbox WHERE server = ? AND (ts_ms < ? OR nid <= ?)",
        server, before_ms, surplus,
    )  # fmt: skip
    tx.execute(
        "UPDATE busy_destination SET txn_id = NULL, body = NULL, upto_pos = NULL, upto_edu = NULL"
        " WHERE server = ? AND since_ms < ?",
        server, before_ms,
    )  # fmt: skip


async def servers_of_rooms(
    db: Database, rooms: list[int], own: str
) -> dict[int, list[tuple[str, int, int]]]:
    """Return each room's stays (server, from, to) of other servers; `to` 0 has not ended."""
    found: dict[int, list[tuple[str, int, int]]] = {}
    for room, server, from_pos, to_pos in await db.rows(
        *in_list(
            "SELECT room, server, from_pos, to_pos FROM room_server"
            " WHERE room IN (??) AND server <> ?",
            rooms, own,
        )
    ):  # fmt: skip
        found.setdefault(room, []).append((server, from_pos, to_pos))
    return found
