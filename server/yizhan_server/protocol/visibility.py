"""Who may see which event of a room's history.

The decision needs the room at two moments: *at the event* (history visibility and the user's
membership, both from the state of that point of the DAG) and *since* (whether the user joined
later). Today's history visibility never matters for yesterday's events.

An event that changes one of the two is judged by the room before and after it: seen if either
lets the user see it. The caller gives the state before the event; the state after follows from
the event itself.

Not covered: erased users, ignored users, redaction.

Spec: client-server API, "Room History Visibility".
"""

from yizhan_server.protocol.event import Pdu

WORLD_READABLE = "world_readable"
SHARED = "shared"
INVITED = "invited"
JOINED = "joined"
_KNOWN = frozenset((WORLD_READABLE, SHARED, INVITED, JOINED))


def may_see(*, visibility: object, membership: str | None, joined_later: bool) -> bool:
    """Apply the five rules to one state.

    `visibility` is `content.history_visibility` as it stands (any JSON, None if there is none),
    `membership` the user's at that state, `joined_later` whether the user joined the room at any
    point after the event, even if that was long ago and the user has left since.
    """
    if not isinstance(visibility, str) or visibility not in _KNOWN:
        visibility = SHARED
    if visibility == WORLD_READABLE or membership == "join":
        return True
    if visibility == SHARED and joined_later:
        return True
    return visibility == INVITED and membership == "invite"


def may_see_event(
    event: Pdu, user_id: str, *, visibility: object, membership: str | None, joined_later: bool
) -> bool:
    """Tell whether the user may see `event`, given visibility and membership *before* it.

    A join does not count as `joined_later` for itself: it is seen because of the membership after
    it.
    """
    if may_see(visibility=visibility, membership=membership, joined_later=joined_later):
        return True
    if event.type == "m.room.history_visibility" and event.state_key == "":
        visibility = event.content.get("history_visibility")
    elif event.type == "m.room.member" and event.state_key == user_id:
        membership = event.membership
    else:
        return False
    return may_see(visibility=visibility, membership=membership, joined_later=joined_later)
