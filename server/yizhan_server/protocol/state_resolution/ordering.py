"""The two orders in which v2 replays events: power events by the DAG, others along the mainline.

Spec: room version 2, "Reverse topological power ordering" and "Mainline ordering".
"""

from collections.abc import Collection, Iterable, Mapping
from heapq import heapify, heappop, heappush
from math import inf

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.power_levels import PowerLevels
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.state_resolution.needs import PAUSE, PAUSE_EVERY, KnownEvents, Steps

CREATE = ("m.room.create", "")
POWER_LEVELS = ("m.room.power_levels", "")
JOIN_RULES = ("m.room.join_rules", "")

PowerOrder = tuple[int, int, EventID]


def is_power_event(event: Pdu) -> bool:
    """Tell whether a state event might take away somebody's ability to do something.

    Power levels and join rules under another state key than "" have no power. The create event is
    not on the specification's list but on every server's; it matters nowhere, being first anyway.
    """
    if event.type == "m.room.member":
        return event.membership in ("leave", "ban") and event.sender != event.state_key
    return (event.type, event.state_key) in (POWER_LEVELS, JOIN_RULES, CREATE)


def with_auth_chains(power_events: Iterable[Pdu], conflicted: Mapping[EventID, Pdu]) -> list[Pdu]:
    """Return the power events and what else of `conflicted` is in their auth chains.

    A chain is followed through conflicted events only. In v2.1 it leaves them never: whatever is
    between two events of the full conflicted set belongs to it. In v2 it may, and the text would
    then have one look further; no server does.
    """
    chosen = {event.event_id: event for event in power_events}
    waiting = list(chosen.values())
    while waiting:
        for event_id in waiting.pop().auth_events:
            event = conflicted.get(event_id)
            if event is not None and event_id not in chosen:
                chosen[event_id] = event
                waiting.append(event)
    return list(chosen.values())


def power_ordered(
    events: Collection[Pdu], known: KnownEvents, create: Pdu | None, version: RoomVersion
) -> Steps[list[Pdu]]:
    """Return `events` in reverse topological power ordering, the earliest first.

    Kahn's algorithm: of all events whose auth events have had their turn, the smallest is next.
    The auth events of `events` must be known. `create` is for the room versions in which it is
    not among them.
    """
    chosen = {event.event_id: event for event in events}
    followers: dict[EventID, list[EventID]] = {event_id: [] for event_id in chosen}
    waits_for: dict[EventID, int] = {}
    order: dict[EventID, PowerOrder] = {}
    for number, event in enumerate(chosen.values(), 1):
        before = {event_id for event_id in event.auth_events if event_id in chosen}
        waits_for[event.event_id] = len(before)
        for event_id in before:
            followers[event_id].append(event.event_id)
        level = _sender_level(event, known, create, version)
        order[event.event_id] = (-level, event.origin_server_ts, event.event_id)
        if number % PAUSE_EVERY == 0:
            yield PAUSE
    candidates = [order[event_id] for event_id, count in waits_for.items() if count == 0]
    heapify(candidates)
    ordered = []
    while candidates:
        event_id = heappop(candidates)[2]
        ordered.append(chosen[event_id])
        for follower in followers[event_id]:
            waits_for[follower] -= 1
            if waits_for[follower] == 0:
                heappush(candidates, order[follower])
    return ordered


def _sender_level(event: Pdu, known: KnownEvents, create: Pdu | None, version: RoomVersion) -> int:
    if version.create_is_auth_event:
        create = known.auth_event(event, CREATE)
    levels = PowerLevels(create, known.auth_event(event, POWER_LEVELS), version)
    return levels.of_user(event.sender)


def mainline_ordered(
    events: Collection[Pdu], known: KnownEvents, power_levels: EventID | None
) -> Steps[list[Pdu]]:
    """Return `events` in the mainline ordering based on `power_levels`.

    The auth events of `events` must be known. None as `power_levels` is a mainline without events.
    """
    starts = {event.event_id: _power_levels_before(event, known) for event in events}
    positions: Mapping[EventID | None, float] = {}
    if power_levels is not None and len(set(starts.values())) > 1:
        positions = yield from _mainline_positions(
            power_levels, {start for start in starts.values() if start is not None}, known
        )
    return sorted(
        events,
        key=lambda event: (
            -positions.get(starts[event.event_id], inf),
            event.origin_server_ts,
            event.event_id,
        ),
    )


def _power_levels_before(event: Pdu, known: KnownEvents) -> EventID | None:
    found = known.auth_event(event, POWER_LEVELS)
    return None if found is None else found.event_id


def _mainline_positions(
    power_levels: EventID, starts: set[EventID], known: KnownEvents
) -> Steps[dict[EventID | None, float]]:
    """Return the mainline position of each of `starts`, power levels that events cite.

    The mainline and the walks towards it go on side by side, each round one step of all of them
    with one question; and no further than the last walk needs.
    """
    before: dict[EventID, EventID | None] = {}
    line: dict[EventID | None, float] = {power_levels: 0}
    tip: EventID | None = power_levels
    walking = set(starts)
    some_missed = False
    while True:
        # A walk that came upon the mainline, or upon another walk, has arrived.
        walking = {
            event_id for event_id in walking if event_id not in line and event_id not in before
        }
        if not walking and (tip is None or not some_missed):
            break
        steps = walking | ({tip} if tip is not None and tip not in before else set())
        yield from _step(steps, before, known)
        if tip is not None:
            tip = before[tip]
            if tip is not None:
                line[tip] = len(line)
        ends = {before[event_id] for event_id in walking}
        some_missed = some_missed or None in ends
        walking = {event_id for event_id in ends if event_id is not None}
    return _positions_of_walks(starts, before, line)


def _step(
    event_ids: set[EventID], before: dict[EventID, EventID | None], known: KnownEvents
) -> Steps[None]:
    """Find which power levels each of these power levels cites."""
    yield from known.load(event_ids)
    events = known.state_events(event_ids)
    yield from known.load_auth_events(events.values())
    for event_id in event_ids:
        event = events.get(event_id)
        before[event_id] = None if event is None else _power_levels_before(event, known)


def _positions_of_walks(
    starts: set[EventID],
    before: Mapping[EventID, EventID | None],
    line: Mapping[EventID | None, float],
) -> dict[EventID | None, float]:
    positions = dict(line)
    for start in starts:
        walked: list[EventID] = []
        at: EventID | None = start
        while at is not None and at not in positions:
            walked.append(at)
            at = before[at]
        found = inf if at is None else positions[at]
        positions.update(dict.fromkeys(walked, found))
    return positions
