"""Keeps the search index in step with the stream.

A follower: its cursor is advanced in the commit that writes the documents, so nothing is missed
and what is repeated does no harm. A message and its edits are one document, under the last of
them, so that only whoever may see an edit finds its words. Encrypted rooms are never indexed.
"""

from __future__ import annotations

import asyncio

from yizhan_database import Database, Transaction
from yizhan_server.protocol.canonical_json import parse_roughly
from yizhan_server.protocol.event import redacts_of
from yizhan_server.rooms.registry import Rooms
from yizhan_server.rooms.room import Room
from yizhan_server.search.tokens import tokens_of
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import followers
from yizhan_server.storage import search as storage
from yizhan_server.storage.events import REDACTED, StoredEvent
from yizhan_server.streams import Stream

FOLLOWER = "search"
BATCH = 200
LAG = 10_000
"""Positions without anything to index after which the cursor is written all the same."""
PAUSE_S = 5.0
"""Between two looks at the stream, so that messages share a write; a search looks at once."""

MESSAGE, NAME, TOPIC = "m.room.message", "m.room.name", "m.room.topic"
INDEXED = frozenset((MESSAGE, NAME, TOPIC))


class MessageIndex:
    """Follows the stream and indexes what can be searched for."""

    def __init__(self, db: Database, stream: Stream, rooms: Rooms) -> None:
        self._db = db
        self._stream = stream
        self._rooms = rooms
        self._lock = asyncio.Lock()
        self._cursor: int | None = None
        self._kept = 0

    async def run(self) -> None:
        """Follow; in the background."""
        with self._stream.follow() as published:
            while not self._stream.closing:
                await self.catch_up()
                await published.wait()
                published.clear()
                await asyncio.sleep(PAUSE_S)

    async def catch_up(self) -> None:
        """Index everything that is committed now."""
        upto = self._stream.position
        async with self._lock:
            if self._cursor is None:
                self._cursor = self._kept = await followers.find_cursor(self._db, FOLLOWER)
            while self._cursor < upto:
                page = await storage.events_after(self._db, self._cursor, upto, BATCH)
                cursor = page[-1][1].pos if len(page) == BATCH else upto
                await self._index(page, cursor)
                self._cursor = cursor

    async def _index(self, page: list[tuple[int, StoredEvent]], cursor: int) -> None:
        concerned = [
            (room, event)
            for room, event in page
            if event.type in INDEXED or event.type == "m.room.redaction"
        ]
        if not concerned and cursor - self._kept < LAG:
            # Not worth a write: after a restart this part of the stream is looked at again.
            return
        tx = Transaction()
        rooms = await self._rooms.by_nid(list({room for room, _ in concerned}))
        originals: dict[str, Room] = {}
        for nid, event in concerned:
            original = await self._original_of(event, rooms[nid])
            if original is not None:
                originals[original] = rooms[nid]
        for event_id, room in originals.items():
            await self._replace(tx, event_id, room)
        followers.advance_cursor(tx, FOLLOWER, cursor)
        await self._db.commit(tx)
        self._kept = cursor

    async def _original_of(self, event: StoredEvent, room: Room) -> str | None:
        """Return the event whose document the event may change."""
        if event.type == "m.room.redaction":
            target_id = redacts_of(parse_roughly(event.client), room.version)
            if target_id is None:
                return None
            found = await stored_events.find_event(self._db, target_id)
            if found is None:
                return None
            event = found[1]
        if event.type not in INDEXED:
            return None
        return event.rel_to if event.rel_type == "m.replace" else event.event_id

    async def _replace(self, tx: Transaction, event_id: str, room: Room) -> None:
        """Index an event anew, under its last edit if it has any."""
        found = await stored_events.find_event(self._db, event_id)
        if found is None or found[0] != room.nid:
            return
        original = found[1]
        edits = [
            edit
            for edit in await storage.edits_of(self._db, event_id)
            if edit.sender == original.sender and edit.type == original.type
        ]
        for each in (original, *edits):
            storage.replace_document(tx, self._db, each.nid, room.nid, [])
        if original.flags & REDACTED or await room.state_event("m.room.encryption") is not None:
            return
        shown = next((edit for edit in edits if not edit.flags & REDACTED), original)
        storage.replace_document(tx, self._db, shown.nid, room.nid, tokens_of(text_of(shown)))


def text_of(event: StoredEvent) -> str:
    """Return what of an event can be searched for."""
    content = event.content
    if event.rel_type == "m.replace":
        replacement = content.get("m.new_content")
        content = replacement if isinstance(replacement, dict) else {}
    field = {MESSAGE: "body", NAME: "name", TOPIC: "topic"}[event.type]
    texts = [content.get(field)]
    if event.type == TOPIC:
        topic = content.get("m.topic")
        parts = topic.get("m.text") if isinstance(topic, dict) else None
        texts += [
            part.get("body")
            for part in (parts if isinstance(parts, list) else [])
            if isinstance(part, dict) and part.get("mimetype", "text/plain") == "text/plain"
        ]
    return "\n".join(dict.fromkeys(text for text in texts if isinstance(text, str)))
