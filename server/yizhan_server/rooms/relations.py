"""Events that relate to others: pages of them, and what is bundled with their target.

Spec: client-server API, "Relationships and relations", "Threading", "Event replacements".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from yizhan_database import Database
from yizhan_server.protocol.canonical_json import parse_roughly
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.protocol.stream_token import PageToken, SyncToken, parse_token
from yizhan_server.rooms.access import ReadableRoom, RoomAccess, VisibleEvent
from yizhan_server.rooms.incoming.backfill import Backfill
from yizhan_server.rooms.rendering import event_bytes
from yizhan_server.storage import relations as stored_relations
from yizhan_server.storage.events import REDACTED, StoredEvent

THREAD = "m.thread"
REPLACE = "m.replace"
REFERENCE = "m.reference"
BUNDLED = (THREAD, REPLACE, REFERENCE)
MAX_REPLIES = 100
"""Of a thread, looked at for one that its reader may see."""

MAX_HOPS = 3
"""How far `recurse` follows relations of relations."""

BEGINNING, END = -(2**62), 2**62
"""Beyond all positions; those of history are below 0."""

DEEPEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class RelationsPage:
    """A page of related events."""

    events: list[StoredEvent]
    start: str | None
    end: str | None


class IgnoredPeople(Protocol):
    """Knows who ignores whom."""

    async def ignored_by(self, user_id: UserID) -> frozenset[str]:
        """Return whom a user ignores: nothing of theirs is bundled."""
        ...


class Relations:
    """Finds related events."""

    def __init__(
        self, db: Database, access: RoomAccess, backfill: Backfill, ignoring: IgnoredPeople
    ) -> None:
        self._db = db
        self._ignoring = ignoring
        self._access = access
        self._backfill = backfill

    async def page(
        self,
        target: VisibleEvent,
        *,
        rel_type: str | None,
        event_type: str | None,
        start: str | None,
        stop: str | None,
        limit: int,
        backwards: bool,
        recurse: bool,
    ) -> RelationsPage:
        """Return the visible events that relate to `target`, in stream order.

        Where events are missing after it, other servers are asked for some of them.
        """
        readable = target.readable
        after, before = _bounds(start, stop, backwards=backwards)

        async def read() -> list[StoredEvent]:
            return await stored_relations.related(
                self._db, readable.room.nid, target.event.event_id,
                rel_type=rel_type, event_type=event_type, after=after, before=before,
                backwards=backwards, limit=limit + 1, hops=MAX_HOPS if recurse else 1,
            )  # fmt: skip

        rows = await read()
        if len(rows) <= limit and await self._reach(readable, target.event.depth + 1):
            rows = await read()
        more = len(rows) > limit
        rows = rows[:limit]
        visible = await self._access.visible(readable, rows)
        end = None
        if more and rows:
            end = PageToken(rows[-1].depth, rows[-1].pos, None).serialize()
        return RelationsPage(visible, start, end)

    async def threads(
        self, readable: ReadableRoom, *, participated: bool, start: str | None, limit: int
    ) -> RelationsPage:
        """Return thread roots, that with the newest reply first.

        Where history is missing, other servers are asked for some of it.
        """
        before = END if start is None else _position(start)

        async def read() -> list[tuple[StoredEvent, int]]:
            return await stored_relations.thread_roots(
                self._db, readable.room.nid, readable.user_id if participated else None,
                before, limit + 1,
            )  # fmt: skip

        rows = await read()
        if len(rows) <= limit and await self._reach(readable, 0):
            rows = await read()
        more = len(rows) > limit
        rows = rows[:limit]
        visible = await self._access.visible(readable, [event for event, _ in rows])
        end = PageToken(0, rows[-1][1], None).serialize() if more and rows else None
        return RelationsPage(visible, start, end)

    async def _reach(self, readable: ReadableRoom, low: int) -> bool:
        """Have a member see more than is here, from a depth on; whether anything came."""
        return readable.membership == "join" and await self._backfill.reach(
            readable.room, low, DEEPEST
        )

    async def bundle(
        self, readable: ReadableRoom, events: Sequence[StoredEvent]
    ) -> Mapping[str, dict[str, Any]]:
        """Return `m.relations` of those events that have any; a redacted event has none."""
        targets = {
            event.event_id: event
            for event in events
            if not event.flags & REDACTED and event.state_key is None
        }
        if not targets:
            return {}
        relations: dict[str, dict[str, Any]] = {}
        for event_id, rel_type in await stored_relations.kinds_of_relations(
            self._db, list(targets), BUNDLED
        ):
            target = targets[event_id]
            if rel_type == REPLACE:
                part = await self._replacement(readable, target)
            elif rel_type == THREAD:
                part = await self._thread(readable, target)
            else:
                part = await self._references(readable, target)
            if part is not None:
                relations.setdefault(event_id, {})[rel_type] = part
        return relations

    async def _replacement(self, readable: ReadableRoom, target: StoredEvent) -> object | None:
        """Return the newest valid edit: same sender and type, and no edit of an edit."""
        if target.rel_type == REPLACE:
            return None
        found = await stored_relations.latest_replacement(self._db, readable.room.nid, target)
        if found is None or not await self._access.visible(readable, [found]):
            return None
        found = await self._without_erased(readable, found)
        if found.flags & REDACTED:
            return None
        return orjson.Fragment(event_bytes(found, readable.room))

    async def _thread(self, readable: ReadableRoom, target: StoredEvent) -> object | None:
        summary = await stored_relations.thread_summary(
            self._db, readable.room.nid, target.event_id, readable.user_id, readable.upto,
            await self._ignoring.ignored_by(readable.user_id),
        )  # fmt: skip
        if summary is None:
            return None
        found = await self._latest_visible(readable, target, summary.latest)
        if found is None:
            return None
        newest = await self._without_erased(readable, found)
        latest = parse_roughly(event_bytes(newest, readable.room))
        nested = await self._replacement(readable, newest)
        if nested is not None:
            latest["unsigned"] = {"m.relations": {REPLACE: nested}}
        return {
            "latest_event": latest,
            "count": summary.count,
            "current_user_participated": (
                summary.participated or target.sender == readable.user_id
            ),
        }

    async def _latest_visible(
        self, readable: ReadableRoom, root: StoredEvent, latest: StoredEvent
    ) -> StoredEvent | None:
        """Return the newest reply that the reader may see: who was away has not seen the others."""
        if await self._access.visible(readable, [latest]):
            return latest
        earlier = await stored_relations.related(
            self._db, readable.room.nid, root.event_id, rel_type=THREAD, event_type=None,
            after=BEGINNING, before=latest.pos, backwards=True, limit=MAX_REPLIES, hops=1,
        )  # fmt: skip
        ignored = await self._ignoring.ignored_by(readable.user_id)
        heard = [event for event in earlier if event.sender not in ignored]
        visible = await self._access.visible(readable, heard)
        return visible[0] if visible else None

    async def _without_erased(self, readable: ReadableRoom, event: StoredEvent) -> StoredEvent:
        memberships = await self._access.membership_at(readable, [event])
        return (await self._access.without_erased([event], memberships))[0]

    async def _references(self, readable: ReadableRoom, target: StoredEvent) -> object | None:
        rows = await stored_relations.related(
            self._db, readable.room.nid, target.event_id, rel_type=REFERENCE, event_type=None,
            after=BEGINNING, before=END, backwards=False, limit=100, hops=1,
        )  # fmt: skip
        ignored = await self._ignoring.ignored_by(readable.user_id)
        heard = [event for event in rows if event.sender not in ignored]
        visible = await self._access.visible(readable, heard)
        return {"chunk": [{"event_id": event.event_id} for event in visible]} if visible else None


def _bounds(start: str | None, stop: str | None, *, backwards: bool) -> tuple[int, int]:
    """Return the open interval of positions that a page may come from."""
    after, before = BEGINNING, END
    if start is not None:
        if backwards:
            before = _position(start)
        else:
            after = _position(start)
    if stop is not None:
        if backwards:
            after = _position(stop)
        else:
            before = _position(stop)
    return after, before


def _position(text: str) -> int:
    token = parse_token(text)
    # A sync token covers its own position.
    return token.position + 1 if isinstance(token, SyncToken) else token.position
