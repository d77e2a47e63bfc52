"""A room whose history forks and merges, without a server: a DAG of real, authorised events.

States are computed by the oracle (`whole_set_resolution`), so that an event's auth events are
those that its server would have chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID, UserID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.state_resolution import (
    Need,
    NeedEvents,
    NeedUnconflicted,
    resolve_state,
)
from yizhan_testing import whole_set_resolution as oracle
from yizhan_testing.protocol_room import ALICE, ProtocolRoom
from yizhan_testing.whole_set_resolution import Key, State


@dataclass(frozen=True, slots=True)
class Node:
    """An event and the state after it."""

    event: Pdu
    state_after: State


class ForkedRoom:
    """The events of one room, accepted ones only."""

    def __init__(self, version: RoomVersion, creator: UserID = ALICE) -> None:
        self.version = version
        self._room = ProtocolRoom(version, creator)
        create = self._room.create
        self.events: dict[EventID, Pdu] = {create.event_id: create}
        self.nodes = [Node(create, {create.key: create.event_id})]
        self._moment = create.origin_server_ts

    def resolve(self, nodes: Sequence[Node]) -> State:
        """Return the state before an event that follows `nodes`."""
        return oracle.resolution([node.state_after for node in nodes], self.events, self.version)

    def try_event(
        self,
        after: Sequence[Node],
        event_type: str,
        sender: UserID,
        content: JsonObject,
        state_key: str | None = "",
        *,
        state_before: State | None = None,
        delay_ms: int = 0,
    ) -> Node | None:
        """Add an event after these nodes, if it is allowed there.

        `state_before`: what the server of this event believes, if it is mistaken. `delay_ms`: how
        much its clock is ahead.
        """
        if state_before is None:
            state_before = self.resolve(after)
        self._moment += 1000
        keys = auth_types_for_event(event_type, sender, state_key, content, self.version)
        event = self._room.event(
            event_type,
            sender,
            content,
            state_key,
            prev_events=[node.event.event_id for node in after],
            auth_events=[state_before[key] for key in keys if key in state_before],
            depth=1 + max(node.event.depth for node in after),
            origin_server_ts=self._moment + delay_ms,
        )
        auth_state = oracle.auth_state_of(event, state_before, self.events, self.version)
        if not oracle.is_allowed(event, auth_state, self.version):
            return None
        state_after = dict(state_before)
        if event.is_state:
            state_after[event.key] = event.event_id
        self.events[event.event_id] = event
        node = Node(event, state_after)
        self.nodes.append(node)
        return node

    def event(self, after: Sequence[Node], event_type: str, *args: Any, **fields: Any) -> Node:
        """Add an event that is allowed."""
        node = self.try_event(after, event_type, *args, **fields)
        assert node is not None, f"{event_type} is not allowed"
        return node


class Answers:
    """Answers the needs of a resolution from whole states, and keeps an eye on what it asks."""

    def __init__(self, events: Mapping[EventID, Pdu], unconflicted: State) -> None:
        self._events = events
        self._unconflicted = unconflicted
        self.asked: list[frozenset[EventID]] = []

    def run(
        self, steps: Generator[Need, Mapping[Any, Any], dict[Key, EventID | None]]
    ) -> dict[Key, EventID | None]:
        """Run a resolution to its end."""
        try:
            need = next(steps)
            while True:
                need = steps.send(self._answer(need))
        except StopIteration as done:
            result: dict[Key, EventID | None] = done.value
            return result

    def _answer(self, need: Need) -> Mapping[Any, Any]:
        match need:
            case NeedEvents(event_ids):
                assert not any(event_ids & earlier for earlier in self.asked), "asked twice"
                if event_ids:
                    self.asked.append(event_ids)
                return {one: self._events[one] for one in event_ids if one in self._events}
            case NeedUnconflicted(keys):
                return {key: self._unconflicted[key] for key in keys if key in self._unconflicted}


def resolved_by_differences(
    states: Sequence[State],
    events: Mapping[EventID, Pdu],
    version: RoomVersion,
    *,
    shuffle: Callable[[Iterable[EventID]], Sequence[EventID]] = tuple,
) -> tuple[State, Answers]:
    """Resolve whole states with the server's algorithm; also return what it asked for.

    `shuffle` gives the order in which sets are built, and so perhaps that in which they are read.
    """
    conflicted = oracle.conflicted_state_set(states)
    unconflicted = oracle.unconflicted_state_map(states)
    answers = Answers(events, unconflicted)
    resolved = answers.run(
        resolve_state(
            version,
            {key: frozenset(shuffle(ids)) for key, ids in conflicted.items()},
            frozenset(shuffle(oracle.auth_difference(states, events))),
            frozenset(shuffle(oracle.conflicted_state_subgraph(states, events))),
        )
    )
    assert resolved.keys() >= conflicted.keys()
    assert not resolved.keys() & unconflicted.keys()
    return unconflicted | {key: one for key, one in resolved.items() if one is not None}, answers
