"""Whether all servers of a room agree on it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from yizhan_testing.simulation.acts import path_of
from yizhan_testing.simulation.town import Server
from yizhan_testing.simulation.views import Disagreement, View, residents, view_of


async def check_agreement(servers: list[Server], room: str) -> int:
    """Raise Disagreement unless all servers of the room agree; returns how many there are."""
    views = [await view_of(server, room) for server in await residents(servers, room)]
    agreeing = [view for view in views if not _was_removed_in_silence(view, views)]
    try:
        _check(room, agreeing)
    except Disagreement as disagreement:
        disagreement.add_note(table_of(views))
        raise
    return len(agreeing)


def _was_removed_in_silence(view: View, views: list[View]) -> bool:
    """Whether a server cannot know that all others take it for gone.

    That is so where no event says it: where state resolution, of branches some of which lack a
    join, has dropped it. What follows is not for those that are not in the room.
    """
    own = {user for user in view.joined if user.endswith(":" + view.server)}
    others = [other for other in views if other is not view]
    if not others or any(own & other.joined for other in others):
        return False
    return all(
        event in view.events
        for other in others
        for event, known in other.events.items()
        if known.member in own
    )


def _check(room: str, views: list[View]) -> None:
    for first, view in pairwise(views):
        if view.ends != first.ends:
            raise Disagreement(
                f"ends of {room}: {first.server} {sorted(first.ends)},"
                f" {view.server} {sorted(view.ends)}"
            )
        if view.state != first.state:
            raise Disagreement(_difference(room, first, view))
    _check_events(room, views)


def table_of(views: list[View]) -> str:
    """Return the events of a room, a line each, and what they are to each server."""
    events = {event: known for view in views for event, known in view.events.items()}
    lines = ["  ".join(f"{view.server[:9]:11}" for view in views)]
    for event, known in sorted(events.items(), key=lambda item: (item[1].depth, item[0])):
        marks = "  ".join(
            f"{view.events[event].mark if event in view.events else '-':11}" for view in views
        )
        before = " ".join(each[:7] for each in known.prev_events)
        lines.append(f"{marks}  {known.depth:3} {event[:7]} after {before}: {known.what}")
    return "\n".join(lines)


def _difference(room: str, one: View, other: View) -> str:
    keys = {key for key, _ in one.state.items() ^ other.state.items()}
    parts = [f"{key}: {one.state.get(key)} / {other.state.get(key)}" for key in sorted(keys)]
    return f"state of {room} at {one.server} / {other.server}: {'; '.join(parts)}"


def _check_events(room: str, views: list[View]) -> None:
    """Check that what is live at one server is live at all, or known not to be for a reason."""
    shown = {
        event: known for view in views for event, known in view.events.items() if known.is_live
    }
    soft_failed = {e for view in views for e, known in view.events.items() if known.is_soft_failed}
    for view in views:
        excused = _before(view.own_joins, views)
        horizon = max((view.events[join].depth for join in view.own_joins), default=0)
        for event, elsewhere in shown.items():
            known = view.events.get(event)
            if known is not None and (known.is_live or known.is_soft_failed):
                continue
            # What happened beside a join is not told from what happened before it.
            if event in excused or elsewhere.depth <= horizon:
                continue
            # What is met behind a gap is not judged by the current state.
            if known is not None and known.is_history and event in soft_failed:
                continue
            here = [other.server for other in views if event in other.events]
            raise Disagreement(
                f"{event} of {room} is live elsewhere (known to {here}), at {view.server}: {known}"
            )
        for other in views:
            for event, known in view.events.items():
                if known.is_rejected and event in other.events:
                    counterpart = other.events[event]
                    if counterpart.is_live or counterpart.is_soft_failed:
                        raise Disagreement(f"{event} of {room}: rejected at {view.server} only")


def _before(joins: Iterable[str], views: list[View]) -> set[str]:
    """Return the events before some, which whoever joins with these need not have."""
    found: set[str] = set()
    unseen = list(joins)
    while unseen:
        event = unseen.pop()
        for view in views:
            known = view.events.get(event)
            if known is not None:
                unseen += [each for each in known.prev_events if each not in found]
                found.update(known.prev_events)
                break
    return found


async def check_answers(server: Server, room: str) -> None:
    """Check that /state answers with the current state."""
    for person in server.people:
        if room in (await person.get("/v3/joined_rooms"))["joined_rooms"]:
            events: Any = await person.get(path_of(room, "state"))
            shown = {(event["type"], event["state_key"]): event["event_id"] for event in events}
            view = await view_of(server, room)
            if shown != view.state:
                raise Disagreement(f"/state of {room} for {person.user_id}")
