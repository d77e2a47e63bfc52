"""Two models of a client, one on each sync, that can be asked what a person would see.

`SlidingClient` keeps a connection of simplified sliding sync, `ClassicClient` the classic sync.
Both apply the answers as the specifications tell clients to, and nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yizhan_testing.homeserver import Person

JsonObject = dict[str, Any]

UNSTABLE = "/unstable/org.matrix.simplified_msc3575/sync"
STABLE = "/v4/sync"
EVERYTHING = [["*", "*"]]

EXTENSIONS = ("to_device", "e2ee", "account_data", "receipts", "typing")


@dataclass
class SeenRoom:
    """A room as a person sees it."""

    membership: str = "join"
    timeline: list[JsonObject] = field(default_factory=list)
    state: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    notifications: int = 0
    highlights: int = 0

    @property
    def event_ids(self) -> list[str]:
        return [event["event_id"] for event in self.timeline]

    @property
    def texts(self) -> list[str]:
        return [
            event["content"].get("body", "")
            for event in self.timeline
            if event["type"] == "m.room.message"
        ]

    def apply_state(self, events: list[JsonObject]) -> None:
        for event in events:
            if "content" in event:
                self.state[event["type"], event["state_key"]] = event["content"]
            else:
                self.state.pop((event["type"], event["state_key"]), None)

    def append(self, events: list[JsonObject]) -> None:
        known = set(self.event_ids)
        doubled = [event["event_id"] for event in events if event["event_id"] in known]
        assert not doubled, f"told twice: {doubled}"
        self.timeline += events


@dataclass
class SlidingAnswer:
    """One answer of sliding sync."""

    body: JsonObject

    @property
    def pos(self) -> str:
        pos: str = self.body["pos"]
        return pos

    @property
    def rooms(self) -> dict[str, JsonObject]:
        rooms: dict[str, JsonObject] = self.body["rooms"]
        return rooms

    def extension(self, name: str) -> JsonObject:
        part: JsonObject = self.body["extensions"][name]
        return part

    def count(self, name: str) -> int:
        count: int = self.body["lists"][name]["count"]
        return count

    def listed(self, name: str) -> list[str]:
        """Return the rooms of a list's part, in order."""
        rooms: list[str] = self.body["lists"][name]["ops"][0]["room_ids"]
        return rooms

    def texts(self, room_id: str) -> list[str]:
        return [
            event["content"].get("body", "")
            for event in self.rooms[room_id].get("timeline", [])
            if event["type"] == "m.room.message"
        ]

    def state(self, room_id: str) -> dict[tuple[str, str], JsonObject]:
        events = self.rooms[room_id].get("required_state", [])
        return {(event["type"], event["state_key"]): event["content"] for event in events}


def room_list(
    last: int | None = 99,
    *,
    limit: int = 10,
    state: list[list[str]] | None = None,
    filters: JsonObject | None = None,
) -> JsonObject:
    """Return a list of the first rooms up to index `last` (None: all)."""
    wanted: JsonObject = {"timeline_limit": limit, "required_state": state or []}
    if last is not None:
        wanted["ranges"] = [[0, last]]
    if filters is not None:
        wanted["filters"] = filters
    return wanted


class SlidingClient:
    """A connection of one device. `body` is what every request asks for until it is changed."""

    def __init__(self, person: Person, body: JsonObject, path: str = UNSTABLE) -> None:
        self.person = person
        self.body = body
        self.path = path
        self.pos: str | None = None
        self.to_device: str | None = None
        self.rooms: dict[str, SeenRoom] = {}

    async def asks(
        self, *, pos: str | None = None, timeout_ms: int = 0, **changes: Any
    ) -> SlidingAnswer:
        """Send one request, from `pos`, without taking notice of the answer."""
        params = {"timeout": str(timeout_ms)}
        if pos is not None:
            params["pos"] = pos
        body = json.loads(json.dumps({**self.body, **changes}))
        wanted = body.get("extensions", {}).get("to_device")
        if wanted is not None and self.to_device is not None:
            wanted["since"] = self.to_device
        return SlidingAnswer(await self.person.call("POST", self.path, body, params=params))

    async def syncs(self, *, timeout_ms: int = 0, **changes: Any) -> SlidingAnswer:
        """Sync from where the last sync ended, and apply the answer; `changes` stay."""
        self.body = {**self.body, **changes}
        answer = await self.asks(pos=self.pos, timeout_ms=timeout_ms)
        self.pos = answer.pos
        if "to_device" in answer.body["extensions"]:
            self.to_device = answer.extension("to_device")["next_batch"]
        for room_id, told in answer.rooms.items():
            self._apply(room_id, told)
        return answer

    async def catches_up(self) -> None:
        """Sync until there is no news of rooms."""
        while (await self.syncs()).rooms:
            pass

    def begins_anew(self) -> None:
        """Forget the connection and what it brought."""
        self.pos = None
        self.rooms.clear()

    def of(self, membership: str) -> dict[str, SeenRoom]:
        return {
            room_id: room for room_id, room in self.rooms.items() if room.membership == membership
        }

    def _apply(self, room_id: str, told: JsonObject) -> None:
        if told.get("initial"):
            self.rooms[room_id] = SeenRoom()
        assert room_id in self.rooms, f"told of {room_id} without its beginning"
        room = self.rooms[room_id]
        room.membership = told["membership"]
        timeline = told.get("timeline", [])
        if told.get("expanded_timeline") or told.get("limited"):
            room.timeline = []
        room.append(timeline)
        room.apply_state(told.get("required_state", []))
        room.notifications = told.get("notification_count", room.notifications)
        room.highlights = told.get("highlight_count", room.highlights)


class ClassicClient:
    """One device on the classic sync."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.rooms: dict[str, SeenRoom] = {}

    async def syncs(self) -> None:
        body = (await self.person.syncs()).body.get("rooms", {})
        for room_id, section in body.get("join", {}).items():
            room = self.rooms.get(room_id)
            if room is None or room.membership != "join":
                room = self.rooms[room_id] = SeenRoom()
            self._apply(room, section)
            counts = section["unread_notifications"]
            room.notifications = counts["notification_count"]
            room.highlights = counts["highlight_count"]
        for kind in ("invite", "knock"):
            for room_id in body.get(kind, {}):
                self.rooms[room_id] = SeenRoom(kind)
        for room_id, section in body.get("leave", {}).items():
            room = self.rooms.setdefault(room_id, SeenRoom())
            self._apply(room, section)
            room.membership = "leave"

    def of(self, membership: str) -> dict[str, SeenRoom]:
        return {
            room_id: room for room_id, room in self.rooms.items() if room.membership == membership
        }

    @staticmethod
    def _apply(room: SeenRoom, section: JsonObject) -> None:
        timeline = section["timeline"]
        if timeline["limited"]:
            room.timeline = []
        room.append(timeline["events"])
        room.apply_state(section["state"]["events"])
        room.apply_state([event for event in timeline["events"] if "state_key" in event])
