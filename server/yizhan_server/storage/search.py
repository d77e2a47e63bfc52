"""The search index: one document of tokens for each event that can be found.

SQLite keeps it in a contentless FTS5 table, PostgreSQL as tsvector: the two statements of each
function say the same. Tokens are letters and digits only, so they need no quoting within the
query languages of either.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from yizhan_database import Database, Row, Transaction, in_list
from yizhan_server.storage.events import COLUMNS, StoredEvent, event_from

Phrases = Sequence[Sequence[str]]
"""All must occur, each as its tokens in a row."""

MAX_POSITION = 16_000
"""PostgreSQL counts positions no further."""


_INDEXED = "/* scan: of a virtual table, by its index */"
"""What SQLite's plans call a scan and is none."""


def replace_document(
    tx: Transaction, db: Database, event: int, room: int, tokens: Sequence[str]
) -> None:
    """Index an event under these tokens; none take it out of the index."""
    tx.execute(f"DELETE FROM search_text WHERE rowid = ? {_INDEXED}", event)
    kept = tokens[:MAX_POSITION]
    if not kept:
        return
    if db.dialect == "sqlite":
        tx.execute(
            "INSERT INTO search_text (rowid, body, room) VALUES (?, ?, ?)",
            event, " ".join(kept), f"r{room}",
        )  # fmt: skip
    else:
        vector = " ".join(f"'{token}':{place}" for place, token in enumerate(kept, 1))
        tx.execute(
            "INSERT INTO search_text (rowid, body, room)"
            " VALUES (?, CAST(CAST(? AS TEXT) AS TSVECTOR), ?)",
            event, vector, room,
        )  # fmt: skip


async def matching_events(
    db: Database, phrases: Phrases, rooms: Collection[int], before: int, limit: int
) -> list[tuple[float, StoredEvent]]:
    """Return (rank, event) of the last matches in these rooms with a number below `before`."""
    if db.dialect == "sqlite":
        rows = await db.rows(
            f"SELECT -bm25(search_text), {COLUMNS} FROM search_text"
            " JOIN event ON event.nid = search_text.rowid"
            " WHERE search_text MATCH ? AND search_text.rowid < ?"
            f" ORDER BY search_text.rowid DESC LIMIT ? {_INDEXED}",
            _sqlite_query(phrases, rooms), before, limit,
        )  # fmt: skip
    else:
        rows = await db.rows(
            *in_list(
                f"SELECT ts_rank(s.body, CAST(CAST(? AS TEXT) AS TSQUERY)), {COLUMNS}"
                " FROM search_text AS s JOIN event ON event.nid = s.rowid"
                " WHERE s.body @@ CAST(CAST(? AS TEXT) AS TSQUERY) AND s.room IN (??)"
                " AND s.rowid < ? ORDER BY s.rowid DESC LIMIT ?",
                _postgresql_query(phrases), _postgresql_query(phrases), rooms, before, limit,
            )
        )  # fmt: skip
    return [_match(row) for row in rows]


async def edits_of(db: Database, event_id: str) -> list[StoredEvent]:
    """Return the events that replace an event, the last one first."""
    rows = await db.rows(
        f"SELECT {COLUMNS} FROM event WHERE rel_to = ? AND rel_type = 'm.replace'"
        " AND pos IS NOT NULL ORDER BY pos DESC LIMIT 1000",
        event_id,
    )
    return [event_from(row) for row in rows]


async def events_after(
    db: Database, after: int, upto: int, limit: int
) -> list[tuple[int, StoredEvent]]:
    """Return (room, event) of the first live events of the whole stream in (after, upto]."""
    rows = await db.rows(
        f"SELECT room, {COLUMNS} FROM event WHERE pos > ? AND pos <= ? ORDER BY pos LIMIT ?",
        after, upto, limit,
    )  # fmt: skip
    return [(row[0], event_from(row[1:])) for row in rows]


def _match(row: Row) -> tuple[float, StoredEvent]:
    return float(row[0]), event_from(row[1:])


def _sqlite_query(phrases: Phrases, rooms: Collection[int]) -> str:
    body = " AND ".join('"' + " ".join(phrase) + '"' for phrase in phrases)
    places = " OR ".join(f"r{room}" for room in rooms)
    return f"({{body}} : ({body})) AND ({{room}} : ({places}))"


def _postgresql_query(phrases: Phrases) -> str:
    return " & ".join(
        "(" + " <-> ".join(f"'{token}'" for token in phrase) + ")" for phrase in phrases
    )
