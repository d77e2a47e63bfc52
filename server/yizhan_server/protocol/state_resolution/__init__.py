"""State resolution: which state follows from several forward extremities.

Pure, and on differences: it is told which keys differ between the state sets and which events
their auth chains do not share, never a whole state. What else it must know it asks for
(`needs`), so that its driver decides where events come from, how much a room may cost, and when
others have their turn. Three algorithms, chosen by the room version: `v1`, and `v2` with the
two changes of v2.1 as switches.

`v2` reads `ordering` (the two orders) and `auth_checks` (judging one event after another).

Where the text leaves a choice, or every other server reads it in one way, so do we: servers that
resolve differently have two rooms. docs/adr/0012-state-resolution-agrees-with-other-servers.md.

Spec: room versions 1, 2 and 12, "State resolution".
"""

from collections.abc import Mapping

from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion, StateResolution
from yizhan_server.protocol.state_resolution.needs import (
    Need,
    NeedEvents,
    NeedUnconflicted,
    StateKey,
    Steps,
)
from yizhan_server.protocol.state_resolution.v1 import resolve_v1
from yizhan_server.protocol.state_resolution.v2 import resolve_v2

__all__ = ["Need", "NeedEvents", "NeedUnconflicted", "StateKey", "Steps", "resolve_state"]


def resolve_state(
    version: RoomVersion,
    conflicted: Mapping[StateKey, frozenset[EventID]],
    auth_difference: frozenset[EventID],
    conflicted_subgraph: frozenset[EventID] = frozenset(),
) -> Steps[dict[StateKey, EventID | None]]:
    """Return what each conflicted key resolves to (None: no event). A generator: see `needs`.

    Rarely there is a key more: one that no state set has, but an event of their auth chains. So
    state comes back that all servers which told it left out.

    `conflicted`: every key whose value differs between the state sets, one of which may lack it,
    with the events that the sets have there.

    `auth_difference`: the events that some but not all of the sets reach, being in the set or in
    the auth chain of an event of it. A set is a *whole* state: what the unconflicted state
    reaches, all sets reach, so it is never in the difference. Only v1 does not look at it.

    `conflicted_subgraph`: the events on any path of auth events from one conflicted event to
    another, ends included. Only v2.1 looks at it.

    Neither the order of the sets nor that of anything else matters to the result.
    """
    if not conflicted:
        return {}
    if version.state_resolution is StateResolution.V1:
        return (yield from resolve_v1(version, conflicted))
    return (yield from resolve_v2(version, conflicted, auth_difference, conflicted_subgraph))
