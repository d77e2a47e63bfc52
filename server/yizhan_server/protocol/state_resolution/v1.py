"""State resolution v1, of the first room version: depth decides, and may reset state.

Spec: room version 1, "State resolution".
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from hashlib import sha1

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.state_resolution.auth_checks import auth_keys, is_allowed
from yizhan_server.protocol.state_resolution.needs import (
    PAUSE,
    PAUSE_EVERY,
    KnownEvents,
    StateKey,
    Steps,
    ask_unconflicted,
)

_AUTHORISING_TYPES = ("m.room.power_levels", "m.room.join_rules", "m.room.member")
"""Whose conflicts are resolved first, in this order."""


def resolve_v1(
    version: RoomVersion, conflicted: Mapping[StateKey, frozenset[EventID]]
) -> Steps[dict[StateKey, EventID | None]]:
    """Return what each conflicted key resolves to. The arguments are those of `resolve_state`.

    A key that some state sets lack and the others agree on is no conflict here: it is kept.
    """
    known = KnownEvents()
    yield from known.load(event_id for ids in conflicted.values() for event_id in ids)
    candidates = {
        key: _by_depth(list(known.state_events(ids).values())) for key, ids in conflicted.items()
    }
    contested = {key: events for key, events in candidates.items() if len(conflicted[key]) > 1}
    resolved = {key: next(iter(ids)) for key, ids in conflicted.items() if len(ids) == 1}
    auth_state = yield from _agreed_auth_state(conflicted, contested, known, version)
    auth_state |= {
        key: event
        for key, event_id in resolved.items()
        if (event := known.find(event_id)) is not None
    }
    for kind in _AUTHORISING_TYPES:
        # All conflicts of one type are judged by the same state: the order of keys is nobody's.
        winners = {
            key: _last_allowed(events, auth_state, version)
            for key, events in contested.items()
            if key[0] == kind and events
        }
        auth_state |= winners
        yield PAUSE
    for number, (key, events) in enumerate(contested.items(), 1):
        if events and key[0] not in _AUTHORISING_TYPES:
            auth_state[key] = _deepest_allowed(events, auth_state, version)
        if number % PAUSE_EVERY == 0:
            yield PAUSE
    return {
        key: resolved.get(key) or (auth_state[key].event_id if contested.get(key) else None)
        for key in conflicted
    }


def _agreed_auth_state(
    conflicted: Mapping[StateKey, frozenset[EventID]],
    contested: Mapping[StateKey, Sequence[Pdu]],
    known: KnownEvents,
    version: RoomVersion,
) -> Steps[dict[StateKey, Pdu]]:
    """Ask for the unconflicted state as far as the contested events are judged by it."""
    wanted = {key for all_ in contested.values() for one in all_ for key in auth_keys(one, version)}
    agreed = yield from ask_unconflicted(frozenset(wanted - conflicted.keys()))
    yield from known.load(agreed.values())
    events = known.state_events(agreed.values())
    return {key: events[event_id] for key, event_id in agreed.items() if event_id in events}


def _by_depth(events: list[Pdu]) -> list[Pdu]:
    """Sort by ascending depth, then descending hash of the event ID."""
    events.sort(key=lambda event: _sha1(event.event_id), reverse=True)
    events.sort(key=lambda event: event.depth)
    return events


def _sha1(event_id: EventID) -> bytes:
    return sha1(event_id.encode(), usedforsecurity=False).digest()


def _last_allowed(
    events: Sequence[Pdu], auth_state: dict[StateKey, Pdu], version: RoomVersion
) -> Pdu:
    """Return the last of a sequence in which each event allows the next, from the first one on."""
    winner = events[0]
    for event in events[1:]:
        if not is_allowed(event, ChainMap({winner.key: winner}, auth_state), version):
            break
        winner = event
    return winner


def _deepest_allowed(
    events: Sequence[Pdu], auth_state: Mapping[StateKey, Pdu], version: RoomVersion
) -> Pdu:
    """Return the last event that is allowed.

    If none is, the first: the text has no answer, and servers agree on this one.
    """
    for event in reversed(events):
        if is_allowed(event, auth_state, version):
            return event
    return events[0]
