"""State resolution as the specification words it: on whole sets, slow, and plain.

The oracle of the one that runs in the server. It shares with it the authorisation rules and the
selection of auth events, nothing else; each function is a definition of the text. Where the
server follows its peers rather than the letter (ADR 12), so does this, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cmp_to_key
from hashlib import sha1
from math import inf

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.auth_rules import check_auth
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.power_levels import read_power_levels
from yizhan_server.protocol.room_version import RoomVersion, StateResolution

Key = tuple[str, str]
State = dict[Key, EventID]
Events = Mapping[EventID, Pdu]
"""All events there are; a rejected event is not there."""

CREATE, LEVELS, RULES = (f"m.room.{name}" for name in ("create", "power_levels", "join_rules"))


def resolution(states: Sequence[State], events: Events, version: RoomVersion) -> State:
    """Return the resolution of a set of states."""
    if version.state_resolution is StateResolution.V1:
        return resolution_v1(states, events, version)
    unconflicted = unconflicted_state_map(states)
    full_conflicted = {
        event_id
        for event_id in full_conflicted_set(states, events, version)
        if event_id in events and events[event_id].is_state
    }
    # 1.
    power_events = {one for one in full_conflicted if is_power_event(events[one])}
    chosen = set(power_events)
    for one in power_events:
        # By the letter: the auth chain of `one` within the full conflicted set.
        chosen |= chain_within(one, full_conflicted, events)
    in_power_order = reverse_topological_power_ordering(chosen, events, version)
    # 2.
    is_v2_1 = version.state_resolution is StateResolution.V2_1
    initial: State = {} if is_v2_1 else unconflicted
    partial = iterative_auth_checks(initial, in_power_order, events, version)
    # 3.
    remaining = mainline_ordering(full_conflicted - chosen, partial.get((LEVELS, "")), events)
    # 4.
    result = iterative_auth_checks(partial, remaining, events, version)
    # 5.
    return result | unconflicted


def unconflicted_state_map(states: Sequence[State]) -> State:
    return {
        key: value
        for key, value in states[0].items()
        if all(state.get(key) == value for state in states)
    }


def conflicted_state_set(states: Sequence[State]) -> dict[Key, frozenset[EventID]]:
    unconflicted = unconflicted_state_map(states)
    keys = {key for state in states for key in state} - unconflicted.keys()
    return {key: frozenset(state[key] for state in states if key in state) for key in keys}


def auth_chain(event_id: EventID, events: Events) -> set[EventID]:
    chain: set[EventID] = set()
    waiting = [event_id]
    while waiting:
        event = events.get(waiting.pop())
        for one in event.auth_events if event is not None else ():
            if one not in chain:
                chain.add(one)
                waiting.append(one)
    return chain


def auth_difference(states: Sequence[State], events: Events) -> set[EventID]:
    # By the letter: without the events of the state itself.
    chains = [
        set(state.values()).union(*(auth_chain(one, events) for one in state.values()))
        for state in states
    ]
    return chains[0].union(*chains) - chains[0].intersection(*chains)


def conflicted_state_subgraph(states: Sequence[State], events: Events) -> set[EventID]:
    conflicted = frozenset[EventID]().union(*conflicted_state_set(states).values())
    chains = {one: auth_chain(one, events) for one in conflicted}
    return {
        one
        for one in conflicted.union(*chains.values())
        if any(one == start or one in chains[start] for start in conflicted)
        and any(one == end or end in auth_chain(one, events) for end in conflicted)
    }


def full_conflicted_set(
    states: Sequence[State], events: Events, version: RoomVersion
) -> set[EventID]:
    full = auth_difference(states, events).union(*conflicted_state_set(states).values())
    if version.state_resolution is StateResolution.V2_1:
        full |= conflicted_state_subgraph(states, events)
    return full


def is_power_event(event: Pdu) -> bool:
    if event.type == "m.room.member":
        return event.membership in ("leave", "ban") and event.sender != event.state_key
    # By the letter: under any state key, and not the create event.
    return event.type in (LEVELS, RULES, CREATE) and event.state_key == ""


def chain_within(start: EventID, within: set[EventID], events: Events) -> set[EventID]:
    found: set[EventID] = set()
    waiting = [start]
    while waiting:
        for one in events[waiting.pop()].auth_events:
            if one in within and one not in found:
                found.add(one)
                waiting.append(one)
    return found


def reverse_topological_power_ordering(
    event_ids: set[EventID], events: Events, version: RoomVersion
) -> list[EventID]:
    ancestors = {one: chain_within(one, event_ids, events) for one in event_ids}
    ordered: list[EventID] = []
    while len(ordered) < len(event_ids):
        ready = [one for one in event_ids if one not in ordered and ancestors[one] <= set(ordered)]
        ordered.append(
            min(
                ready,
                key=lambda one: (
                    -sender_level(events[one], events, version),
                    events[one].origin_server_ts,
                    one,
                ),
            )
        )
    return ordered


def sender_level(event: Pdu, events: Events, version: RoomVersion) -> int:
    state = {(one.type, one.state_key or ""): one for one in auth_events_of(event, events)}
    if not version.create_is_auth_event:
        create = events.get(EventID("$" + event.room_id[1:]))
        if create is not None:
            state[CREATE, ""] = create
    return read_power_levels(state, version).of_user(event.sender)


def auth_events_of(event: Pdu, events: Events) -> list[Pdu]:
    return [events[one] for one in event.auth_events if one in events]


def cited_levels(event_id: EventID, events: Events) -> EventID | None:
    if event_id not in events:
        return None
    for event in auth_events_of(events[event_id], events):
        if (event.type, event.state_key) == (LEVELS, ""):
            return event.event_id
    return None


def walk_of_levels(event_id: EventID, events: Events) -> list[EventID]:
    """The list e1, e2, ... of the text."""
    walk: list[EventID] = []
    at = cited_levels(event_id, events)
    while at is not None:
        walk.append(at)
        at = cited_levels(at, events)
    return walk


def mainline_ordering(
    event_ids: Iterable[EventID], levels: EventID | None, events: Events
) -> list[EventID]:
    mainline = [] if levels is None else [levels, *walk_of_levels(levels, events)]

    def position(event_id: EventID) -> float:
        for one in walk_of_levels(event_id, events):
            if one in mainline:
                return mainline.index(one)
        return inf

    def compare(x: EventID, y: EventID) -> int:
        if position(x) != position(y):
            return -1 if position(x) > position(y) else 1
        if events[x].origin_server_ts != events[y].origin_server_ts:
            return -1 if events[x].origin_server_ts < events[y].origin_server_ts else 1
        return -1 if x < y else 1

    return sorted(event_ids, key=cmp_to_key(compare))


def iterative_auth_checks(
    initial: State, ordered: Sequence[EventID], events: Events, version: RoomVersion
) -> State:
    state = dict(initial)
    for event_id in ordered:
        event = events[event_id]
        auth_state = auth_state_of(event, state, events, version)
        for one in auth_events_of(event, events):
            if one.state_key is not None:
                auth_state.setdefault((one.type, one.state_key), one)
        if is_allowed(event, auth_state, version):
            state[event.key] = event_id
    return state


def auth_state_of(event: Pdu, state: State, events: Events, version: RoomVersion) -> dict[Key, Pdu]:
    """What of a state authorises an event; the create event is always known by the room ID."""
    keys = auth_types_for_event(event.type, event.sender, event.state_key, event.content, version)
    auth_state = {key: events[state[key]] for key in keys if state.get(key) in events}
    if not version.create_is_auth_event:
        create = events.get(EventID("$" + event.room_id[1:]))
        if create is not None:
            auth_state[CREATE, ""] = create
    return auth_state


def is_allowed(event: Pdu, auth_state: Mapping[Key, Pdu], version: RoomVersion) -> bool:
    try:
        check_auth(event, auth_state, version)
    except AuthRuleRejection:
        return False
    return True


def resolution_v1(states: Sequence[State], events: Events, version: RoomVersion) -> State:
    candidates: dict[Key, set[EventID]] = {}
    for state in states:
        for key, value in state.items():
            candidates.setdefault(key, set()).add(value)
    resolved = {key: next(iter(ids)) for key, ids in candidates.items() if len(ids) == 1}
    conflicts = {
        key: sorted(
            (one for one in ids if one in events),
            key=lambda one: (events[one].depth, -int(sha1(one.encode()).hexdigest(), 16)),
        )
        for key, ids in candidates.items()
        if len(ids) > 1
    }

    def allowed(event_id: EventID, state: State) -> bool:
        auth_state = auth_state_of(events[event_id], state, events, version)
        return is_allowed(events[event_id], auth_state, version)

    for kind in (LEVELS, RULES, "m.room.member"):
        before = dict(resolved)
        for key, ordered in conflicts.items():
            if key[0] != kind or not ordered:
                continue
            state = before | {key: ordered[0]}
            for event_id in ordered[1:]:
                if not allowed(event_id, state):
                    break
                state[key] = event_id
            resolved[key] = state[key]
    for key, ordered in conflicts.items():
        if key[0] not in (LEVELS, RULES, "m.room.member") and ordered:
            passing = [one for one in ordered if allowed(one, resolved)]
            # The text has no answer where none passes.
            resolved[key] = passing[-1] if passing else ordered[0]
    return resolved
