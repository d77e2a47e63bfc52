"""State resolution v2 and v2.1: power events first, then the rest along the mainline.

Spec: room versions 2 and 12, "State resolution", "Algorithm".
"""

from collections.abc import Mapping

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion, StateResolution
from yizhan_server.protocol.state_resolution.auth_checks import ReplayedState, auth_keys
from yizhan_server.protocol.state_resolution.needs import (
    KnownEvents,
    StateKey,
    Steps,
    ask_unconflicted,
)
from yizhan_server.protocol.state_resolution.ordering import (
    POWER_LEVELS,
    is_power_event,
    mainline_ordered,
    power_ordered,
    with_auth_chains,
)


def resolve_v2(
    version: RoomVersion,
    conflicted: Mapping[StateKey, frozenset[EventID]],
    auth_difference: frozenset[EventID],
    conflicted_subgraph: frozenset[EventID],
) -> Steps[dict[StateKey, EventID | None]]:
    """Return what the conflicted keys resolve to. The arguments are those of `resolve_state`."""
    is_v2_1 = version.state_resolution is StateResolution.V2_1
    known = KnownEvents()
    full_conflicted_ids = auth_difference.union(*conflicted.values())
    if is_v2_1:
        full_conflicted_ids |= conflicted_subgraph
    yield from known.load(full_conflicted_ids)
    full_conflicted = known.state_events(full_conflicted_ids)
    base: Mapping[StateKey, EventID] = {}
    if not is_v2_1:
        base = yield from _unconflicted_auth_state(full_conflicted, conflicted, version)
    create_id = _create_id(full_conflicted, version)
    yield from known.load(
        {event_id for event in full_conflicted.values() for event_id in event.auth_events}.union(
            base.values()
        ).union([] if create_id is None else [create_id])
    )
    create = None if create_id is None else known.find(create_id)

    power_events = with_auth_chains(
        filter(is_power_event, full_conflicted.values()), full_conflicted
    )
    state = ReplayedState(base, create, known, version)
    yield from state.replay((yield from power_ordered(power_events, known, create, version)))

    for event in power_events:
        del full_conflicted[event.event_id]
    yield from state.replay(
        (yield from mainline_ordered(full_conflicted.values(), known, state.find(POWER_LEVELS)))
    )
    # The last step of the text: unconflicted state prevails. What is left are conflicted keys, and
    # those of replayed events that no state set has: a server was told an incomplete state.
    others = frozenset(state.keys() - conflicted.keys() - base.keys())
    unconflicted = yield from ask_unconflicted(others)
    return {key: state.find(key) for key in (*conflicted, *sorted(others - unconflicted.keys()))}


def _unconflicted_auth_state(
    full_conflicted: Mapping[EventID, Pdu],
    conflicted: Mapping[StateKey, frozenset[EventID]],
    version: RoomVersion,
) -> Steps[Mapping[StateKey, EventID]]:
    """Ask for the unconflicted state as far as the replay will look at it."""
    wanted = {key for event in full_conflicted.values() for key in auth_keys(event, version)}
    wanted.add(POWER_LEVELS)
    return (yield from ask_unconflicted(frozenset(wanted - conflicted.keys())))


def _create_id(full_conflicted: Mapping[EventID, Pdu], version: RoomVersion) -> EventID | None:
    """Return the create event where it is nobody's auth event but the room's ID."""
    if version.create_is_auth_event or not full_conflicted:
        return None
    return EventID("$" + next(iter(full_conflicted.values())).room_id[1:])
