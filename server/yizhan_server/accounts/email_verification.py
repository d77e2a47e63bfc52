"""Proving that somebody reads the mail of an address.

A client asks for a mail, under a secret of its own; the mail has a link to a page of ours; who
presses the button there agrees, and then the client may use the verification, once, for what it
was asked for. A button, because the scanners of mail servers open links: were that enough, whoever
asked for a mail to your address could take over your account.

To whoever asks it is the same whether or not the address belongs to an account: the mail itself
says so, and goes only to the owner of the address.

Spec: client-server API, "Account registration" (`/register/email/requestToken`), "Password
management", "Adding Account Administrative Contact Information"; identity service API, "Email
associations", for what a session is.
"""

from __future__ import annotations

import hmac
import re
import secrets
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts import tokens
from yizhan_server.accounts.email_addresses import canonical_address
from yizhan_server.accounts.letters import (
    PASSWORD,
    Purpose,
    letter_with_link,
    letter_without_link,
)
from yizhan_server.protocol.errors import InvalidParam, MatrixError, NotFound
from yizhan_server.storage import email_addresses as storage
from yizhan_server.storage.email_addresses import Verification

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.email_addresses import EmailAddresses
    from yizhan_server.accounts.mail_sender import MailSender
    from yizhan_server.clock import Clock

LIFETIME_MS = 3_600_000
ADDRESS_LIMIT = "address"
"""The kind under which mails to one address are counted."""

# The grammar of client secrets and of session ids.
_OPAQUE = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_NEXT_LINK = re.compile(r"https?://[!-~]{1,2000}")


class MailLimit(Protocol):
    """What bounds how many mails one address gets, whoever asks for them."""

    def check(self, kind: str, caller: str) -> None:
        """Count one mail; raise M_LIMIT_EXCEEDED when there were too many."""


class EmailVerifications:
    """Sends the mails and remembers who agreed. `page` is the address of the page."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        accounts: Accounts,
        addresses: EmailAddresses,
        *,
        sender: MailSender | None,
        limits: MailLimit,
        page: str,
        server_name: str,
    ) -> None:
        self._db = db
        self._clock = clock
        self._accounts = accounts
        self._addresses = addresses
        self._sender = sender
        self._limits = limits
        self._page = page
        self._server_name = server_name

    @property
    def is_enabled(self) -> bool:
        """Whether there is a mail server."""
        return self._sender is not None

    def close(self) -> None:
        """End what sends."""
        if self._sender is not None:
            self._sender.close()

    # region asking

    async def request(
        self, purpose: Purpose, address: str, client_secret: str, attempt: int, next_link: str
    ) -> str:
        """Send a mail, unless this attempt is an old one, and return the session's id.

        Nothing is changed before the mail server has the mail: who is told that it could not be
        sent asks again, and an earlier link stays good.
        """
        address = canonical_address(address)
        _check_opaque(client_secret, "client_secret")
        if next_link and not _NEXT_LINK.fullmatch(next_link):
            raise InvalidParam("'next_link' is no http address")
        begun = await self._begin(purpose, address, client_secret)
        if attempt <= begun.attempt:
            return begun.sid
        self._limits.check(ADDRESS_LIMIT, address)
        token = await self._write_to(begun)
        tx = Transaction()
        storage.replace_token(
            tx, begun.sid, None if token is None else tokens.digest_of(token), next_link or None,
            attempt, self._clock.now_ms() + LIFETIME_MS,
        )  # fmt: skip
        await self._db.commit(tx)
        return begun.sid

    async def _begin(self, purpose: Purpose, address: str, client_secret: str) -> Verification:
        """Return the client's session for this address, a new one if it has none."""
        digest, now_ms = tokens.digest_of(client_secret), self._clock.now_ms()
        begun = await storage.find_begun(self._db, address, purpose, digest, now_ms)
        if begun is not None:
            return begun
        sid = secrets.token_urlsafe(18)
        new = Verification(sid, address, purpose, digest, None, -1, None, None)
        tx = Transaction()
        storage.insert_verification(tx, new, now_ms + LIFETIME_MS, now_ms)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            begun = await storage.find_begun(self._db, address, purpose, digest, now_ms)
            assert begun is not None
            return begun
        return new

    async def _write_to(self, begun: Verification) -> str | None:
        """Send the mail that fits; return the token in it, None when there is nothing to agree."""
        assert self._sender is not None
        owner = await self._addresses.find_owner(begun.address)
        is_good = owner is None
        if begun.purpose == PASSWORD:
            account = None if owner is None else await self._accounts.find_active(owner)
            # Who signs in elsewhere only must not get a second way in through the mailbox.
            is_good = account is not None and account.password_hash is not None
        if not is_good:
            letter = letter_without_link(begun.purpose, server=self._server_name)
            await self._sender.send(begun.address, letter.subject, letter.text)
            return None
        token = tokens.make_token(tokens.MAIL)
        letter = letter_with_link(
            begun.purpose,
            f"{self._page}?{urlencode({'sid': begun.sid, 'token': token})}",
            server=self._server_name,
            user=owner or "",
            minutes=LIFETIME_MS // 60_000,
        )
        await self._sender.send(begun.address, letter.subject, letter.text)
        return token

    # region agreeing

    async def get_asked(self, sid: str, token: str) -> Verification:
        """Return what the link of a mail asks for; M_NOT_FOUND if it is not good (any more)."""
        found = None
        if _OPAQUE.fullmatch(sid):
            found = await storage.find_verification(self._db, sid, self._clock.now_ms())
        if (
            found is None
            or found.token_digest is None
            or not hmac.compare_digest(found.token_digest, tokens.digest_of(token))
        ):
            raise NotFound("This link is not good, or no longer")
        return found

    async def validate(self, sid: str, token: str) -> Verification:
        """Note that the owner agrees; M_NOT_FOUND if the link is not good (any more)."""
        asked = await self.get_asked(sid, token)
        tx = Transaction()
        storage.guard_validated(tx, sid, tokens.digest_of(token), self._clock.now_ms())
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise NotFound("This link has been used") from None
        return asked

    # region using

    async def get_validated(
        self, purpose: Purpose, sid: str, client_secret: str | None
    ) -> Verification:
        """Return a verification that the owner agreed to, or answer M_THREEPID_AUTH_FAILED.

        Without `client_secret` where it was compared before.
        """
        found = None
        if _OPAQUE.fullmatch(sid):
            found = await storage.find_verification(self._db, sid, self._clock.now_ms())
        if found is None or found.purpose != purpose or found.validated_ms is None:
            raise NotVerified
        if client_secret is not None and not hmac.compare_digest(
            found.secret_digest, tokens.digest_of(client_secret)
        ):
            raise NotVerified
        return found


class NotVerified(MatrixError):
    """The owner of the address has not agreed, or not to this."""

    def __init__(self) -> None:
        super().__init__(403, "M_THREEPID_AUTH_FAILED", "The address has not been verified")


def _check_opaque(text: str, what: str) -> None:
    if _OPAQUE.fullmatch(text) is None:
        raise InvalidParam(f"'{what}' may have up to 255 characters of 0-9 a-z A-Z . = _ -")
