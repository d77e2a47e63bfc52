"""A new password, set by its owner or by an administrator, and the end of other sessions.

Spec: client-server API, "Password management".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Transaction
from yizhan_server.protocol.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.flows.logout import Logout
    from yizhan_server.protocol.identifiers import DeviceID, UserID


class PasswordChange:
    """Sets passwords."""

    def __init__(self, db: Database, accounts: Accounts, logout: Logout) -> None:
        self._db = db
        self._accounts = accounts
        self._logout = logout

    async def set(
        self,
        user_id: UserID,
        password: str,
        *,
        logout_devices: bool,
        kept: DeviceID | None = None,
        is_initial: bool = False,
        also: Callable[[Transaction], None] | None = None,
    ) -> None:
        """Set the password and, if asked, end every device but `kept`, in one commit.

        Answers M_WEAK_PASSWORD, or M_NOT_FOUND when there is no such account in use.
        """
        password_hash = await self._accounts.hash_password(user_id, password)
        devices = await self._logout.find_device_ids(user_id)
        tx = Transaction()
        self._accounts.record_password(tx, user_id, password_hash, has_initial_password=is_initial)
        if logout_devices:
            self._logout.record_end_of_all(tx, user_id, devices, kept=kept)
        if also is not None:
            also(tx)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise NotFound("There is no such account") from None
