"""Room versions: the table of differences, as the specification's introduction tells it."""

from dataclasses import fields
from itertools import pairwise

from yizhan_server.protocol.room_version import (
    DEFAULT_ROOM_VERSION,
    ROOM_VERSIONS,
    EventIdFormat,
    StateResolution,
)
from yizhan_testing.protocol_room import ALL_VERSIONS


def test_there_are_twelve_and_the_last_is_the_default() -> None:
    assert list(ROOM_VERSIONS) == [str(number) for number in range(1, 13)]
    assert DEFAULT_ROOM_VERSION == "12"
    assert all(name == version.identifier for name, version in ROOM_VERSIONS.items())


def test_each_version_differs_from_the_one_before_in_just_this() -> None:
    differences = []
    for before, after in pairwise(ALL_VERSIONS):
        differences.append(
            {f.name for f in fields(after) if getattr(before, f.name) != getattr(after, f.name)}
            - {"identifier"}
        )
    assert differences == [
        {"state_resolution"},
        {"event_id_format", "references_carry_hashes", "has_redaction_rule"},
        {"event_id_format"},
        {"enforces_key_validity"},
        {
            "strict_canonical_json",
            "float_power_levels",
            "redaction_keeps_aliases",
            "has_aliases_rule",
            "checks_notification_levels",
        },
        {"knocking"},
        {"restricted_joins", "redaction_keeps_join_rule_allow"},
        {"redaction_keeps_join_authoriser"},
        {"integer_power_levels_only", "knock_restricted_joins"},
        {"redacts_in_content", "redaction_v11", "creator_in_content"},
        {
            "room_id_is_create_hash",
            "create_is_auth_event",
            "privileged_creators",
            "state_resolution",
        },
    ]


def test_event_ids_and_state_resolution() -> None:
    formats = [version.event_id_format for version in ALL_VERSIONS]
    assert (
        formats
        == [EventIdFormat.FIELD] * 2 + [EventIdFormat.HASH] + [EventIdFormat.URL_SAFE_HASH] * 9
    )
    algorithms = [version.state_resolution for version in ALL_VERSIONS]
    assert algorithms == [StateResolution.V1] + [StateResolution.V2] * 10 + [StateResolution.V2_1]
