"""The rules about which events an event names as its `auth_events`."""

from collections.abc import Container, Sequence

from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion


def check_auth_events_selection(
    event: Pdu,
    auth_events: Sequence[Pdu],
    rejected: Container[EventID],
    version: RoomVersion,
) -> None:
    """Raise AuthRuleRejection unless `event` names only the auth events that it should.

    `auth_events` are the events of `event.auth_events`, all of them: one that cannot be obtained
    is for the caller to refuse. `rejected` says which event IDs are of rejected events.
    """
    if event.type == "m.room.create":
        return  # judged by its own rule, which comes before these
    expected = set(
        auth_types_for_event(event.type, event.sender, event.state_key, event.content, version)
    )
    seen = set()
    for auth_event in auth_events:
        key = (auth_event.type, auth_event.state_key)
        if key in seen:
            raise AuthRuleRejection("auth_events.duplicate", f"two events for {key}")
        seen.add(key)
        if key not in expected:
            raise AuthRuleRejection("auth_events.not_selected", f"{key} is none of its auth events")
        if auth_event.event_id in rejected:
            raise AuthRuleRejection("auth_events.rejected", f"{auth_event.event_id} was rejected")
        if auth_event.room_id != event.room_id:
            raise AuthRuleRejection("auth_events.other_room", "an auth event of another room")
    if version.create_is_auth_event and ("m.room.create", "") not in seen:
        raise AuthRuleRejection("auth_events.no_create", "no create event among the auth events")
