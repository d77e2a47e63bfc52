"""A client that believes only /sync, and in the end compares itself with the server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from yizhan_testing.homeserver import JsonObject, Person, SyncAnswer

State = dict[tuple[str, str], str]
"""(type, state key) -> event id"""


@dataclass
class Replica:
    """What one device of a person knows from its syncs."""

    person: Person
    name: str = "plain"
    wanted: JsonObject = field(default_factory=dict)
    """The filter."""
    state_after: bool = False
    fills_gaps: bool = False
    """Whether it reads what a limited timeline leaves out, as clients do for who scrolls back."""
    joined: dict[str, State] = field(default_factory=dict)
    spans: dict[str, list[str]] = field(default_factory=dict)
    """The events of each joined room's timeline since it was joined or had a gap."""
    left: set[str] = field(default_factory=set)
    invited: set[str] = field(default_factory=set)
    receipts: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """(room, user, type) -> event id"""
    since: str | None = None

    @property
    def is_lazy(self) -> bool:
        return bool(self.wanted.get("room", {}).get("state", {}).get("lazy_load_members"))

    @property
    def sees_all(self) -> bool:
        """Whether nothing of the timeline is filtered out."""
        return "types" not in self.wanted.get("room", {}).get("timeline", {})

    async def syncs(self, timeout_ms: int = 0, **more: str) -> SyncAnswer:
        """Take in what one sync says."""
        params = {"timeout": str(timeout_ms), **more}
        if self.since is not None:
            params["since"] = self.since
        if self.wanted:
            params["filter"] = json.dumps(self.wanted)
        if self.state_after:
            params["use_state_after"] = "true"
        answer = SyncAnswer(await self.person.get("/v3/sync", **params))
        if self.fills_gaps:
            for room_id, section in answer.body.get("rooms", {}).get("join", {}).items():
                await self._fill_gap(room_id, section["timeline"])
        self.since = answer.next_batch
        self.takes(answer)
        return answer

    async def _fill_gap(self, room_id: str, timeline: JsonObject) -> None:
        """Fetch what a limited timeline left out, back to what is known."""
        known = set(self.spans.get(room_id, []))
        token = timeline["prev_batch"]
        while timeline["limited"] and known:
            page = await self.person.get(
                f"/v3/rooms/{quote(room_id, safe='')}/messages",
                dir="b", limit="100", **{"from": token},
            )  # fmt: skip
            missed = [event for event in page["chunk"] if event["event_id"] not in known]
            timeline["events"] = [*missed[::-1], *timeline["events"]]
            timeline["limited"] = len(missed) == len(page["chunk"])
            token = page["end"] if timeline["limited"] else token

    def takes(self, answer: SyncAnswer) -> None:
        """Apply an answer."""
        rooms = answer.body.get("rooms", {})
        for room_id, section in rooms.get("join", {}).items():
            self.left.discard(room_id)
            self.invited.discard(room_id)
            self._join(room_id, section)
        for room_id in rooms.get("invite", {}):
            self.invited.add(room_id)
            self.left.discard(room_id)
            self._forget(room_id)
        for room_id in rooms.get("knock", {}):
            self.invited.discard(room_id)
            self.left.discard(room_id)
            self._forget(room_id)
        for room_id in rooms.get("leave", {}):
            self.invited.discard(room_id)
            self._forget(room_id)
            self.left.add(room_id)

    def _forget(self, room_id: str) -> None:
        self.joined.pop(room_id, None)
        self.spans.pop(room_id, None)

    def _join(self, room_id: str, section: JsonObject) -> None:
        timeline = section["timeline"]
        events: list[JsonObject] = timeline["events"]
        ids = [event["event_id"] for event in events]
        assert len(ids) == len(set(ids)), "an event twice in one timeline"
        if timeline["limited"] or room_id not in self.joined:
            self.spans[room_id] = []
        seen = self.spans[room_id]
        assert not set(ids) & set(seen), (self.name, "an event came twice")
        seen += ids
        state = self.joined.setdefault(room_id, {})
        key = "state_after" if self.state_after else "state"
        assert ("state_after" in section) == self.state_after
        shown = list(section[key]["events"])
        if not self.state_after:
            shown += [event for event in events if "state_key" in event]
        for event in shown:
            state[event["type"], event["state_key"]] = event["event_id"]
        if self.is_lazy:
            for event in events:
                assert ("m.room.member", event["sender"]) in state, (self.name, event["sender"])
        for event in section["ephemeral"]["events"]:
            if event["type"] == "m.receipt":
                for event_id, kinds in event["content"].items():
                    for kind, users in kinds.items():
                        for user in users:
                            self.receipts[room_id, user, kind] = event_id

    async def check(self) -> None:
        """Compare with the server, which must be quiet."""
        who = f"{self.name} of {self.person.user_id}"
        joined = set((await self.person.get("/v3/joined_rooms"))["joined_rooms"])
        assert set(self.joined) == joined, who
        for room_id, state in self.joined.items():
            path = f"/v3/rooms/{quote(room_id, safe='')}"
            events: Any = await self.person.get(f"{path}/state")
            actual: State = {
                (event["type"], event["state_key"]): event["event_id"] for event in events
            }
            if self.is_lazy:
                assert _without_members(state) == _without_members(actual), (who, room_id)
                assert state.items() <= actual.items(), (who, room_id)
            else:
                assert state == actual, (who, room_id)
            if self.sees_all and self.spans[room_id]:
                history = await all_messages(self.person, room_id)
                span = self.spans[room_id]
                assert span == history[history.index(span[0]) :], (who, room_id)
        fresh = SyncAnswer(await self.person.get("/v3/sync"))
        assert set(fresh.body.get("rooms", {}).get("invite", {})) == self.invited, who
        assert set(fresh.body.get("rooms", {}).get("join", {})) == joined, who


async def all_messages(person: Person, room_id: str, page_size: int = 37) -> list[str]:
    """Return the events of a room that a person may see, oldest first, read page by page."""
    found: list[str] = []
    params: dict[str, Any] = {"dir": "b", "limit": str(page_size)}
    while True:
        page = await person.get(f"/v3/rooms/{quote(room_id, safe='')}/messages", **params)
        found += [event["event_id"] for event in page["chunk"]]
        if "end" not in page:
            return found[::-1]
        params["from"] = page["end"]


def _without_members(state: State) -> State:
    return {key: event for key, event in state.items() if key[0] != "m.room.member"}
