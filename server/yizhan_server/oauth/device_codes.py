"""The device authorization grant: a device without a browser is approved in a browser elsewhere.

The user code is short, for it is typed; so guessing it takes an account, and each account has few
guesses. What remains is a stranger who talks somebody into typing the stranger's own code: the
page says which program asks, and that only a device in one's own hands may be approved.

Spec: client-server API, "Device authorisation flow"; RFC 8628.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts import tokens
from yizhan_server.oauth.clients import DEVICE_CODE, Client, Clients
from yizhan_server.oauth.errors import OAuthError, invalid_grant
from yizhan_server.oauth.scope import parse_scope
from yizhan_server.protocol.errors import NotFound
from yizhan_server.storage import oauth as storage
from yizhan_server.storage.oauth import DeviceCode

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.accounts.accounts import AttemptLimit
    from yizhan_server.clock import Clock
    from yizhan_server.storage.accounts import Account

CODE = "ydc_"
LIFETIME_S = 900
INTERVAL_S = 5
GUESSES = "user_code"
"""The kind of attempts by which the guessing of user codes is limited, per account."""

# No vowels, so that no words arise, and nothing that looks like something else (RFC 8628, 6.1).
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_REMEMBERED_MS = 3_600_000
_MAX_POLLERS = 10_000


class DeviceCodes:
    """Gives out device codes, has them approved, and tells whoever polls."""

    def __init__(self, db: Database, clock: Clock, clients: Clients, guesses: AttemptLimit) -> None:
        self._db = db
        self._clock = clock
        self._clients = clients
        self._guesses = guesses
        # Digest -> (earliest next poll, interval). Forgetting one only forgives a fast poll.
        self._polls: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    async def start(self, client_id: str | None, scope: str) -> tuple[str, str]:
        """Return a new device code and its user code."""
        client = await self._clients.get(client_id)
        if not client.may(DEVICE_CODE):
            raise OAuthError("unauthorized_client", "The client did not register for this grant")
        granted = parse_scope(scope)
        now_ms = self._clock.now_ms()
        while True:
            code, user_code = tokens.make_token(CODE), _make_user_code()
            tx = Transaction()
            storage.guard_new_device_code(
                tx,
                DeviceCode(
                    tokens.digest_of(code), user_code, client.client_id, granted.text,
                    granted.device_id, "pending", None, None, now_ms + LIFETIME_S * 1000,
                ),
                now_ms + _REMEMBERED_MS,
            )  # fmt: skip
            try:
                await self._db.commit(tx)
            except GuardFailed:
                continue  # the user code is another's
            return code, f"{user_code[:4]}-{user_code[4:]}"

    async def find_pending(self, account: Account, typed: str) -> tuple[DeviceCode, Client]:
        """Return what a typed user code stands for; NotFound, or M_LIMIT_EXCEEDED after many."""
        self._guesses.check(GUESSES, account.user_id)
        user_code = "".join(letter for letter in typed.upper() if letter.isalnum())
        code = await storage.find_user_code(self._db, user_code) if len(user_code) == 8 else None
        if code is None or code.state != "pending" or code.expires_ms <= self._clock.now_ms():
            raise NotFound("There is no such code")
        return code, await self._clients.get(code.client_id)

    async def decide(self, account: Account, code: DeviceCode, *, is_approved: bool) -> None:
        """Approve or deny; NotFound when somebody decided before."""
        tx = Transaction()
        state = "approved" if is_approved else "denied"
        storage.guard_decision(tx, code.digest, state, account.user_id, account.ver)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise NotFound("There is no such code") from None

    async def poll(self, client_id: str, device_code: str) -> DeviceCode:
        """Return the code once it is approved; until then OAuthError says what to do."""
        digest = tokens.digest_of(device_code)
        code = await storage.find_device_code(self._db, digest)
        if code is None or code.client_id != client_id or code.state == "used":
            raise invalid_grant("The device code is not valid")
        now_ms = self._clock.now_ms()
        if code.expires_ms <= now_ms:
            raise OAuthError("expired_token", "The device code has expired")
        if code.state == "denied":
            raise OAuthError("access_denied", "The user refused")
        if code.state == "approved":
            self._polls.pop(digest, None)
            return code
        earliest_ms, interval_ms = self._polls.pop(digest, (0, INTERVAL_S * 1000))
        is_too_fast = now_ms < earliest_ms
        if is_too_fast:
            interval_ms += INTERVAL_S * 1000
        # A second of grace: networks deliver early as well as late.
        self._polls[digest] = (now_ms + interval_ms - 1000, interval_ms)
        if len(self._polls) > _MAX_POLLERS:
            self._polls.popitem(last=False)
        if is_too_fast:
            raise OAuthError("slow_down", "Poll less often")
        raise OAuthError("authorization_pending", "The user has not decided yet")


def _make_user_code() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(8))
