"""One room's section of a sync: timeline, state, summary, counts, receipts.

Everything is read as of one stream position, `upto`: what arrives meanwhile belongs to the
next answer. State comes from the room's current line only.

Spec: client-server API, "Syncing", "Lazy-loading room members".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from yizhan_database import Database
from yizhan_server.ephemeral.receipts import Receipts
from yizhan_server.ephemeral.unread import Counts, UnreadCounts
from yizhan_server.protocol.identifiers import UserID
from yizhan_server.rooms.access import ReadableRoom
from yizhan_server.rooms.rendering import EventRenderer, Reader
from yizhan_server.rooms.room import Room
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import StoredEvent
from yizhan_server.sync.changes import Window
from yizhan_server.sync.filters import (
    DEFAULT_TIMELINE_LIMIT,
    MAX_TIMELINE_LIMIT,
    SyncFilter,
)
from yizhan_server.sync.lazy_members import LazyMembers
from yizhan_server.sync.summaries import find_heroes
from yizhan_server.sync.timelines import Timeline, Timelines, empty_timeline

JsonObject = dict[str, Any]

StateSection = Literal["state", "state_after", "org.matrix.msc4222.state_after"]
"""The name of a room's state: the last is what clients from before specification 1.16 look for."""


@dataclass(frozen=True, slots=True)
class SyncDevice:
    """Who syncs, and what of it they want."""

    user_id: UserID
    device_id: str
    wanted: SyncFilter
    full_state: bool
    state_section: StateSection
    ignored: frozenset[str]
    blocks_invites: bool

    @property
    def wants_state_after(self) -> bool:
        """Whether state is wanted as of the timeline's end, not of its beginning."""
        return self.state_section != "state"


class RoomSections:
    """Builds the sections of single rooms."""

    def __init__(
        self,
        db: Database,
        keys: StateKeys,
        renderer: EventRenderer,
        timelines: Timelines,
        receipts: Receipts,
        unread: UnreadCounts,
        lazy: LazyMembers,
    ) -> None:
        self._db = db
        self._keys = keys
        self._renderer = renderer
        self._timelines = timelines
        self._receipts = receipts
        self._unread = unread
        self._lazy = lazy

    def begin(self, device: SyncDevice) -> None:
        """An initial sync of a device begins."""
        self._lazy.forget((device.user_id, device.device_id))

    def begin_room(self, device: SyncDevice, room: Room) -> None:
        """A device is shown a room anew; what it knew of an earlier stay it may have dropped."""
        self._lazy.forget_room((device.user_id, device.device_id), room.nid)

    async def joined(
        self,
        device: SyncDevice,
        readable: ReadableRoom,
        window: Window,
        *,
        account_data: list[JsonObject],
        typing: list[UserID] | None,
        receipts_changed: bool,
    ) -> JsonObject | None:
        """Return the section of a joined room; None when nothing in it changed.

        A receipt that is not shown (the user's own, from another device) still changes the counts.
        """
        room, wanted = readable.room, device.wanted
        section: JsonObject = {}
        timeline = await self._timeline(device, readable, window)
        state = await self._state(device, readable, window, timeline)
        ephemeral = await self._ephemeral(device, room, window, typing)
        data = [each for each in account_data if wanted.room_account_data.passes_object(each)]
        if not (
            window.after is None
            or timeline.events
            or timeline.limited
            or state
            or ephemeral
            or data
            or receipts_changed
        ):
            return None
        reader = Reader(readable, device.device_id, wanted.as_pdus)
        section["timeline"] = await self._timeline_json(reader, timeline)
        section[device.state_section] = {"events": await self._fragments(reader, state)}
        section["account_data"] = {"events": data}
        section["ephemeral"] = {"events": ephemeral}
        counts = await self._unread.of(room, device.user_id, window.upto)
        section.update(_counts_json(counts, by_thread=wanted.timeline.unread_thread_notifications))
        if window.after is None or any(
            event.type == "m.room.member" for event in (*timeline.events, *state)
        ):
            section["summary"] = await self._summary(room, device.user_id)
        return section

    async def left(
        self, device: SyncDevice, readable: ReadableRoom, window: Window,
        account_data: list[JsonObject],
    ) -> JsonObject:  # fmt: skip
        """Return the section of a room that the user left within the window."""
        upto = Window(window.after, min(window.upto, readable.upto))
        timeline = await self._timeline(device, readable, upto)
        state = await self._state(device, readable, upto, timeline)
        reader = Reader(readable, device.device_id, device.wanted.as_pdus)
        wanted = device.wanted.room_account_data
        return {
            "timeline": await self._timeline_json(reader, timeline),
            device.state_section: {"events": await self._fragments(reader, state)},
            "account_data": {"events": [e for e in account_data if wanted.passes_object(e)]},
        }

    async def departure(self, device: SyncDevice, room: Room, event: int) -> JsonObject:
        """Return the section for a room whose invitation or knock came to nothing."""
        found = await stored_events.events_by_nid(self._db, [event])
        rendered = await self._renderer.render_plain(room, list(found.values()))
        return {
            "timeline": {
                "events": [orjson.Fragment(each) for each in rendered],
                "limited": False,
            },
            "state": {"events": []},
        }

    async def _timeline(
        self, device: SyncDevice, readable: ReadableRoom, window: Window
    ) -> Timeline:
        """Return the last events of the window that the reader wants and may see."""
        wanted = device.wanted.timeline
        if not wanted.passes_room(readable.room.room_id):
            return empty_timeline(window.upto)
        limit = DEFAULT_TIMELINE_LIMIT if wanted.limit is None else wanted.limit
        return await self._timelines.read(
            readable, window, min(limit, MAX_TIMELINE_LIMIT), device.ignored, wanted.passes
        )

    async def _state(
        self, device: SyncDevice, readable: ReadableRoom, window: Window, timeline: Timeline
    ) -> list[StoredEvent]:
        """Return the state that the client lacks, before the timeline or (state_after) after it."""
        room, wanted = readable.room, device.wanted.state
        if not wanted.passes_room(room.room_id):
            return []
        at, after = timeline.start, window.after or 0
        full = window.after is None or device.full_state
        lazy = wanted.lazy_load_members
        if device.wants_state_after or (full and not timeline.events):
            at = window.upto
        if full:
            read = stored_state.current_state_but_members if lazy else stored_state.current_state
            state = await read(self._db, room.nid, at)
        elif await room.last_position(window.upto) <= after:
            state = {}
        else:
            state = await stored_state.current_state_changes(self._db, room.nid, after, at)
        if at < window.upto and timeline.events:
            # What a filter, or the history's visibility, keeps out of the timeline would be lost.
            shown = {event.nid for event in timeline.events}
            later = await stored_state.current_state_changes(self._db, room.nid, at, window.upto)
            state.update((key, event) for key, event in later.items() if event not in shown)
        chosen = [event for event in state.values() if event != stored_state.REMOVED]
        if lazy:
            chosen += await self._lazy_members(device, room, window, timeline, at, chosen)
        events = await stored_events.events_by_nid(self._db, chosen)
        return [event for event in events.values() if wanted.passes(event)]

    async def _lazy_members(
        self,
        device: SyncDevice,
        room: Room,
        window: Window,
        timeline: Timeline,
        at: int,
        chosen: list[int],
    ) -> list[int]:
        """Return the member events of the timeline's senders that this device lacks."""
        senders = {event.sender for event in timeline.events}
        if window.after is None or device.full_state:
            senders.add(device.user_id)
        members: dict[str, int] = {}
        for sender in senders:
            key = await self._keys.find(("m.room.member", sender))
            if key is None:
                continue
            event = await stored_state.current_state_event(self._db, room.nid, key, at)
            if event is not None:
                members[sender] = event
        unsent = self._lazy.unsent((device.user_id, device.device_id), room.nid, members, window)
        if device.wanted.state.include_redundant_members:
            unsent = set(members.values())
        return [event for event in unsent if event not in chosen]

    async def _ephemeral(
        self, device: SyncDevice, room: Room, window: Window, typing: list[UserID] | None
    ) -> list[JsonObject]:
        wanted = device.wanted.ephemeral
        if not wanted.passes_room(room.room_id):
            return []
        events: list[JsonObject] = []
        if wanted.passes_type("m.receipt"):
            receipts = await self._receipts.changed(
                room, device.user_id, window.after or 0, window.upto
            )
            if receipts:
                events.append({"type": "m.receipt", "content": receipts})
        if typing is not None and wanted.passes_type("m.typing"):
            events.append({"type": "m.typing", "content": {"user_ids": typing}})
        return events

    async def _timeline_json(self, reader: Reader, timeline: Timeline) -> JsonObject:
        return {
            "events": await self._fragments(reader, timeline.events),
            "limited": timeline.limited,
            "prev_batch": timeline.prev_batch,
        }

    async def _fragments(self, reader: Reader, events: list[StoredEvent]) -> list[orjson.Fragment]:
        return [orjson.Fragment(each) for each in await self._renderer.render(reader, events)]

    async def _summary(self, room: Room, user_id: UserID) -> JsonObject:
        """Return the counts, and whom to name the room after if it has no name."""
        counts = await stored_rooms.membership_counts(self._db, room.nid)
        summary: JsonObject = {
            "m.joined_member_count": counts.get("join", 0),
            "m.invited_member_count": counts.get("invite", 0),
        }
        named = await room.state_event("m.room.name")
        alias = await room.state_event("m.room.canonical_alias")
        if (named is None or not named.pdu.content.get("name")) and (
            alias is None or not alias.pdu.content.get("alias")
        ):
            heroes = await find_heroes(self._db, room, user_id)
            summary["m.heroes"] = [user for user, _ in heroes]
        return summary


def _counts_json(counts: Counts, *, by_thread: bool) -> JsonObject:
    notify, highlight = counts.notify, counts.highlight
    if not by_thread:
        return {"unread_notifications": _count(notify, highlight)}
    threads = counts.threads
    return {
        "unread_notifications": _count(
            notify - sum(each[0] for each in threads.values()),
            highlight - sum(each[1] for each in threads.values()),
        ),
        "unread_thread_notifications": {
            root: _count(*each) for root, each in threads.items() if any(each)
        },
    }


def _count(notify: int, highlight: int) -> JsonObject:
    return {"notification_count": notify, "highlight_count": highlight}
