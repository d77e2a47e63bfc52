"""Events: the rows that /sync, /messages and every other reader are served from.

A PDU is stored in two pieces of JSON: `client`, the keys that every reader may see, which is
spliced into answers without being parsed, and `rest`, all others. `join_pdu` is their union.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from yizhan_database import Database, Pos, Row, Transaction, in_list
from yizhan_server.protocol.canonical_json import encode_any, parse_any, parse_roughly
from yizhan_server.protocol.event import Pdu, redact_pdu, trust_pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import EventIdFormat, RoomVersion

NOTIFY = 1
"""The predefined push rules notify a member about this event."""
HIGHLIGHT = 2
"""The predefined push rules highlight this event for a member."""
REJECTED = 4
SOFT_FAILED = 8
REDACTED = 16
SOUND = 64
"""The predefined push rules play the default sound."""
LOCAL = 32
"""Sent by this server, which therefore owes it to the other servers in the room."""
GAP = 128
"""Came while events before it were unknown here: what a reader has before it is not adjacent."""

CLIENT_KEYS = ("type", "sender", "state_key", "content", "origin_server_ts", "redacts")


class StoredEvent(msgspec.Struct, frozen=True):
    """One event as readers need it: its place, what selects it, and its bytes."""

    nid: int
    event_id: str
    pos: int
    """Stream position; negative for history, 0 for outliers."""
    depth: int
    type: str
    sender: str
    state_key: str | None
    ts_ms: int
    line: int
    seq: int
    thread: str | None
    rel_type: str | None
    rel_to: str | None
    flags: int
    client: bytes

    @property
    def content(self) -> dict[str, Any]:
        """The content, parsed anew: for the few who must look inside."""
        content = parse_roughly(self.client)["content"]
        assert isinstance(content, dict)
        return content


COLUMNS = (
    "nid, event_id, coalesce(pos, 0), depth, type, sender, state_key, ts_ms,"
    " coalesce(line, 0), coalesce(seq, 0), thread, rel_type, rel_to, flags, client"
)


def event_from(row: Row) -> StoredEvent:
    """Make an event of a row selected with `COLUMNS`."""
    return StoredEvent(*row)


def split_pdu(pdu: Pdu) -> tuple[bytes, bytes]:
    """Return the two pieces of JSON that `pdu` is stored as."""
    raw = pdu.raw
    client = {"event_id": pdu.event_id, "room_id": pdu.room_id}
    for key in CLIENT_KEYS:
        if key in raw:
            client[key] = raw[key]
    rest = {
        key: value
        for key, value in raw.items()
        if key not in CLIENT_KEYS and key not in ("room_id", "event_id", "unsigned")
    }
    return encode_any(client), encode_any(rest)


def join_pdu(client: bytes, rest: bytes, version: RoomVersion) -> Pdu:
    """Return the PDU that was stored in these two pieces; the opposite of `split_pdu`."""
    parse = orjson.loads if version.strict_canonical_json else parse_any
    raw = parse(client)
    event_id = raw["event_id"]
    if version.event_id_format is not EventIdFormat.FIELD:
        del raw["event_id"]
    if version.room_id_is_create_hash and raw["type"] == "m.room.create":
        del raw["room_id"]
    raw.update(parse(rest))
    return trust_pdu(raw, version, event_id)


def append_event(
    tx: Transaction,
    *,
    nid: int,
    room: int,
    pos: Pos | int | None,
    pdu: Pdu,
    line: int | None,
    seq: int | None,
    relation: Relation,
    flags: int,
    client: bytes,
    rest: bytes,
) -> None:
    """Record one event. `line`, `seq`: the state after it."""
    tx.execute(
        "INSERT INTO event (nid, event_id, room, pos, depth, type, sender, state_key, ts_ms,"
        " line, seq, thread, rel_type, rel_to, flags, client, rest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        nid, pdu.event_id, room, pos, pdu.depth, pdu.type, pdu.sender, pdu.state_key,
        pdu.origin_server_ts, line, seq, relation.thread, relation.rel_type, relation.rel_to,
        flags, client, rest,
    )  # fmt: skip


def append_outliers(tx: Transaction, room: int, outliers: Iterable[tuple[int, Pdu, int]]) -> None:
    """Record events (nid, event, flags) without any place; those that are here stay as they are."""
    rows = []
    for nid, pdu, flags in outliers:
        client, rest = split_pdu(pdu)
        relation = relation_of(pdu.content)
        rows.append(
            (nid, pdu.event_id, room, pdu.depth, pdu.type, pdu.sender, pdu.state_key,
             pdu.origin_server_ts, relation.thread, relation.rel_type, relation.rel_to, flags,
             client, rest)
        )  # fmt: skip
    tx.execute_many(
        "INSERT INTO event (nid, event_id, room, depth, type, sender, state_key, ts_ms,"
        " thread, rel_type, rel_to, flags, client, rest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
        rows,
    )


def place_event(tx: Transaction, *, nid: int, pos: Pos, line: int, seq: int, flags: int) -> None:
    """Make a stored event live. A guard: nothing gets a second live position."""
    tx.guard(
        "UPDATE event SET pos = ?, line = ?, seq = ?, flags = flags | ? WHERE nid = ?"
        " AND (pos IS NULL OR pos < 0)",
        pos, line, seq, flags, nid,
    )  # fmt: skip


def place_in_history(
    tx: Transaction, nid: int, pos: int, line: int | None, seq: int | None
) -> None:
    """Give a stored event a place behind everything live; a place that it has stays."""
    tx.execute(
        "UPDATE event SET pos = coalesce(pos, ?), line = coalesce(line, ?),"
        " seq = coalesce(seq, ?) WHERE nid = ?",
        pos, line, seq, nid,
    )  # fmt: skip


def note_place(tx: Transaction, nid: int, line: int, seq: int, flags: int) -> None:
    """Record the state after a stored event that gets no position (yet)."""
    tx.execute(
        "UPDATE event SET line = ?, seq = ?, flags = flags | ? WHERE nid = ?",
        line, seq, flags, nid,
    )  # fmt: skip


def add_flags(tx: Transaction, nid: int, flags: int) -> None:
    """Add to the flags of a stored event."""
    tx.execute("UPDATE event SET flags = flags | ? WHERE nid = ?", flags, nid)


@dataclass(frozen=True, slots=True)
class Relation:
    """What `m.relates_to` of an event says, in the columns that are searched."""

    thread: str | None = None
    rel_type: str | None = None
    rel_to: str | None = None


def relation_of(content: dict[str, Any]) -> Relation:
    """Read `m.relates_to`; anything malformed is no relation."""
    relates_to = content.get("m.relates_to")
    if not isinstance(relates_to, dict):
        return Relation()
    rel_type, event_id = relates_to.get("rel_type"), relates_to.get("event_id")
    if not isinstance(rel_type, str) or not isinstance(event_id, str):
        return Relation()
    if len(rel_type) > 255 or len(event_id) > 255 or "\0" in rel_type or "\0" in event_id:
        return Relation()
    return Relation(event_id if rel_type == "m.thread" else None, rel_type, event_id)


async def find_event(db: Database, event_id: str) -> tuple[int, StoredEvent] | None:
    """Return the room's nid and the event with this id, whatever its standing."""
    row = await db.row(f"SELECT room, {COLUMNS} FROM event WHERE event_id = ?", event_id)
    return None if row is None else (row[0], event_from(row[1:]))


async def events_by_nid(db: Database, nids: list[int]) -> dict[int, StoredEvent]:
    """Return these events by nid; those that do not exist are absent."""
    found: dict[int, StoredEvent] = {}
    for start in range(0, len(nids), 500):
        for row in await db.rows(
            *in_list(f"SELECT {COLUMNS} FROM event WHERE nid IN (??)", nids[start : start + 500])
        ):
            found[row[0]] = event_from(row)
    return found


async def event_ids(db: Database, nids: list[int]) -> list[str]:
    """Return the IDs of these events, in any order."""
    found: list[str] = []
    for start in range(0, len(nids), 500):
        rows = await db.rows(
            *in_list("SELECT event_id FROM event WHERE nid IN (??)", nids[start : start + 500])
        )
        found += [event_id for (event_id,) in rows]
    return found


async def pdus_by_nid(db: Database, nids: list[int], version: RoomVersion) -> dict[int, Pdu]:
    """Return these events as whole PDUs, by nid; redacted ones in their pruned form."""
    found: dict[int, Pdu] = {}
    for start in range(0, len(nids), 500):
        for nid, flags, client, rest in await db.rows(
            *in_list(
                "SELECT nid, flags, client, rest FROM event WHERE nid IN (??)",
                nids[start : start + 500],
            )
        ):
            pdu = join_pdu(client, rest, version)
            found[nid] = redact_pdu(pdu, version) if flags & REDACTED else pdu
    return found


async def accepted_pdus(
    db: Database, room: int, event_ids: Collection[str], version: RoomVersion
) -> dict[EventID, tuple[int, Pdu]]:
    """Return those of these events, a few hundred, that are of the room and not rejected.

    As nid and whole PDU; redacted ones in their pruned form.
    """
    found: dict[EventID, tuple[int, Pdu]] = {}
    # The room is compared here: in the statement, SQLite would search the whole room instead.
    for nid, of_room, flags, client, rest in await db.rows(
        *in_list(
            "SELECT nid, room, flags, client, rest FROM event WHERE event_id IN (??)", event_ids
        )
    ):
        if of_room == room and not flags & REJECTED:
            pdu = join_pdu(client, rest, version)
            found[pdu.event_id] = (nid, redact_pdu(pdu, version) if flags & REDACTED else pdu)
    return found


async def event_ids_by_nid(db: Database, nids: Collection[int]) -> dict[int, EventID]:
    """Return the IDs of these events, a few hundred."""
    rows = await db.rows(*in_list("SELECT nid, event_id FROM event WHERE nid IN (??)", nids))
    return dict(rows)


@dataclass(frozen=True, slots=True)
class KnownPdu:
    """An event of whatever standing, with its place if it has one."""

    nid: int
    pos: int | None
    line: int | None
    seq: int | None
    flags: int
    pdu: Pdu

    @property
    def is_placed(self) -> bool:
        """Whether the state after the event is known, and what became of it."""
        return self.line is not None and not self.is_begun

    @property
    def is_begun(self) -> bool:
        """Whether the state after it is stored and no more: it was about to be shown."""
        is_settled = self.pos is not None or self.flags & (REJECTED | SOFT_FAILED)
        return self.line is not None and not is_settled


async def known_pdus(
    db: Database, room: int, event_ids: Collection[str], version: RoomVersion
) -> dict[EventID, KnownPdu]:
    """Return those of these events that are here and of this room, redacted ones pruned."""
    wanted, found = list(event_ids), {}
    for start in range(0, len(wanted), 500):
        if start:
            await asyncio.sleep(0)  # others' turn: reading SQLite does not suspend
        # The room is compared here: in the statement, SQLite would search the whole room instead.
        for of_room, nid, pos, line, seq, flags, client, rest in await db.rows(
            *in_list(
                "SELECT room, nid, pos, line, seq, flags, client, rest FROM event"
                " WHERE event_id IN (??)",
                wanted[start : start + 500],
            )
        ):
            if of_room != room:
                continue
            pdu = join_pdu(client, rest, version)
            if flags & REDACTED:
                pdu = redact_pdu(pdu, version)
            found[pdu.event_id] = KnownPdu(nid, pos, line, seq, flags, pdu)
    return found


async def known_ids(db: Database, room: int, event_ids: Collection[str]) -> set[EventID]:
    """Return which of these events are here and of this room."""
    wanted, found = list(event_ids), set[EventID]()
    for start in range(0, len(wanted), 500):
        if start:
            await asyncio.sleep(0)
        rows = await db.rows(
            *in_list(
                "SELECT event_id, room FROM event WHERE event_id IN (??)",
                wanted[start : start + 500],
            )
        )
        found.update(EventID(event_id) for event_id, of_room in rows if of_room == room)
    return found


async def standings(
    db: Database, room: int, event_ids: Collection[str]
) -> dict[EventID, tuple[int, int]]:
    """Return (nid, flags) of those of these events, a few hundred, that are here, in the room."""
    rows = await db.rows(
        *in_list("SELECT event_id, room, nid, flags FROM event WHERE event_id IN (??)", event_ids)
    )
    return {
        EventID(event_id): (nid, flags) for event_id, of_room, nid, flags in rows if of_room == room
    }


async def taken_ids(
    db: Database, room: int, event_ids: Collection[str], version: RoomVersion
) -> set[EventID]:
    """Return those of the IDs of coming events of a room that events of other rooms have.

    Only where their senders choose them. There can be no second event of that ID here.
    """
    if version.event_id_format is not EventIdFormat.FIELD:
        return set()
    return await of_other_rooms(db, room, event_ids)


async def of_other_rooms(db: Database, room: int, event_ids: Collection[str]) -> set[EventID]:
    """Return those of these events that are here, but in another room."""
    found: set[EventID] = set()
    wanted = list(event_ids)
    for start in range(0, len(wanted), 500):
        rows = await db.rows(
            *in_list(
                "SELECT event_id, room FROM event WHERE event_id IN (??)",
                wanted[start : start + 500],
            )
        )
        found.update(EventID(event_id) for event_id, of_room in rows if of_room != room)
    return found


async def placed_among(db: Database, room: int, event_ids: Collection[str]) -> set[str]:
    """Return those of these events that are part of the room's history here."""
    rows = await db.rows(
        *in_list(
            "SELECT event_id FROM event WHERE event_id IN (??) AND room = ? AND pos <> 0",
            list(event_ids),
            room,
        )
    )
    return {event_id for (event_id,) in rows}


async def events_after(
    db: Database, room: int, after: int, upto: int, limit: int
) -> list[StoredEvent]:
    """Return at most `limit` live events with after < pos <= upto, the *latest* ones, ascending."""
    rows = await db.rows(
        f"SELECT {COLUMNS} FROM event WHERE room = ? AND pos > ? AND pos <= ?"
        " ORDER BY pos DESC LIMIT ?",
        room, after, upto, limit,
    )  # fmt: skip
    return [event_from(row) for row in reversed(rows)]


async def last_position(db: Database, room: int, upto: int) -> int:
    """Return the position of the room's last live event at or before `upto`; 0 if none."""
    row = await db.row(
        "SELECT pos FROM event WHERE room = ? AND pos > 0 AND pos <= ? ORDER BY pos DESC LIMIT 1",
        room, upto,
    )  # fmt: skip
    return 0 if row is None else row[0]


async def rooms_with_events(db: Database, after: int, upto: int) -> set[int]:
    """Return the rooms with live events in (after, upto], of the whole server: a short span."""
    rows = await db.rows("SELECT DISTINCT room FROM event WHERE pos > ? AND pos <= ?", after, upto)
    return {room for (room,) in rows}


async def last_position_of_types(
    db: Database, room: int, types: Collection[str], upto: int, depth: int
) -> int | None:
    """Return the position of the last live event of `types` among the last `depth` up to `upto`."""
    row = await db.row(
        *in_list(
            "SELECT max(pos) FROM (SELECT pos, type FROM event WHERE room = ? AND pos > 0"
            " AND pos <= ? ORDER BY pos DESC LIMIT ?) AS latest WHERE type IN (??)",
            room, upto, depth, types,
        )
    )  # fmt: skip
    return None if row is None else row[0]


async def events_by_depth(
    db: Database,
    room: int,
    place: tuple[int, int],
    *,
    backwards: bool,
    bound: int | None,
    limit: int,
) -> list[StoredEvent]:
    """Return a page of a room in topological order, beginning beyond `place` (depth, pos).

    Going backwards means towards older events. `bound` leaves out live events with a greater
    position: those that a reader whose membership ended must not see, or that a token excludes.
    """
    compare, order = ("<", "DESC") if backwards else (">", "ASC")
    rows = await db.rows(
        f"SELECT {COLUMNS} FROM event WHERE room = ? AND (depth, pos) {compare} (?, ?)"
        f" AND pos IS NOT NULL AND pos <= ? ORDER BY depth {order}, pos {order} LIMIT ?",
        room, *place, 2**62 if bound is None else bound, limit,
    )  # fmt: skip
    return [event_from(row) for row in rows]


async def events_by_time(
    db: Database, room: int, place: tuple[int, int], *, backwards: bool, limit: int
) -> list[StoredEvent]:
    """Return a page of a room's events by their own clocks, beyond `place` (ts_ms, pos)."""
    compare, order = ("<", "DESC") if backwards else (">", "ASC")
    rows = await db.rows(
        f"SELECT {COLUMNS} FROM event WHERE room = ? AND (ts_ms, pos) {compare} (?, ?)"
        f" AND pos IS NOT NULL ORDER BY ts_ms {order}, pos {order} LIMIT ?",
        room, *place, limit,
    )  # fmt: skip
    return [event_from(row) for row in rows]


async def transaction_ids(
    db: Database, user_id: str, device_id: str, event_ids: list[str]
) -> dict[str, str]:
    """Return which of these events this device sent, with the transaction id of each."""
    rows = await db.rows(
        *in_list(
            "SELECT event_id, txn_id FROM txn WHERE event_id IN (??)"
            " AND user_id = ? AND device_id = ?",
            event_ids, user_id, device_id,
        )
    )  # fmt: skip
    return dict(rows)


async def find_transaction(
    db: Database, user_id: str, device_id: str, scope: str, txn_id: str
) -> str | None:
    """Return the event that this transaction id was answered with, if it was."""
    row = await db.row(
        "SELECT event_id FROM txn WHERE user_id = ? AND device_id = ? AND scope = ?"
        " AND txn_id = ?",
        user_id, device_id, scope, txn_id,
    )  # fmt: skip
    return None if row is None else row[0]


def append_transaction(
    tx: Transaction,
    *,
    user_id: str,
    device_id: str,
    scope: str,
    txn_id: str,
    event_id: str,
    now_ms: int,
) -> None:
    """Remember what a transaction id was answered with.

    A guard: were another worker faster with the same transaction id, the whole job is undone,
    and its event is the answer.
    """
    tx.guard(
        "INSERT INTO txn (user_id, device_id, scope, txn_id, event_id, ts_ms)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        user_id, device_id, scope, txn_id, event_id, now_ms,
    )  # fmt: skip


def append_redaction(tx: Transaction, *, target: str, event: int, applied: bool) -> None:
    """Record that `event` redacts `target`; it need not be known yet."""
    tx.execute(
        "INSERT INTO redaction (target, event, applied) VALUES (?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        target, event, int(applied),
    )  # fmt: skip


async def pending_redactions(
    db: Database, target: str, room: int, version: RoomVersion
) -> list[KnownPdu]:
    """Return the redactions of an event that came before the event itself."""
    rows = await db.rows(
        "SELECT e.event_id FROM redaction AS r JOIN event AS e ON e.nid = r.event"
        " WHERE r.target = ? AND r.applied = 0",
        target,
    )
    known = await known_pdus(db, room, [event_id for (event_id,) in rows], version)
    return list(known.values())


async def awaited_by_redactions(db: Database, event_ids: Collection[str]) -> set[str]:
    """Return those of these events, a few hundred, that redactions name and that were not here."""
    rows = await db.rows(
        *in_list("SELECT target FROM redaction WHERE applied = 0 AND target IN (??)", event_ids)
    )
    return {target for (target,) in rows}


def apply_redaction(tx: Transaction, target: str, event: int) -> None:
    """Note that a redaction, which waited for its target, is applied to it."""
    tx.execute("UPDATE redaction SET applied = 1 WHERE target = ? AND event = ?", target, event)


def mark_redacted(tx: Transaction, event: int) -> None:
    """Flag an event as redacted: readers get its pruned form from now on."""
    tx.execute(f"UPDATE event SET flags = flags | {REDACTED} WHERE nid = ?", event)


async def redacted_before(db: Database, ts_ms: int, limit: int) -> list[tuple[str, int, str]]:
    """Return (target, redacting event, room version) of originals to erase: redacted before ts."""
    rows = await db.rows(
        "SELECT r.target, r.event, o.version FROM redaction AS r"
        " JOIN event AS e ON e.nid = r.event JOIN room AS o ON o.nid = e.room"
        " WHERE r.applied = 1 AND e.ts_ms < ? ORDER BY r.event LIMIT ?",
        ts_ms, limit,
    )  # fmt: skip
    return [(target, event, version) for target, event, version in rows]


def erase_original(
    tx: Transaction, target: str, redaction: int, pruned: tuple[bytes, bytes] | None
) -> None:
    """Replace a redacted event by its pruned form (None: it is not here) and note that it is."""
    if pruned is not None:
        tx.execute("UPDATE event SET client = ?, rest = ? WHERE event_id = ?", *pruned, target)
    tx.execute("UPDATE redaction SET applied = 2 WHERE target = ? AND event = ?", target, redaction)


def delete_transactions(tx: Transaction, before_ms: int) -> None:
    """Forget transaction ids of before `before_ms`: no client repeats a request so late."""
    tx.execute("DELETE FROM txn WHERE ts_ms < ?", before_ms)


async def applied_redactions(db: Database, event_ids: list[str]) -> dict[str, int]:
    """Return, for those of these events that are redacted, the nid of the redacting event."""
    rows = await db.rows(
        *in_list(
            "SELECT target, min(event) FROM redaction WHERE target IN (??) AND applied > 0"
            " GROUP BY target",
            event_ids,
        )
    )
    return dict(rows)
