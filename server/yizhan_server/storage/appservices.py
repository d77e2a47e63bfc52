"""How far each application service has been told, what it is to be told, and the rooms it lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from yizhan_database import Database, Transaction, in_list
from yizhan_server.storage.device_changes import ChangeKind
from yizhan_server.storage.events import COLUMNS, StoredEvent, event_from
from yizhan_server.storage.receipts import StoredReceipt


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a service stands."""

    pos: int
    """Everything up to here has been taken, or is of no interest."""
    txn: int
    """The last transaction's number: no number is used twice."""
    upto: int
    body: bytes | None
    """The transaction of that number, while it is not known to be taken; it ends at `upto`."""


async def find_delivery(db: Database, service: str) -> Delivery | None:
    """Return where a service stands."""
    row = await db.row(
        "SELECT pos, txn, upto, body FROM appservice_delivery WHERE appservice = ?", service
    )
    return None if row is None else Delivery(*row)


def insert_delivery(tx: Transaction, service: str, pos: int) -> None:
    """Let a service begin at a position, unless it has begun."""
    tx.execute(
        "INSERT INTO appservice_delivery (appservice, pos, txn, upto, body)"
        " VALUES (?, ?, 0, 0, NULL) ON CONFLICT DO NOTHING",
        service, pos,
    )  # fmt: skip


def store_transaction(tx: Transaction, service: str, txn: int, upto: int, body: bytes) -> None:
    """Keep a transaction that is about to be sent. A guard: it is the next one."""
    tx.guard(
        "UPDATE appservice_delivery SET txn = ?, upto = ?, body = ?"
        " WHERE appservice = ? AND txn = ? AND body IS NULL",
        txn, upto, body, service, txn - 1,
    )  # fmt: skip


def finish_transaction(tx: Transaction, service: str, txn: int) -> None:
    """Note that a transaction was taken. A guard: nobody else has noted it."""
    tx.guard(
        "UPDATE appservice_delivery SET pos = upto, body = NULL"
        " WHERE appservice = ? AND txn = ? AND body IS NOT NULL",
        service, txn,
    )  # fmt: skip


def advance_delivery(tx: Transaction, service: str, txn: int, pos: int) -> None:
    """Note that nothing up to a position is of interest. A guard: no transaction was stored."""
    tx.guard(
        "UPDATE appservice_delivery SET pos = ?"
        " WHERE appservice = ? AND txn = ? AND body IS NULL AND pos < ?",
        pos, service, txn, pos,
    )  # fmt: skip


# What happened in a stretch of the stream


async def events_within(
    db: Database, after: int, upto: int, limit: int
) -> list[tuple[int, StoredEvent]]:
    """Return (room, event) of the first live events of all rooms in (after, upto]."""
    rows = await db.rows(
        f"SELECT room, {COLUMNS} FROM event WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
        after, upto, limit,
    )  # fmt: skip
    return [(row[0], event_from(row[1:])) for row in rows]


async def end_of_page(db: Database, after: int, upto: int, limit: int) -> int:
    """Return the end of a stretch that has receipts or to-device messages at `limit` positions."""
    for table in ("receipt", "to_device"):
        rows = await db.rows(
            f"SELECT DISTINCT pos FROM {table} WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
            after, upto, limit,
        )  # fmt: skip
        if len(rows) == limit:
            upto = rows[-1][0]
    return upto


async def memberships_after(db: Database, room: int, pos: int) -> list[str]:
    """Return whose membership of the room, of whatever kind, is newer than `pos`."""
    # Few are; `+room` keeps SQLite from reading all members of the room instead.
    rows = await db.rows("SELECT user_id FROM membership WHERE +room = ? AND pos > ?", room, pos)
    return [user_id for (user_id,) in rows]


async def receipts_within(db: Database, after: int, upto: int) -> list[tuple[int, StoredReceipt]]:
    """Return (room, receipt) of the receipts of all rooms that moved in (after, upto]."""
    rows = await db.rows(
        "SELECT room, user_id, type, thread, event_id, event_pos, ts_ms FROM receipt"
        " WHERE pos > ? AND pos <= ? ORDER BY pos",
        after, upto,
    )  # fmt: skip
    return [(row[0], StoredReceipt(*row[1:])) for row in rows]


async def to_device_within(db: Database, after: int, upto: int) -> list[tuple[str, str, bytes]]:
    """Return (user, device, event) of all messages in (after, upto], in order."""
    rows = await db.rows(
        "SELECT user_id, device_id, event FROM to_device WHERE pos > ? AND pos <= ?"
        " ORDER BY pos, user_id, device_id",
        after, upto,
    )  # fmt: skip
    return [(user_id, device_id, event) for user_id, device_id, event in rows]


def delete_to_device(
    tx: Transaction, devices: Iterable[tuple[str, str]], after: int, upto: int
) -> None:
    """Delete the messages in (after, upto] for these devices (user, device)."""
    tx.execute_many(
        "DELETE FROM to_device WHERE user_id = ? AND device_id = ? AND pos > ? AND pos <= ?",
        [(user_id, device_id, after, upto) for user_id, device_id in devices],
    )


async def device_changes_within(db: Database, after: int, upto: int) -> list[str]:
    """Return the users whose devices or keys changed for others in (after, upto]."""
    rows = await db.rows(
        "SELECT DISTINCT user_id FROM device_change WHERE pos > ? AND pos <= ? AND kind <> ?",
        after, upto, ChangeKind.OWN.value,
    )  # fmt: skip
    return [user_id for (user_id,) in rows]


async def devices_with_keys(db: Database, users: Sequence[str]) -> list[tuple[str, str]]:
    """Return (user, device) of these users' devices that have uploaded keys."""
    rows = await db.rows(
        *in_list(
            "SELECT user_id, device_id FROM device_keys WHERE user_id IN (??)"
            " ORDER BY user_id, device_id",
            users,
        )
    )
    return [(user_id, device_id) for user_id, device_id in rows]


# Published room directories


def append_network_room(tx: Transaction, service: str, network: str, room: int) -> None:
    """List a room in the directory of a service's network."""
    tx.execute(
        "INSERT INTO appservice_room (appservice, network, room) VALUES (?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        service, network, room,
    )  # fmt: skip


def delete_network_room(tx: Transaction, service: str, network: str, room: int) -> None:
    """Unlist a room there."""
    tx.execute(
        "DELETE FROM appservice_room WHERE appservice = ? AND network = ? AND room = ?",
        service, network, room,
    )  # fmt: skip


async def scan_network_rooms(
    db: Database, service: str, network: str
) -> AsyncIterator[tuple[int, str, int]]:
    """Yield (number, room id, joined members) of the rooms that a service's network lists."""
    sql = (
        "SELECT r.nid, r.room_id, (SELECT count(*) FROM membership AS m"
        " WHERE m.room = r.nid AND m.membership = 'join')"
        " FROM appservice_room AS a JOIN room AS r ON r.nid = a.room"
        " WHERE a.appservice = ? AND a.network = ? AND r.nid > ? ORDER BY r.nid LIMIT ?"
    )
    async for nid, room_id, joined in db.scan(sql, service, network, after=0):
        yield nid, room_id, joined


async def scan_all_network_rooms(db: Database) -> AsyncIterator[tuple[int, str, int]]:
    """Yield (number, room id, joined members) of the rooms that any network lists."""
    sql = (
        "SELECT r.nid, r.room_id, (SELECT count(*) FROM membership AS m"
        " WHERE m.room = r.nid AND m.membership = 'join')"
        " FROM room AS r WHERE EXISTS (SELECT 1 FROM appservice_room AS a WHERE a.room = r.nid)"
        " AND r.nid > ? ORDER BY r.nid LIMIT ?"
    )
    async for nid, room_id, joined in db.scan(sql, after=0):
        yield nid, room_id, joined
