"""A room without a server: real events, made and judged by the protocol core alone.

The story is told in state (`put`, without asking whether it was allowed) and in attempts
(`allows`, `refusal_of`), so that each authorisation rule can be met in the very state that it is
about.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

from yizhan_server.protocol.auth_rules import check_auth
from yizhan_server.protocol.canonical_json import JsonObject
from yizhan_server.protocol.errors import AuthRuleRejection
from yizhan_server.protocol.event import Pdu, build_pdu
from yizhan_server.protocol.hashes import reference_hash
from yizhan_server.protocol.identifiers import EventID, RoomID, ServerName, UserID, server_name_of
from yizhan_server.protocol.room_version import ROOM_VERSIONS, EventIdFormat, RoomVersion
from yizhan_server.protocol.signing import SigningKey

ALICE = UserID("@alice:a.test")  # creates the room
BOB = UserID("@bob:b.test")
CAROL = UserID("@carol:c.test")
ALL_VERSIONS = tuple(ROOM_VERSIONS.values())


def versions(first: int = 1, last: int = 12) -> tuple[RoomVersion, ...]:
    """Return the room versions from `first` to `last`, for parametrised tests."""
    return ALL_VERSIONS[first - 1 : last]


def key_of(server_name: str) -> SigningKey:
    """Return the signing key of a server, the same one every time."""
    return SigningKey("ed25519:test", server_name.encode().ljust(32, b".")[:32])


class ProtocolRoom:
    """The state of one room, and how to make events in it."""

    def __init__(
        self,
        version: RoomVersion,
        creator: UserID = ALICE,
        create_content: JsonObject | None = None,
    ) -> None:
        self.version = version
        self.creator = creator
        self.state: dict[tuple[str, str], Pdu] = {}
        self.room_id: RoomID | None = None
        self._numbers = count(1)
        self._hashes: dict[EventID, bytes] = {}
        content: JsonObject = {"room_version": version.identifier}
        if version.creator_in_content:
            content["creator"] = creator
        if not version.room_id_is_create_hash:
            self.room_id = RoomID(f"!room:{server_name_of(creator)}")
        self.create = self.event(
            "m.room.create", creator, content | (create_content or {}), "", prev_events=()
        )
        self.room_id = self.create.room_id
        self.put(self.create)

    def event(
        self,
        event_type: str,
        sender: UserID,
        content: JsonObject,
        state_key: str | None = None,
        *,
        prev_events: Sequence[EventID] | None = None,
        auth_events: Sequence[EventID] = (),
        **fields: Any,
    ) -> Pdu:
        """Return a signed event that nobody has judged yet."""
        number = next(self._numbers)
        server_name = server_name_of(sender) or ServerName("a.test")
        has_own_id = self.version.event_id_format is EventIdFormat.FIELD
        if prev_events is None:
            prev_events = [self._message_id()]
        arguments: dict[str, Any] = {
            "room_id": self.room_id,
            "origin_server_ts": 1_700_000_000_000 + number,
            "depth": number,
            "event_id": EventID(f"$event{number}:{server_name}") if has_own_id else None,
            **fields,
        }
        pdu = build_pdu(
            self.version,
            type=event_type,
            sender=sender,
            state_key=state_key,
            content=content,
            prev_events=prev_events,
            auth_events=auth_events,
            server_name=server_name,
            signing_key=key_of(server_name),
            reference_hashes=self._hashes,
            **arguments,
        )
        self._hashes[pdu.event_id] = reference_hash(pdu.raw, self.version)
        return pdu

    def put(self, event: Pdu) -> Pdu:
        """Make a state event part of the state, allowed or not."""
        self.state[event.key] = event
        return event

    def put_state(
        self,
        event_type: str,
        content: JsonObject,
        state_key: str = "",
        sender: UserID | None = None,
    ) -> Pdu:
        """Make and put a state event."""
        return self.put(self.event(event_type, sender or self.creator, content, state_key))

    def put_member(self, user_id: UserID, membership: str) -> Pdu:
        """Give a user a membership."""
        return self.put_state("m.room.member", {"membership": membership}, user_id, user_id)

    def put_levels(self, **content: Any) -> Pdu:
        """Set the content of the power levels."""
        return self.put_state("m.room.power_levels", content)

    def put_join_rule(self, rule: str, **content: Any) -> Pdu:
        """Set the join rule."""
        return self.put_state("m.room.join_rules", {"join_rule": rule, **content})

    def member_event(
        self,
        user_id: UserID,
        membership: str,
        sender: UserID | None = None,
        *,
        prev_events: Sequence[EventID] | None = None,
        **content: Any,
    ) -> Pdu:
        """Return a change of membership, by the user unless a sender is given."""
        return self.event(
            "m.room.member",
            sender or user_id,
            {"membership": membership, **content},
            user_id,
            prev_events=prev_events,
        )

    def refusal_of(self, event: Pdu) -> str | None:
        """Return the name of the rule that refuses `event` in this state, None if it is allowed."""
        try:
            check_auth(event, self.state, self.version)
        except AuthRuleRejection as rejection:
            return rejection.rule
        return None

    def _message_id(self) -> EventID:
        """Return the ID of some earlier message, which only has to exist as a name."""
        event_id = EventID("$" + "m" * 43)
        if self.version.event_id_format is EventIdFormat.FIELD:
            event_id = EventID("$message:a.test")
        self._hashes.setdefault(event_id, b"\0" * 32)
        return event_id
