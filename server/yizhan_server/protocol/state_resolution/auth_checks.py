"""Iterative auth checks: replaying sorted events, each on the state that those before it left.

Spec: room version 2, "Iterative auth checks".
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.auth_rules import check_auth
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.state_resolution.needs import (
    PAUSE,
    PAUSE_EVERY,
    KnownEvents,
    StateKey,
    Steps,
)
from yizhan_server.protocol.state_resolution.ordering import CREATE


def auth_keys(event: Pdu, version: RoomVersion) -> list[StateKey]:
    """Return the keys whose state decides whether `event` is allowed."""
    return auth_types_for_event(event.type, event.sender, event.state_key, event.content, version)


def is_allowed(event: Pdu, auth_state: Mapping[StateKey, Pdu], version: RoomVersion) -> bool:
    """Tell whether the authorisation rules allow `event` in a state."""
    try:
        check_auth(event, auth_state, version)
    except AuthRuleRejection:
        return False
    return True


class ReplayedState:
    """A state that grows by the events that it allows.

    `base` is what it starts from, as far as it will be looked at. `create` is for the room versions
    in which the create event is not among the auth events.
    """

    def __init__(
        self,
        base: Mapping[StateKey, EventID],
        create: Pdu | None,
        known: KnownEvents,
        version: RoomVersion,
    ) -> None:
        self._state = dict(base)
        self._create = create
        self._known = known
        self._version = version

    def find(self, key: StateKey) -> EventID | None:
        """Return the event of a key."""
        return self._state.get(key)

    def keys(self) -> AbstractSet[StateKey]:
        """Return the keys that have an event."""
        return self._state.keys()

    def replay(self, events: Iterable[Pdu]) -> Steps[None]:
        """Apply those of these state events that are allowed; their auth events must be known."""
        for number, event in enumerate(events, 1):
            if is_allowed(event, self._auth_state(event), self._version):
                self._state[event.key] = event.event_id
            if number % PAUSE_EVERY == 0:
                yield PAUSE

    def _auth_state(self, event: Pdu) -> dict[StateKey, Pdu]:
        auth_state = {}
        for key in auth_keys(event, self._version):
            event_id = self._state.get(key)
            found = None if event_id is None else self._known.find(event_id)
            if found is None:
                # What the state lacks is taken from the event's own auth events, so that an event
                # is judged by the history that it claims rather than by none.
                found = self._known.auth_event(event, key)
            if found is not None:
                auth_state[key] = found
        if self._create is not None and not self._version.create_is_auth_event:
            auth_state[CREATE] = self._create
        return auth_state
