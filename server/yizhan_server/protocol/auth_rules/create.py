"""Authorisation of `m.room.create`."""

from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import is_user_id, server_name_of
from yizhan_server.protocol.room_version import ROOM_VERSIONS, RoomVersion


def check_create(event: Pdu, version: RoomVersion) -> None:
    """Reject a create event that is not the first, or not of its sender's own server."""
    if event.prev_events:
        raise AuthRuleRejection("create.has_prev_events", "a create event is the first event")
    if version.room_id_is_create_hash:
        if "room_id" in event.raw:
            raise AuthRuleRejection("create.has_room_id", "the event's hash is the room ID")
    elif server_name_of(event.room_id) != server_name_of(event.sender):
        raise AuthRuleRejection("create.room_of_another_server", "room and sender differ")
    if "room_version" in event.content:
        named = event.content["room_version"]
        if not isinstance(named, str) or named not in ROOM_VERSIONS:
            raise AuthRuleRejection("create.unknown_room_version", "unknown room version")
    if version.creator_in_content and "creator" not in event.content:
        raise AuthRuleRejection("create.no_creator", "content.creator is missing")
    if version.privileged_creators and "additional_creators" in event.content:
        additional = event.content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(one) for one in additional):
            raise AuthRuleRejection(
                "create.additional_creators", "additional_creators is a list of user IDs"
            )
