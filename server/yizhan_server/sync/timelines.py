"""The latest events of a room that a reader wants and may see.

Spec: client-server API, "Syncing".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from yizhan_server.protocol.stream_token import PageToken
from yizhan_server.rooms.access import ReadableRoom, RoomAccess
from yizhan_server.storage.events import GAP, StoredEvent
from yizhan_server.storage.state import StateKey
from yizhan_server.sync.changes import Window


@dataclass(frozen=True, slots=True)
class Timeline:
    """Events of a window, ascending."""

    events: list[StoredEvent]
    limited: bool
    """There are more in the window than these."""
    start: int
    """The state before the timeline is the current state as of this position."""
    prev_batch: str


class Timelines:
    """Reads timelines."""

    def __init__(self, access: RoomAccess) -> None:
        self._access = access

    async def read(
        self,
        readable: ReadableRoom,
        window: Window,
        limit: int,
        ignored: AbstractSet[str],
        passes: Callable[[StoredEvent], bool],
    ) -> Timeline:
        """Return the last `limit` events; of users in `ignored` only what changes the state."""
        after, upto, room = window.after or 0, window.upto, readable.room
        if await room.last_position(upto) <= after:
            return empty_timeline(after)
        picked: list[StoredEvent] = []
        hidden: dict[StateKey, int] = {}
        end = upto
        while True:
            # One more than wanted tells whether there is a gap.
            page = await room.events_after(after, end, limit + 1)
            visible = await self._access.visible(readable, page)
            if window.after is not None and len(visible) < len(page):
                visible = await self._with_current_state(readable, page, visible, upto)
            seen = [
                event
                for event in reversed(visible)
                if passes(event) and (event.sender not in ignored or event.state_key is not None)
            ]
            picked += seen
            if len(seen) < len(page):
                shown = {event.nid for event in seen}
                for event in page:
                    if event.nid not in shown and event.state_key is not None:
                        key = (event.type, event.state_key)
                        hidden[key] = max(event.pos, hidden.get(key, 0))
            has_gap = _cut_at_gap(picked)
            if has_gap or len(picked) > limit or len(page) <= limit:
                break
            end = page[0].pos - 1
        limited = has_gap or len(picked) > limit
        picked = picked[:limit][::-1]
        outdated = _count_outdated(picked, hidden)
        if outdated:
            picked, limited = picked[outdated:], True
        if picked:
            first = picked[0]
            # The token just before the first event, in the order that /messages pages by.
            return Timeline(
                picked, limited, first.pos - 1,
                PageToken(first.depth, first.pos, None).serialize(),
            )  # fmt: skip
        return Timeline([], limited, upto, _place(upto))

    async def _with_current_state(
        self,
        readable: ReadableRoom,
        page: list[StoredEvent],
        visible: list[StoredEvent],
        upto: int,
    ) -> list[StoredEvent]:
        """Return `visible` with those events of the page that a member knows as the state anyhow.

        They happened while the history was not for the reader, who has come (back) since.
        """
        if readable.membership != "join":
            return visible
        shown = {event.nid for event in visible}
        hidden = [event for event in page if event.nid not in shown]
        current = await self._access.still_current(readable.room, hidden, upto)
        return sorted([*visible, *current], key=lambda event: event.pos)


def _cut_at_gap(events: list[StoredEvent]) -> bool:
    """Drop what is behind a gap in the room's history from `events`, latest first.

    Whether there is one: whoever pages back from there fetches what is missing.
    """
    for index, event in enumerate(events):
        if event.flags & GAP:
            del events[index + 1 :]
            return True
    return False


def _count_outdated(events: list[StoredEvent], hidden: Mapping[StateKey, int]) -> int:
    """Return how many events to leave out, so that none replaces a newer state that is hidden.

    A client applies the state first and then the timeline. Were a topic in the timeline that
    was changed while the reader was away, the client would keep the old one.
    """
    last_word: set[StateKey] = set()
    for index in range(len(events) - 1, -1, -1):
        event = events[index]
        if event.state_key is None or (key := (event.type, event.state_key)) in last_word:
            continue
        if hidden.get(key, 0) > event.pos:
            return index + 1
        last_word.add(key)
    return 0


def empty_timeline(pos: int) -> Timeline:
    """Return a timeline without events, at a position."""
    return Timeline([], limited=False, start=pos, prev_batch=_place(pos))


def _place(pos: int) -> str:
    """Return a page token from which going backwards yields everything up to `pos`."""
    return PageToken(2**53, pos, pos).serialize()
