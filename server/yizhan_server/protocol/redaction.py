"""The redaction algorithm: what is left of an event, in each room version.

It defines more than what users see of a redacted event: signatures and event IDs cover exactly
what redaction leaves, so one wrong key here splits rooms.

Spec: room versions, "Redactions".
"""

from functools import cache
from typing import NamedTuple

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.room_version import RoomVersion

_TOP_LEVEL = frozenset(
    (
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    )
)
_POWER_LEVELS = frozenset(
    (
        "ban",
        "events",
        "events_default",
        "kick",
        "redact",
        "state_default",
        "users",
        "users_default",
    )
)


class _Kept(NamedTuple):
    top_level: frozenset[str]
    content: dict[str, frozenset[str]]  # by event type


@cache
def _kept_by(version: RoomVersion) -> _Kept:
    top_level = _TOP_LEVEL
    member = {"membership"}
    join_rules = {"join_rule"}
    content = {
        "m.room.power_levels": _POWER_LEVELS,
        "m.room.history_visibility": frozenset(("history_visibility",)),
    }
    if version.redaction_keeps_join_authoriser:
        member.add("join_authorised_via_users_server")
    if version.redaction_keeps_join_rule_allow:
        join_rules.add("allow")
    if version.redaction_keeps_aliases:
        content["m.room.aliases"] = frozenset(("aliases",))
    if version.redaction_v11:
        content["m.room.power_levels"] = _POWER_LEVELS | {"invite"}
        content["m.room.redaction"] = frozenset(("redacts",))
    else:
        top_level |= {"prev_state", "origin", "membership"}
        content["m.room.create"] = frozenset(("creator",))
    content["m.room.member"] = frozenset(member)
    content["m.room.join_rules"] = frozenset(join_rules)
    return _Kept(top_level, content)


def redact(raw: JsonObject, version: RoomVersion) -> JsonObject:
    """Return a new event with only what redaction leaves; values are shared with `raw`.

    The signatures are kept; `unsigned` is not.
    """
    kept = _kept_by(version)
    redacted = {key: value for key, value in raw.items() if key in kept.top_level}
    content = raw.get("content")
    redacted["content"] = (
        redact_content(raw.get("type"), content, version) if isinstance(content, dict) else {}
    )
    return redacted


def redact_content(event_type: object, content: JsonObject, version: RoomVersion) -> JsonObject:
    """Return what redaction leaves of the content of an event of this type."""
    if version.redaction_v11 and event_type == "m.room.create":
        return content
    keys = _kept_by(version).content.get(event_type) if isinstance(event_type, str) else None
    if keys is None:
        return {}
    left = {key: value for key, value in content.items() if key in keys}
    if version.redaction_v11 and event_type == "m.room.member":
        invite = content.get("third_party_invite")
        if isinstance(invite, dict):
            # An invite without `signed` leaves an empty object, as in the other servers: the
            # event's ID covers it.
            left["third_party_invite"] = {
                key: value for key, value in invite.items() if key == "signed"
            }
    return left
