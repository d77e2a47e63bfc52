"""What state resolution asks its driver for, and what it has been told.

A resolution is a generator: it yields a need and is sent the answer. It asks for many events at
once, and for none twice. The driver limits what a hostile room may cost: it counts the events of
every `NeedEvents` and closes the generator when they are too many.

An empty `NeedEvents` (`PAUSE`) wants nothing: it comes between the events of a long computation,
so that a driver on an event loop can let others run. It is answered with an empty mapping.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID

StateKey: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class NeedEvents:
    """Answered with a Mapping[EventID, Pdu].

    Events that are unknown, rejected, or of another room are absent, and are then treated as if
    nobody had named them.
    """

    event_ids: frozenset[EventID]


@dataclass(frozen=True, slots=True)
class NeedUnconflicted:
    """Answered with a Mapping[StateKey, EventID]: what all state sets agree on.

    None of the keys is conflicted; those that no state set has are absent.
    """

    keys: frozenset[StateKey]


Need: TypeAlias = NeedEvents | NeedUnconflicted

PAUSE: Final = NeedEvents(frozenset())
PAUSE_EVERY: Final = 50
"""Events judged or sorted between two pauses: about a millisecond's work."""

T = TypeVar("T")
Steps: TypeAlias = Generator[Need, Mapping[Any, Any], T]


class KnownEvents:
    """The events that have been asked for. Looking at one that was not is a KeyError."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: dict[EventID, Pdu | None] = {}

    def load(self, event_ids: Iterable[EventID]) -> Steps[None]:
        """Ask for those of these events that were not asked for yet."""
        missing = frozenset(event_ids) - self._events.keys()
        if missing:
            answer = yield NeedEvents(missing)
            for event_id in missing:
                self._events[event_id] = answer.get(event_id)

    def load_auth_events(self, events: Iterable[Pdu]) -> Steps[None]:
        """Ask for the auth events of these events."""
        yield from self.load(event_id for event in events for event_id in event.auth_events)

    def find(self, event_id: EventID) -> Pdu | None:
        """Return an event; None if it is to be treated as not there."""
        return self._events[event_id]

    def state_events(self, event_ids: Iterable[EventID]) -> dict[EventID, Pdu]:
        """Return those of these events that are there and are state events."""
        found = {event_id: self._events[event_id] for event_id in event_ids}
        return {
            event_id: event
            for event_id, event in found.items()
            if event is not None and event.is_state
        }

    def auth_event(self, event: Pdu, key: StateKey) -> Pdu | None:
        """Return the auth event of `event` with that type and state key."""
        for event_id in event.auth_events:
            found = self._events[event_id]
            if found is not None and (found.type, found.state_key) == key:
                return found
        return None


def ask_unconflicted(keys: frozenset[StateKey]) -> Steps[Mapping[StateKey, EventID]]:
    """Ask what all state sets agree on; nothing is asked for no keys."""
    if not keys:
        return {}
    return (yield NeedUnconflicted(keys))
