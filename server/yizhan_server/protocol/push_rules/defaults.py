"""The server-default push rules, those of the specification in its order."""

from enum import Enum
from typing import Any, Final

from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.identifiers import UserID

MASTER: Final = ".m.rule.master"


class Owner(Enum):
    """Stands for the owner's user ID in conditions. Not a string, so no JSON can spell it."""

    OWNER = "the owner of the rules"


_NOTIFY: Final = "notify"


def _highlight() -> JsonObject:
    return {"set_tweak": "highlight"}


def _sound(value: str) -> JsonObject:
    return {"set_tweak": "sound", "value": value}


def _match(key: str, pattern: str | Owner) -> JsonObject:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _rule(rule_id: str, conditions: list[JsonObject], actions: list[Any]) -> JsonObject:
    return {
        "rule_id": rule_id,
        "default": True,
        "enabled": rule_id != MASTER,
        "conditions": conditions,
        "actions": actions,
    }


def _two_members() -> JsonObject:
    return {"kind": "room_member_count", "is": "2"}


def _rules_of(owner: UserID | Owner) -> dict[str, list[JsonObject]]:
    return {
        "override": [
            _rule(MASTER, [], []),
            _rule(".m.rule.suppress_notices", [_match("content.msgtype", "m.notice")], []),
            _rule(
                ".m.rule.invite_for_me",
                [
                    _match("type", "m.room.member"),
                    _match("content.membership", "invite"),
                    _match("state_key", owner),
                ],
                [_NOTIFY, _sound("default")],
            ),
            _rule(".m.rule.member_event", [_match("type", "m.room.member")], []),
            _rule(
                ".m.rule.is_user_mention",
                [
                    {
                        "kind": "event_property_contains",
                        "key": r"content.m\.mentions.user_ids",
                        "value": owner,
                    }
                ],
                [_NOTIFY, _sound("default"), _highlight()],
            ),
            _rule(
                ".m.rule.is_room_mention",
                [
                    {
                        "kind": "event_property_is",
                        "key": r"content.m\.mentions.room",
                        "value": True,
                    },
                    {"kind": "sender_notification_permission", "key": "room"},
                ],
                [_NOTIFY, _highlight()],
            ),
            _rule(
                ".m.rule.tombstone",
                [_match("type", "m.room.tombstone"), _match("state_key", "")],
                [_NOTIFY, _highlight()],
            ),
            _rule(".m.rule.reaction", [_match("type", "m.reaction")], []),
            _rule(
                ".m.rule.room.server_acl",
                [_match("type", "m.room.server_acl"), _match("state_key", "")],
                [],
            ),
            _rule(
                ".m.rule.suppress_edits",
                [
                    {
                        "kind": "event_property_is",
                        "key": r"content.m\.relates_to.rel_type",
                        "value": "m.replace",
                    }
                ],
                [],
            ),
        ],
        "content": [],
        "room": [],
        "sender": [],
        "underride": [
            _rule(".m.rule.call", [_match("type", "m.call.invite")], [_NOTIFY, _sound("ring")]),
            _rule(
                ".m.rule.encrypted_room_one_to_one",
                [_two_members(), _match("type", "m.room.encrypted")],
                [_NOTIFY, _sound("default")],
            ),
            _rule(
                ".m.rule.room_one_to_one",
                [_two_members(), _match("type", "m.room.message")],
                [_NOTIFY, _sound("default")],
            ),
            _rule(".m.rule.message", [_match("type", "m.room.message")], [_NOTIFY]),
            _rule(".m.rule.encrypted", [_match("type", "m.room.encrypted")], [_NOTIFY]),
        ],
    }


def default_ruleset(user_id: UserID) -> dict[str, list[JsonObject]]:
    """Return a new account's rules: the `global` ruleset, by kind."""
    return _rules_of(user_id)


# The conditions of the default rules, by rule ID, with the owner left open.
DEFAULT_CONDITIONS: Final[dict[str, list[JsonObject]]] = {
    rule["rule_id"]: rule["conditions"]
    for rules in _rules_of(Owner.OWNER).values()
    for rule in rules
}
