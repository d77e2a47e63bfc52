"""The questions that the authorisation rules ask of a room state."""

from collections.abc import Mapping

from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.power_levels import PowerLevels
from yizhan_server.protocol.room_version import RoomVersion

DEFAULT_JOIN_RULE = "invite"


class RoomState:
    """A room state as far as the rules look at it."""

    __slots__ = ("create", "levels", "power_levels", "state", "version")

    def __init__(self, state: Mapping[tuple[str, str], Pdu], version: RoomVersion) -> None:
        self.state = state
        self.version = version
        self.create = state.get(("m.room.create", ""))
        self.power_levels = state.get(("m.room.power_levels", ""))
        self.levels = PowerLevels(self.create, self.power_levels, version)

    def membership_of(self, user_id: str) -> str | None:
        """Return the user's membership, None if there never was one."""
        member = self.state.get(("m.room.member", user_id))
        return None if member is None else member.membership

    @property
    def join_rule(self) -> object:
        """The join rule; what is not a known string allows nobody in."""
        event = self.state.get(("m.room.join_rules", ""))
        return DEFAULT_JOIN_RULE if event is None else event.content.get("join_rule")
