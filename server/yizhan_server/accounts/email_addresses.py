"""The e-mail addresses of accounts. An address belongs to one account at most.

Spec: client-server API, "Adding Account Administrative Contact Information", "Third-party ID";
appendices, "E-Mail" of "3PID Types".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts.named_user import named_user
from yizhan_server.protocol.errors import InvalidParam, MatrixError
from yizhan_server.storage import email_addresses as storage

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.storage.email_addresses import EmailAddress, Verification

EMAIL = "email"

# What mail servers take without quoting. ASCII only: where the mail goes must be beyond doubt, and
# by the case folding of the specification `straße@` and `strasse@` would be one address here and
# two mailboxes there.
_ADDRESS = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@"
    r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)


class EmailAddresses:
    """Whose address is which. Without a mail server none can be added."""

    def __init__(self, db: Database, clock: Clock, *, is_enabled: bool) -> None:
        self._db = db
        self._clock = clock
        self.is_enabled = is_enabled

    async def find_all(self, user_id: UserID) -> list[EmailAddress]:
        """Return the addresses of an account."""
        return await storage.find_addresses(self._db, user_id)

    async def find_owner(self, address: str) -> UserID | None:
        """Return whose account an address (in canonical form) belongs to."""
        found = await storage.find_address(self._db, address)
        return None if found is None else found.user_id

    async def find_name(self, identifier: object, user: object) -> str | None:
        """Return whom a client names, as `named_user` does, also by an address.

        An address of nobody is returned itself: no account has such a name, so that who asks
        waits as long, and is counted, as with a wrong user name.
        """
        address = _address_in(identifier)
        if address is None or not self.is_enabled:
            return named_user(identifier, user)
        try:
            canonical = canonical_address(address)
        except InvalidParam:
            return ""
        return await self.find_owner(canonical) or canonical

    async def check_free(self, address: str) -> None:
        """Answer M_THREEPID_IN_USE when an address belongs to an account."""
        if await self.find_owner(address) is not None:
            raise address_in_use()

    async def add(self, user_id: UserID, verified: Verification) -> None:
        """Give an account a verified address, or answer M_THREEPID_IN_USE."""
        tx = Transaction()
        self.record_addition(tx, user_id, verified)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise address_in_use() from None

    def record_addition(self, tx: Transaction, user_id: UserID, verified: Verification) -> None:
        """Record a verified address. Two guards: it is nobody's yet, and was not used before."""
        assert verified.validated_ms is not None
        storage.guard_new_address(
            tx, user_id, verified.address, verified.validated_ms, self._clock.now_ms()
        )
        storage.guard_used(tx, verified.sid)

    async def remove(self, user_id: UserID, address: str) -> None:
        """Take an address from an account, if it has it; what was begun with it ends."""
        try:
            canonical = canonical_address(address)
        except InvalidParam:
            return
        if await self.find_owner(canonical) != user_id:
            return
        tx = Transaction()
        storage.delete_address(tx, user_id, canonical)
        storage.delete_verifications_of(tx, canonical)
        await self._db.commit(tx)


def canonical_address(address: str) -> str:
    """Return the form in which an address is kept and compared, or answer M_INVALID_PARAM."""
    canonical = address.lower() if address.isascii() else ""
    if _ADDRESS.fullmatch(canonical) is None:
        raise InvalidParam("This is no e-mail address that can be used here")
    return canonical


def address_in_use() -> MatrixError:
    """Return the error for an address that an account has."""
    return MatrixError(400, "M_THREEPID_IN_USE", "This address belongs to an account already")


def _address_in(identifier: object) -> str | None:
    """Return the e-mail address of an identifier; the examples of `/login` have no type in it."""
    if not isinstance(identifier, dict):
        return None
    said: dict[str, Any] = identifier
    if said.get("type", "m.id.thirdparty") != "m.id.thirdparty" or said.get("medium") != EMAIL:
        return None
    address = said.get("address")
    return address if isinstance(address, str) else None
