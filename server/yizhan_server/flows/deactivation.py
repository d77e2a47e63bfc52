"""The end of an account: sessions, keys, pushers, profile and settings go, then its rooms are left.

Everything but the rooms, and what is published at identity servers, is one commit. Nobody gets the
name again.

Spec: client-server API, "Account deactivation".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from yizhan_database import GuardFailed, Transaction
from yizhan_server.protocol.errors import NotFound
from yizhan_server.storage.account_data import delete_account_data

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.profiles import Profiles
    from yizhan_server.flows.logout import Logout
    from yizhan_server.protocol.identifiers import UserID


class RoomLeaver(Protocol):
    """What `rooms` does for a deactivation."""

    async def leave_all(self, user_id: UserID) -> None:
        """Leave every joined room and refuse every invitation; a room that fails is passed over."""


class Deactivation:
    """Ends accounts."""

    def __init__(
        self,
        db: Database,
        *,
        accounts: Accounts,
        profiles: Profiles,
        logout: Logout,
        rooms: RoomLeaver,
        forget_identity: Callable[[Transaction, UserID], None],
        unbind_addresses: Callable[[UserID], Awaitable[bool]],
    ) -> None:
        self._db = db
        self._accounts = accounts
        self._profiles = profiles
        self._logout = logout
        self._rooms = rooms
        self._forget_identity = forget_identity
        self._unbind_addresses = unbind_addresses

    async def deactivate(
        self,
        user_id: UserID,
        *,
        erase: bool = False,
        also: Callable[[Transaction], None] | None = None,
    ) -> bool:
        """End the account, or answer M_NOT_FOUND when it is not in use.

        With `erase`, its messages are shown redacted to whoever has not seen them. Returns whether
        no address of the account is left at an identity server.
        """
        devices = await self._logout.find_device_ids(user_id)
        tx = Transaction()
        self._accounts.record_deactivation(tx, user_id)
        self._logout.record_end_of_all(tx, user_id, devices, kept=None)
        self._forget_identity(tx, user_id)
        self._profiles.record_removal(tx, user_id)
        delete_account_data(tx, user_id)
        if erase:
            self._accounts.record_erasure(tx, user_id)
        if also is not None:
            also(tx)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise NotFound("There is no such account") from None
        await self._rooms.leave_all(user_id)
        return await self._unbind_addresses(user_id)

    async def resume(self) -> None:
        """Leave the rooms that accounts were still in when the server ended amid their end."""
        async for account in self._accounts.scan():
            if account.is_deactivated:
                await self._rooms.leave_all(account.user_id)
