"""Filters: what of a sync or a page a client wants.

Spec: client-server API, "Filtering".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from yizhan_server.storage.events import StoredEvent

DEFAULT_TIMELINE_LIMIT = 10
MAX_TIMELINE_LIMIT = 100


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Selects events by type, sender, room and content."""

    limit: int | None = None
    types: tuple[str, ...] | None = None
    not_types: tuple[str, ...] = ()
    senders: frozenset[str] | None = None
    not_senders: frozenset[str] = frozenset()
    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    contains_url: bool | None = None
    related_by_senders: frozenset[str] | None = None
    related_by_rel_types: frozenset[str] | None = None
    lazy_load_members: bool = False
    include_redundant_members: bool = False
    unread_thread_notifications: bool = False

    @property
    def lets_all_pass(self) -> bool:
        """Whether no event is left out, so that none need be looked at."""
        return (
            self.types is None
            and not self.not_types
            and self.senders is None
            and not self.not_senders
            and self.contains_url is None
            and self.related_by_senders is None
            and self.related_by_rel_types is None
        )

    def passes_room(self, room_id: str) -> bool:
        """Whether events of this room are wanted at all."""
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms

    def passes_type(self, kind: str) -> bool:
        """Whether events of this type are wanted."""
        if self.types is not None and not any(_globs(t)(kind) for t in self.types):
            return False
        return not any(_globs(t)(kind) for t in self.not_types)

    def passes_sender(self, sender: str) -> bool:
        """Whether events of this sender are wanted."""
        return (self.senders is None or sender in self.senders) and sender not in self.not_senders

    def passes(self, event: StoredEvent) -> bool:
        """Whether this event is wanted."""
        if not self.passes_type(event.type) or not self.passes_sender(event.sender):
            return False
        if self.contains_url is None:
            return True
        return isinstance(event.content.get("url"), str) == self.contains_url

    def passes_object(self, event: dict[str, Any]) -> bool:
        """Whether an event without a room (presence, account data) is wanted."""
        return self.passes_type(event.get("type", "")) and self.passes_sender(
            event.get("sender", "")
        )


@dataclass(frozen=True, slots=True)
class SyncFilter:
    """The filter of one /sync."""

    rooms: frozenset[str] | None = None
    not_rooms: frozenset[str] = frozenset()
    include_leave: bool = False
    as_pdus: bool = False
    """Events are wanted in the form in which servers exchange them."""
    timeline: EventFilter = field(default_factory=EventFilter)
    state: EventFilter = field(default_factory=EventFilter)
    ephemeral: EventFilter = field(default_factory=EventFilter)
    room_account_data: EventFilter = field(default_factory=EventFilter)
    account_data: EventFilter = field(default_factory=EventFilter)
    presence: EventFilter = field(default_factory=EventFilter)

    def passes_room(self, room_id: str) -> bool:
        """Whether this room is wanted at all."""
        return (self.rooms is None or room_id in self.rooms) and room_id not in self.not_rooms


def parse_event_filter(value: Any) -> EventFilter:
    """Read a (Room)EventFilter that was checked when it was uploaded; oddities are ignored."""
    if not isinstance(value, dict):
        return EventFilter()
    limit = value.get("limit")
    contains_url = value.get("contains_url")
    types = _strings(value.get("types"))
    return EventFilter(
        limit=limit if type(limit) is int and limit >= 0 else None,
        types=None if types is None else tuple(types),
        not_types=tuple(_strings(value.get("not_types")) or ()),
        senders=_set(value.get("senders")),
        not_senders=_set(value.get("not_senders")) or frozenset(),
        rooms=_set(value.get("rooms")),
        not_rooms=_set(value.get("not_rooms")) or frozenset(),
        contains_url=contains_url if isinstance(contains_url, bool) else None,
        related_by_senders=_set(value.get("related_by_senders")),
        related_by_rel_types=_set(value.get("related_by_rel_types")),
        lazy_load_members=value.get("lazy_load_members") is True,
        include_redundant_members=value.get("include_redundant_members") is True,
        unread_thread_notifications=value.get("unread_thread_notifications") is True,
    )


def parse_sync_filter(value: Any) -> SyncFilter:
    """Read a filter of /sync."""
    if not isinstance(value, dict):
        return SyncFilter()
    room = value.get("room")
    room = room if isinstance(room, dict) else {}
    return SyncFilter(
        rooms=_set(room.get("rooms")),
        not_rooms=_set(room.get("not_rooms")) or frozenset(),
        include_leave=room.get("include_leave") is True,
        as_pdus=value.get("event_format") == "federation",
        timeline=parse_event_filter(room.get("timeline")),
        state=parse_event_filter(room.get("state")),
        ephemeral=parse_event_filter(room.get("ephemeral")),
        room_account_data=parse_event_filter(room.get("account_data")),
        account_data=parse_event_filter(value.get("account_data")),
        presence=parse_event_filter(value.get("presence")),
    )


@lru_cache(maxsize=1024)
def _globs(pattern: str) -> Callable[[str], bool]:
    """Return a test whether a type matches; `*` is any sequence of characters.

    Not by a regular expression: `*a*a*a*b` would be tried in every way there is. Each piece
    between two stars is sought once, leftmost, which is enough.
    """
    if "*" not in pattern:
        return pattern.__eq__
    first, *middle, last = pattern.split("*")

    def matches(kind: str) -> bool:
        end = len(kind) - len(last)
        if not kind.startswith(first) or not kind.endswith(last) or end < len(first):
            return False
        at = len(first)
        for piece in middle:
            at = kind.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return matches


def _strings(value: Any) -> list[str] | None:
    if not isinstance(value, list):
        return None
    return [item for item in value if isinstance(item, str)]


def _set(value: Any) -> frozenset[str] | None:
    strings = _strings(value)
    return None if strings is None else frozenset(strings)
