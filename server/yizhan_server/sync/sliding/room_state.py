"""Reading the state that rules name, all of it or what changed.

Spec: MSC4186, "RequiredStateRequest", "Changing room configs".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from yizhan_database import Database
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import REDACTED, StoredEvent
from yizhan_server.storage.state import StateKey
from yizhan_server.sync.changes import Window
from yizhan_server.sync.sliding.required_state import ANY, MEMBER, Rules, matcher


@dataclass(frozen=True, slots=True)
class StateChanges:
    """How a room's current state changed within a window."""

    events: list[StoredEvent] = field(default_factory=list)
    removed: list[StateKey] = field(default_factory=list)

    def touches(self, kind: str) -> bool:
        """Whether state of this type changed."""
        return any(event.type == kind for event in self.events) or any(
            removed == kind for removed, _ in self.removed
        )

    def members(self) -> dict[str, int]:
        """Return the changed member events: user -> event."""
        return {event.state_key or "": event.nid for event in self.events if event.type == MEMBER}


class RoomState:
    """Reads state as of a position."""

    def __init__(self, db: Database, keys: StateKeys) -> None:
        self._db = db
        self._keys = keys

    async def event(self, room: int, kind: str, state_key: str, pos: int) -> StoredEvent | None:
        """Return one state event."""
        nid = await self._find(room, (kind, state_key), pos)
        if nid is None:
            return None
        return (await stored_events.events_by_nid(self._db, [nid]))[nid]

    async def member_events(self, room: int, users: set[str], pos: int) -> dict[str, int]:
        """Return the member events of those of `users` who have one: user -> event."""
        found = {user: await self._find(room, (MEMBER, user), pos) for user in sorted(users)}
        return {user: nid for user, nid in found.items() if nid is not None}

    async def changes(self, room: int, window: Window) -> StateChanges:
        """Return what changed in a window."""
        changes = await stored_state.current_state_changes(
            self._db, room, window.after or 0, window.upto
        )
        if not changes:
            return StateChanges()
        removed = [key for key, nid in changes.items() if nid == stored_state.REMOVED]
        names = await stored_state.keys_by_nid(self._db, removed) if removed else {}
        events = await stored_events.events_by_nid(self._db, list(changes.values()))
        return StateChanges(list(events.values()), list(names.values()))

    async def named_by(self, rules: Rules, room: int, pos: int) -> list[StoredEvent]:
        """Return all state events that the rules name."""
        if not rules:
            return []
        matches = matcher(rules)
        nids = await self._candidates(rules, room, pos)
        events = await stored_events.events_by_nid(self._db, nids)
        return [event for event in events.values() if matches(event.type, event.state_key or "")]

    async def _candidates(self, rules: Rules, room: int, pos: int) -> list[int]:
        """Return few events, the named ones among them."""
        broad = {rule for rule in rules if rule.type == ANY}
        broad |= {rule for rule in rules if (rule.type, rule.state_key) == (MEMBER, ANY)}
        if any(rule.names_all_members or rule.state_key != ANY for rule in broad):
            return list((await stored_state.current_state(self._db, room, pos)).values())
        found: list[int] = []
        if broad:
            found += (await stored_state.current_state_but_members(self._db, room, pos)).values()
        for rule in rules - broad:
            if rule.state_key != ANY:
                nid = await self._find(room, (rule.type, rule.state_key), pos)
                if nid is not None:
                    found.append(nid)
                continue
            for key in await stored_state.keys_of_type(self._db, room, rule.type):
                nid = await stored_state.current_state_event(self._db, room, key, pos)
                if nid is not None:
                    found.append(nid)
        return found

    async def _find(self, room: int, key: StateKey, pos: int) -> int | None:
        key_nid = await self._keys.find(key)
        if key_nid is None:
            return None
        return await stored_state.current_state_event(self._db, room, key_nid, pos)


def shown_content(event: StoredEvent) -> dict[str, Any]:
    """Return what readers may use of a state event's content: nothing of a redacted one."""
    return {} if event.flags & REDACTED else event.content
