"""Putting events after those that they refer to.

Only events of rooms of versions 1 and 2, whose IDs their senders choose, can refer to one another
in a circle, or to themselves. Nobody can ever use them: each would have to be here before it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID


def sorted_by_references(given: Mapping[EventID, Pdu]) -> list[Pdu]:
    """Return the events so that each comes after all that it refers to and that is given."""
    return _sorted(
        {event_id: (*p.prev_events, *p.auth_events) for event_id, p in given.items()}, given
    )


def sorted_by_auth(given: Mapping[EventID, Pdu]) -> list[Pdu]:
    """Return the events so that each comes after those that authorise it."""
    return _sorted({event_id: pdu.auth_events for event_id, pdu in given.items()}, given)


def _sorted(
    references: Mapping[EventID, Iterable[EventID]], given: Mapping[EventID, Pdu]
) -> list[Pdu]:
    """Leave out what is part of a circle, or refers to one."""
    sorter = TopologicalSorter(
        {
            event_id: [each for each in named if each in given]
            for event_id, named in references.items()
        }
    )
    with suppress(CycleError):
        # After this error the sorter still gives all that does not depend on a circle.
        sorter.prepare()
    found: list[Pdu] = []
    while ready := sorter.get_ready():
        found += [given[event_id] for event_id in ready]
        sorter.done(*ready)
    return found
