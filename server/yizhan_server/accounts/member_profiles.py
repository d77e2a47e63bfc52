"""What rooms are told about a person."""

from __future__ import annotations

from yizhan_server.accounts.accounts import Accounts
from yizhan_server.accounts.profiles import AVATAR_URL, DISPLAY_NAME, Profiles
from yizhan_server.accounts.remote_profiles import RemoteProfiles
from yizhan_server.protocol.identifiers import UserID


class MemberProfiles:
    """Answers for member events; see `rooms.members.MemberProfiles`."""

    def __init__(self, accounts: Accounts, profiles: Profiles, remote: RemoteProfiles) -> None:
        self._accounts = accounts
        self._profiles = profiles
        self._remote = remote

    async def member_profile(self, user_id: UserID) -> dict[str, str]:
        """Return display name and avatar, those that are set; of others as their server says."""
        if self._accounts.is_local(user_id):
            profile = await self._profiles.find(user_id)
        else:
            profile = await self._remote.find_for_invitation(user_id)
        return {
            field: profile[field]
            for field in (DISPLAY_NAME, AVATAR_URL)
            if isinstance(profile.get(field), str)
        }

    async def is_account(self, user_id: UserID) -> bool:
        """Whether the account exists and is in use."""
        return await self._accounts.find_active(user_id) is not None
