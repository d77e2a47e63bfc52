"""Which state events an event must name as those that permit it.

Spec: server-server API, "Auth events selection".
"""

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.room_version import RoomVersion


def auth_types_for_event(
    type: str,  # noqa: A002 - the event's own word
    sender: str,
    state_key: str | None,
    content: JsonObject,
    version: RoomVersion,
) -> list[tuple[str, str]]:
    """Return the (type, state_key) pairs to select from the room's state, each once.

    Those that the room does not have are left out by the caller. A create event has none. Where
    `version.create_is_auth_event` is false the create event is not among them, yet the rules
    are still given it.
    """
    if type == "m.room.create":
        return []
    keys = [("m.room.power_levels", ""), ("m.room.member", sender)]
    if version.create_is_auth_event:
        keys.insert(0, ("m.room.create", ""))
    if type == "m.room.member":
        _add_member_keys(keys, state_key, content, version)
    return keys


def _add_member_keys(
    keys: list[tuple[str, str]],
    state_key: str | None,
    content: JsonObject,
    version: RoomVersion,
) -> None:
    membership = content.get("membership")
    if state_key is not None:
        _add(keys, ("m.room.member", state_key))
    if membership in ("join", "invite", "knock"):
        keys.append(("m.room.join_rules", ""))
    if membership == "invite":
        token = third_party_invite_token(content)
        if token is not None:
            keys.append(("m.room.third_party_invite", token))
    if membership == "join" and version.restricted_joins:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str):
            _add(keys, ("m.room.member", authoriser))


def third_party_invite_token(content: JsonObject) -> str | None:
    """Return `content.third_party_invite.signed.token` if it is there and a string."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = signed.get("token") if isinstance(signed, dict) else None
    return token if isinstance(token, str) else None


def _add(keys: list[tuple[str, str]], key: tuple[str, str]) -> None:
    if key not in keys:
        keys.append(key)
