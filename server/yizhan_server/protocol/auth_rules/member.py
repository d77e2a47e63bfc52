"""Authorisation of `m.room.member`, one function per membership."""

from collections.abc import Callable
from typing import TypeAlias

from yizhan_server.protocol.auth_rules.room_state import RoomState
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import ServerName, is_user_id, server_name_of
from yizhan_server.protocol.power_levels import creator_of
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.protocol.signing import has_signature_by, is_signed_by_any

SignatureCheck: TypeAlias = Callable[[ServerName], bool]


def check_member(event: Pdu, state: RoomState, is_signed_by: SignatureCheck | None) -> None:
    """Reject a change of membership that the room does not permit."""
    if event.state_key is None:
        raise AuthRuleRejection("member.no_state_key", "not a state event")
    if "membership" not in event.content:
        raise AuthRuleRejection("member.no_membership", "content.membership is missing")
    if state.version.restricted_joins and "join_authorised_via_users_server" in event.content:
        _check_authoriser_signature(event, is_signed_by)
    target = event.state_key
    match event.membership:
        case "join":
            _check_join(event, target, state)
        case "invite":
            _check_invite(event, target, state)
        case "leave":
            _check_leave(event, target, state)
        case "ban":
            _check_ban(event, target, state)
        case "knock" if state.version.knocking:
            _check_knock(event, target, state)
        case _:
            raise AuthRuleRejection("member.unknown_membership", "unknown membership")


def _check_authoriser_signature(event: Pdu, is_signed_by: SignatureCheck | None) -> None:
    authoriser = event.content["join_authorised_via_users_server"]
    server = server_name_of(authoriser) if is_user_id(authoriser) else None
    if (
        server is None
        or not has_signature_by(event.raw, server)
        or (is_signed_by is not None and not is_signed_by(server))
    ):
        raise AuthRuleRejection(
            "member.authoriser_signature", "not signed by the server of the authorising user"
        )


def _check_join(event: Pdu, target: str, state: RoomState) -> None:
    create = state.create
    if (
        create is not None
        and event.prev_events == (create.event_id,)
        and creator_of(create, state.version) == target
    ):
        return
    if event.sender != target:
        raise AuthRuleRejection("member.join.of_another", "nobody joins for somebody else")
    membership = state.membership_of(target)
    if membership == "ban":
        raise AuthRuleRejection("member.join.banned", f"{target} is banned")
    join_rule = state.join_rule
    if join_rule == "public":
        return
    if not _admits_invited(join_rule, state.version):
        raise AuthRuleRejection("member.join.rule", "the join rule lets nobody in")
    if membership in ("invite", "join"):
        return
    if not _admits_authorised(join_rule, state.version):
        raise AuthRuleRejection("member.join.not_invited", f"{target} is not invited")
    authoriser = event.content.get("join_authorised_via_users_server")
    if not isinstance(authoriser, str) or state.membership_of(authoriser) != "join":
        raise AuthRuleRejection("member.join.authoriser", "no member of the room authorised it")
    if state.levels.of_user(authoriser) < state.levels.invite:
        raise AuthRuleRejection("member.join.authoriser", f"{authoriser} may not invite")


def _admits_invited(join_rule: object, version: RoomVersion) -> bool:
    return (
        join_rule == "invite"
        or (join_rule == "knock" and version.knocking)
        or _admits_authorised(join_rule, version)
    )


def _admits_authorised(join_rule: object, version: RoomVersion) -> bool:
    return (join_rule == "restricted" and version.restricted_joins) or (
        join_rule == "knock_restricted" and version.knock_restricted_joins
    )


def _check_invite(event: Pdu, target: str, state: RoomState) -> None:
    if "third_party_invite" in event.content:
        _check_third_party_invite(event, target, state)
        return
    _check_sender_joined(event, state)
    if state.membership_of(target) in ("join", "ban"):
        raise AuthRuleRejection("member.invite.target", f"{target} is in the room or banned")
    if state.levels.of_user(event.sender) < state.levels.invite:
        raise AuthRuleRejection("member.invite.level", f"{event.sender} may not invite")


def _check_third_party_invite(event: Pdu, target: str, state: RoomState) -> None:
    if state.membership_of(target) == "ban":
        raise AuthRuleRejection("member.third_party_invite.banned", f"{target} is banned")
    invite = event.content["third_party_invite"]
    signed = invite.get("signed") if isinstance(invite, dict) else None
    if not isinstance(signed, dict):
        raise AuthRuleRejection("member.third_party_invite.unsigned", "no signed object")
    token = signed.get("token")
    if not isinstance(token, str) or "mxid" not in signed:
        raise AuthRuleRejection("member.third_party_invite.incomplete", "mxid or token missing")
    if signed["mxid"] != target:
        raise AuthRuleRejection("member.third_party_invite.mxid", "signed for another user")
    announced = state.state.get(("m.room.third_party_invite", token))
    if announced is None:
        raise AuthRuleRejection("member.third_party_invite.token", "no invite with this token")
    if announced.sender != event.sender:
        raise AuthRuleRejection("member.third_party_invite.sender", "invited by somebody else")
    if not is_signed_by_any(signed, _public_keys(announced.content)):
        raise AuthRuleRejection("member.third_party_invite.signature", "no valid signature")


def _public_keys(content: JsonObject) -> list[str]:
    keys = [content.get("public_key")]
    listed = content.get("public_keys")
    if isinstance(listed, list):
        keys += [entry.get("public_key") for entry in listed if isinstance(entry, dict)]
    return [key for key in keys if isinstance(key, str)]


def _check_leave(event: Pdu, target: str, state: RoomState) -> None:
    membership = state.membership_of(target)
    if event.sender == target:
        if membership in ("invite", "join") or (membership == "knock" and state.version.knocking):
            return
        raise AuthRuleRejection("member.leave.not_in_room", f"{target} is not in the room")
    _check_sender_joined(event, state)
    level = state.levels.of_user(event.sender)
    if membership == "ban" and level < state.levels.ban:
        raise AuthRuleRejection("member.leave.unban_level", f"{event.sender} may not unban")
    if level < state.levels.kick:
        raise AuthRuleRejection("member.leave.kick_level", f"{event.sender} may not remove")
    if state.levels.of_user(target) >= level:
        raise AuthRuleRejection("member.leave.target_level", f"{target} has as high a level")


def _check_ban(event: Pdu, target: str, state: RoomState) -> None:
    _check_sender_joined(event, state)
    level = state.levels.of_user(event.sender)
    if level < state.levels.ban:
        raise AuthRuleRejection("member.ban.level", f"{event.sender} may not ban")
    if state.levels.of_user(target) >= level:
        raise AuthRuleRejection("member.ban.target_level", f"{target} has as high a level")


def _check_knock(event: Pdu, target: str, state: RoomState) -> None:
    rule = state.join_rule
    if rule != "knock" and not (
        rule == "knock_restricted" and state.version.knock_restricted_joins
    ):
        raise AuthRuleRejection("member.knock.rule", "the room does not take knocks")
    if event.sender != target:
        raise AuthRuleRejection("member.knock.of_another", "nobody knocks for somebody else")
    if state.membership_of(target) in ("ban", "invite", "join"):
        raise AuthRuleRejection("member.knock.membership", f"{target} cannot knock now")


def _check_sender_joined(event: Pdu, state: RoomState) -> None:
    if state.membership_of(event.sender) != "join":
        raise AuthRuleRejection("sender.not_joined", f"{event.sender} is not in the room")
