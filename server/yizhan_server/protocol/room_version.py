"""Room versions as rows of switches: each version is the one before plus its difference.

The rest of the code asks for a capability and never compares a version's number, so a new version
is a new row here and code only where something is new.

Spec: room versions.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final


class EventIdFormat(Enum):
    """Where an event's ID comes from."""

    FIELD = "the event_id field, $local:server"
    HASH = "$ and the reference hash in base64"
    URL_SAFE_HASH = "$ and the reference hash in URL-safe base64"


class StateResolution(Enum):
    """Which algorithm resolves forks of a room."""

    V1 = "v1"
    V2 = "v2"
    V2_1 = "v2.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomVersion:
    """What the rooms of one version do. The defaults describe version 1."""

    identifier: str

    # Format of events.
    event_id_format: EventIdFormat = EventIdFormat.FIELD
    references_carry_hashes: bool = True  # prev_events and auth_events as [id, {sha256}] pairs
    strict_canonical_json: bool = False
    redacts_in_content: bool = False
    room_id_is_create_hash: bool = False

    # Signatures.
    enforces_key_validity: bool = False

    # What redaction leaves.
    redaction_keeps_aliases: bool = True
    redaction_keeps_join_rule_allow: bool = False
    redaction_keeps_join_authoriser: bool = False
    redaction_v11: bool = False  # create whole, third-party invite's `signed`, invite level, ...

    # Authorisation rules.
    has_aliases_rule: bool = True
    has_redaction_rule: bool = True
    creator_in_content: bool = True
    create_is_auth_event: bool = True
    checks_notification_levels: bool = False
    integer_power_levels_only: bool = False  # else also strings that spell an integer
    float_power_levels: bool = True
    knocking: bool = False
    restricted_joins: bool = False
    knock_restricted_joins: bool = False
    privileged_creators: bool = False

    state_resolution: StateResolution = StateResolution.V1


V1: Final = RoomVersion(identifier="1")
V2: Final = replace(V1, identifier="2", state_resolution=StateResolution.V2)
V3: Final = replace(
    V2,
    identifier="3",
    event_id_format=EventIdFormat.HASH,
    references_carry_hashes=False,
    has_redaction_rule=False,
)
V4: Final = replace(V3, identifier="4", event_id_format=EventIdFormat.URL_SAFE_HASH)
V5: Final = replace(V4, identifier="5", enforces_key_validity=True)
V6: Final = replace(
    V5,
    identifier="6",
    strict_canonical_json=True,
    float_power_levels=False,
    redaction_keeps_aliases=False,
    has_aliases_rule=False,
    checks_notification_levels=True,
)
V7: Final = replace(V6, identifier="7", knocking=True)
V8: Final = replace(V7, identifier="8", restricted_joins=True, redaction_keeps_join_rule_allow=True)
V9: Final = replace(V8, identifier="9", redaction_keeps_join_authoriser=True)
V10: Final = replace(
    V9, identifier="10", integer_power_levels_only=True, knock_restricted_joins=True
)
V11: Final = replace(
    V10,
    identifier="11",
    redacts_in_content=True,
    redaction_v11=True,
    creator_in_content=False,
)
V12: Final = replace(
    V11,
    identifier="12",
    room_id_is_create_hash=True,
    create_is_auth_event=False,
    privileged_creators=True,
    state_resolution=StateResolution.V2_1,
)

ROOM_VERSIONS: Final[dict[str, RoomVersion]] = {
    version.identifier: version for version in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12)
}
DEFAULT_ROOM_VERSION: Final = "12"
