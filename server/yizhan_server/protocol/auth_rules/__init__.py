"""The authorisation rules: whether an event may be in the room, judged against a state.

Pure: the caller chooses the state. An event is judged several times, by its own auth events, by
the state before it, by the current state, and again in state resolution; the rules are the same.

`check_auth` follows the order of the specification's list; a family of rules has a file of its
own. A rejection names its rule by a stable dotted name, because the list's numbers move from one
version to the next.

Spec: room versions, "Authorisation rules"; server-server API, "Checks performed on receipt".
"""

from collections.abc import Mapping

from yizhan_server.protocol.auth_rules.aliases import check_aliases
from yizhan_server.protocol.auth_rules.create import check_create
from yizhan_server.protocol.auth_rules.member import SignatureCheck, check_member
from yizhan_server.protocol.auth_rules.power_levels import check_power_levels
from yizhan_server.protocol.auth_rules.redaction import check_redaction, may_redact
from yizhan_server.protocol.auth_rules.room_state import RoomState
from yizhan_server.protocol.auth_rules.selection import check_auth_events_selection
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import server_name_of
from yizhan_server.protocol.room_version import RoomVersion

__all__ = [
    "SignatureCheck",
    "check_auth",
    "check_auth_events_selection",
    "may_redact",
]


def check_auth(
    event: Pdu,
    auth_state: Mapping[tuple[str, str], Pdu],
    version: RoomVersion,
    *,
    is_signed_by: SignatureCheck | None = None,
) -> None:
    """Raise AuthRuleRejection unless `auth_state` permits `event`.

    `auth_state` holds, of one room state, at least the entries of `auth_types_for_event` and, in
    every room version, the create event. Not covered: `check_auth_events_selection`, which is
    about the events that `event` itself names, and whether the sender's server signed it.

    A member event that names `join_authorised_via_users_server` must be validly signed by that
    server. `is_signed_by(server)` is asked for it. Without it the signature need only be present:
    enough where `signing.required_signers` were all verified on receipt, as for every event that
    is in the database.
    """
    if event.type == "m.room.create":
        check_create(event, version)
        return
    state = RoomState(auth_state, version)
    _check_room(event, state)
    _check_federate(event, state)
    if version.has_aliases_rule and event.type == "m.room.aliases":
        check_aliases(event)
        return
    if event.type == "m.room.member":
        check_member(event, state, is_signed_by)
        return
    if state.membership_of(event.sender) != "join":
        raise AuthRuleRejection("sender.not_joined", f"{event.sender} is not in the room")
    if event.type == "m.room.third_party_invite":
        if state.levels.of_user(event.sender) < state.levels.invite:
            raise AuthRuleRejection("third_party_invite.level", "may not invite")
        return
    _check_required_level(event, state)
    if event.state_key is not None and event.state_key.startswith("@"):
        _check_own_state_key(event)
    if event.type == "m.room.power_levels":
        check_power_levels(event, state)
    elif version.has_redaction_rule and event.type == "m.room.redaction":
        check_redaction(event, state)


def _check_room(event: Pdu, state: RoomState) -> None:
    create = state.create
    if create is None:
        raise AuthRuleRejection("room.no_create", "the room has no create event")
    # Since version 12 the room ID *is* the create event. Earlier versions compare rooms in
    # `check_auth_events_selection` only, but a state of another room never permits anything.
    if create.room_id != event.room_id:
        raise AuthRuleRejection("room.other_create", "the create event is of another room")


def _check_federate(event: Pdu, state: RoomState) -> None:
    create = state.create
    if (
        create is not None
        and create.content.get("m.federate") is False
        and server_name_of(event.sender) != server_name_of(create.sender)
    ):
        raise AuthRuleRejection("room.not_federated", "the room is closed to other servers")


def _check_required_level(event: Pdu, state: RoomState) -> None:
    required = state.levels.to_send(event.type, is_state=event.is_state)
    level = state.levels.of_user(event.sender)
    if level < required:
        raise AuthRuleRejection(
            "level.too_low", f"{event.type} needs level {required}, the sender has {level}"
        )


def _check_own_state_key(event: Pdu) -> None:
    if event.state_key != event.sender:
        raise AuthRuleRejection("state_key.of_another_user", "the state key is another user's")
