"""A new password, set by its owner, by who reads the owner's mail, or by an administrator.

Other sessions end with it.

Spec: client-server API, "Password management".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts.letters import PASSWORD
from yizhan_server.protocol.errors import MatrixError, NotFound
from yizhan_server.storage.email_addresses import guard_used

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.email_addresses import EmailAddresses
    from yizhan_server.accounts.email_verification import EmailVerifications
    from yizhan_server.flows.logout import Logout
    from yizhan_server.protocol.identifiers import DeviceID, UserID


class PasswordChange:
    """Sets passwords."""

    def __init__(
        self,
        db: Database,
        accounts: Accounts,
        logout: Logout,
        *,
        emails: EmailAddresses,
        verifications: EmailVerifications,
    ) -> None:
        self._db = db
        self._accounts = accounts
        self._logout = logout
        self._emails = emails
        self._verifications = verifications

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

    async def reset(self, email_sid: str, password: str, *, logout_devices: bool) -> None:
        """Set the password of the account whose address was verified, as `set` does.

        The verification is used up in the same commit. Answers M_THREEPID_NOT_FOUND when the
        address has no owner any more.
        """
        verified = await self._verifications.get_validated(PASSWORD, email_sid, None)
        owner = await self._emails.find_owner(verified.address)
        if owner is None:
            raise MatrixError(400, "M_THREEPID_NOT_FOUND", "The address belongs to no account")
        await self.set(
            owner, password, logout_devices=logout_devices,
            also=lambda tx: guard_used(tx, email_sid),
        )  # fmt: skip
