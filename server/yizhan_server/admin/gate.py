"""The one gate of administration: who may act, and upon whom. Each returns proof.

Whatever an administrator does through the network begins here, and what is done is entered in the
record under the name that the proof carries (`admin.record`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_server.protocol.errors import Forbidden, InvalidParam, NotFound

if TYPE_CHECKING:
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.requester import Requester
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.storage.accounts import Account


@dataclass(frozen=True, slots=True)
class Administrator:
    """Proof that somebody may administer this server."""

    user_id: UserID


@dataclass(frozen=True, slots=True)
class Subject:
    """Proof that an administrator may act upon an account."""

    administrator: Administrator
    account: Account

    @property
    def user_id(self) -> UserID:
        """Whose account it is."""
        return self.account.user_id


def access_administrator(requester: Requester) -> Administrator:
    """Return proof that the requester administers this server, or answer M_FORBIDDEN."""
    if not requester.is_admin:
        raise Forbidden("Only administrators may do this")
    return Administrator(requester.user_id)


async def get_account(accounts: Accounts, user_id: UserID) -> Account:
    """Return the account of a local user, one that has ended included.

    M_INVALID_PARAM for users of other servers, M_NOT_FOUND when there is none.
    """
    if not accounts.is_local(user_id):
        raise InvalidParam("This user is of another server")
    account = await accounts.find(user_id)
    if account is None:
        raise NotFound("There is no such user")
    return account


def access_subject(administrator: Administrator, account: Account) -> Subject:
    """Return proof that the account may be acted upon, or answer M_FORBIDDEN.

    Administrators do not lock, end or take over each other's accounts, nor their own: the rights
    have to be taken away first, which is an act of its own on the record.
    """
    if account.user_id == administrator.user_id:
        raise Forbidden("You cannot do this to yourself")
    if account.is_admin:
        raise Forbidden("This user is an administrator too")
    return Subject(administrator, account)
