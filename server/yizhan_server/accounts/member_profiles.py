"""What rooms are told about a person of this server."""

from __future__ import annotations

from yizhan_server.accounts.accounts import Accounts
from yizhan_server.accounts.profiles import AVATAR_URL, DISPLAY_NAME, Profiles
from yizhan_server.protocol.identifiers import UserID


class MemberProfiles:
    """Answers for member events; see `rooms.members.MemberProfiles`."""

    def __init__(self, accounts: Accounts, profiles: Profiles) -> None:
        self._accounts = accounts
        self._profiles = profiles

    async def member_profile(self, user_id: UserID) -> dict[str, str]:
        """Return display name and avatar, those that are set."""
        profile = await self._profiles.find(user_id)
        return {
            field: profile[field]
            for field in (DISPLAY_NAME, AVATAR_URL)
            if isinstance(profile.get(field), str)
        }

    async def is_account(self, user_id: UserID) -> bool:
        """Whether the account exists and is in use."""
        return await self._accounts.find_active(user_id) is not None
