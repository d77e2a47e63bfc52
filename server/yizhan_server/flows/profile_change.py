"""A change of profile, told to every room that its owner is in.

The profile is durable before any room is told. A crash in between leaves rooms with the old
name until the next change; that is why the rooms are told even when the client repeats a value.

Spec: client-server API, "Events on Change of Profile Information".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from yizhan_server.accounts.profiles import AVATAR_URL, DISPLAY_NAME

if TYPE_CHECKING:
    from yizhan_server.accounts.profiles import Profiles
    from yizhan_server.protocol.identifiers import UserID


class OwnMemberEvents(Protocol):
    """What `rooms` does for a change of profile."""

    async def replace_own_member_event(self, user_id: UserID) -> None:
        """Give every room that the user has joined a member event with the current profile.

        A room that has it already, or refuses it, is passed over.
        """


class ProfileChange:
    """Sets profile fields."""

    def __init__(self, profiles: Profiles, rooms: OwnMemberEvents) -> None:
        self._profiles = profiles
        self._rooms = rooms

    async def set(self, user_id: UserID, field: str, value: object) -> None:
        """Set one field."""
        await self._profiles.set(user_id, field, value)
        await self._tell(user_id, field)

    async def remove(self, user_id: UserID, field: str) -> None:
        """Remove one field."""
        await self._profiles.remove(user_id, field)
        await self._tell(user_id, field)

    async def _tell(self, user_id: UserID, field: str) -> None:
        if field in (DISPLAY_NAME, AVATAR_URL):
            await self._rooms.replace_own_member_event(user_id)
