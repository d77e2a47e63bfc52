"""Sessions: devices, and the access and refresh tokens that speak for them.

`authenticate` runs for every request, so checked tokens are cached. Whoever changes what a token
may do calls `forget_user` (or `forget_device`) *after* the commit; a token that was being looked
up meanwhile is then not cached, see `_generation`. Another process's change is noticed within
`_TRUST_MS`.

Spec: client-server API, "Relationship between access tokens and devices", "Refreshing access
tokens", "Soft logout", "Account locking".
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts import tokens
from yizhan_server.accounts.requester import Requester
from yizhan_server.accounts.text import check_text
from yizhan_server.protocol.errors import MatrixError, NotFound, UnknownToken
from yizhan_server.protocol.identifiers import DeviceID, UserID
from yizhan_server.storage import accounts as account_storage
from yizhan_server.storage import browser_sessions as browser_storage
from yizhan_server.storage import devices as storage
from yizhan_server.storage import email_addresses as email_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from yizhan_config.settings import Sessions as SessionSettings
    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.storage.devices import AccessToken, Device
    from yizhan_server.storage.numbers import Numbers

MAX_DEVICE_NAME_BYTES = 255
_CACHE_SIZE = 20_000
_TRUST_MS = 30_000
_TIDY_EVERY_S = 180.0
_REUSE_NOTICED_MS = 90 * 86_400_000
"""So long a refresh token that was replaced is known again when it comes back."""
_DEVICE_ID_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

TokenNids = tuple[int, int]
"""Row numbers for an access token and a refresh token."""


def user_locked() -> MatrixError:
    """Return the error that a locked account gets everywhere but at signing out."""
    return MatrixError(401, "M_USER_LOCKED", "This account has been locked", soft_logout=True)


@dataclass(frozen=True, slots=True)
class NewSession:
    """What a client is told once it has signed in (or refreshed)."""

    user_id: UserID
    device_id: DeviceID
    access_token: str
    refresh_token: str | None
    expires_in_ms: int | None

    def fields(self) -> dict[str, object]:
        """Return the tokens as keys of an answer's body."""
        body: dict[str, object] = {"access_token": self.access_token}
        if self.refresh_token is not None:
            body["refresh_token"] = self.refresh_token
        if self.expires_in_ms is not None:
            body["expires_in_ms"] = self.expires_in_ms
        return body


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was looked up."""

    requester: Requester
    expires_ms: int | None
    is_locked: bool
    trusted_until_ms: int


class DeviceAnnouncer(Protocol):
    """Records that a device begins, for all who keep a list of its owner's devices."""

    def __call__(self, tx: Transaction, user_id: UserID, device_id: DeviceID, /) -> None:
        """Record into `tx`, before the device itself; it may be there already."""


class Sessions:
    """The devices of all local users and the tokens that speak for them."""

    def __init__(
        self,
        db: Database,
        numbers: Numbers,
        clock: Clock,
        settings: SessionSettings,
        announce: DeviceAnnouncer,
    ) -> None:
        self._db = db
        self._numbers = numbers
        self._clock = clock
        self._announce = announce
        self._lifetime_ms = settings.access_token_lifetime_seconds * 1000
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._of_user: dict[UserID, set[bytes]] = {}
        self._generation = 0
        self._seen: dict[tuple[UserID, DeviceID], tuple[int, str | None, str | None]] = {}

    # region checking tokens

    async def authenticate(self, token: str, *, allow_locked: bool = False) -> Requester:
        """Return whose access token this is, or answer M_UNKNOWN_TOKEN or M_USER_LOCKED."""
        digest = tokens.digest_of(token)
        now_ms = self._clock.now_ms()
        known = self._known.get(digest)
        if known is None or now_ms >= known.trusted_until_ms:
            known = await self._look_up(digest, now_ms)
        else:
            self._known.move_to_end(digest)
        if known.expires_ms is not None and now_ms >= known.expires_ms:
            raise UnknownToken("The access token has expired", soft_logout=True)
        if known.is_locked and not allow_locked:
            raise user_locked()
        return known.requester

    async def _look_up(self, digest: bytes, now_ms: int) -> _Known:
        generation = self._generation
        token = await storage.find_access_token(self._db, digest)
        if token is not None and token.supersedes is not None and not _expired(token, now_ms):
            await self._confirm(token)
            generation = self._generation
            token = await storage.find_access_token(self._db, digest)
        if token is None:
            self._drop(digest)
            raise UnknownToken
        requester = Requester(
            token.user_id, token.device_id, token.nid, token.is_admin,
            token.is_guest, is_suspended=token.is_suspended,
        )  # fmt: skip
        known = _Known(requester, token.expires_ms, token.is_locked, now_ms + _TRUST_MS)
        # A sign-out that committed during the look-up has already passed through the cache and
        # will not come again: what was read before it may be answered, but not remembered.
        if generation == self._generation:
            self._known[digest] = known
            self._known.move_to_end(digest)
            self._of_user.setdefault(token.user_id, set()).add(digest)
            if len(self._known) > _CACHE_SIZE:
                self._drop(next(iter(self._known)))
        return known

    async def _confirm(self, token: AccessToken) -> None:
        tx = Transaction()
        storage.confirm_refresh(tx, token, self._clock.now_ms() + _REUSE_NOTICED_MS)
        tx.after_commit(lambda _: self.forget_user(token.user_id))
        with contextlib.suppress(GuardFailed):
            await self._db.commit(tx)

    def _drop(self, digest: bytes) -> None:
        known = self._known.pop(digest, None)
        if known is not None:
            user_id = known.requester.user_id
            of_user = self._of_user[user_id]
            of_user.discard(digest)
            if not of_user:
                del self._of_user[user_id]

    def forget_user(self, user_id: UserID) -> None:
        """Look every token of this user up again: called after a commit that changed them."""
        self._generation += 1
        for digest in self._of_user.pop(user_id, ()):
            del self._known[digest]

    # region signing in

    async def prepare(self) -> TokenNids:
        """Fetch the row numbers that `record_start` needs, for it cannot wait for them."""
        return await self._numbers.next("token"), await self._numbers.next("token")

    def record_start(
        self,
        tx: Transaction,
        nids: TokenNids,
        user_id: UserID,
        device_id: DeviceID,
        *,
        display_name: str | None,
        refreshable: bool,
    ) -> NewSession:
        """Record a session on a device, new or known; a known one's earlier tokens end.

        What is returned counts from the commit.
        """
        storage.delete_tokens(tx, user_id, device_id)
        self._announce(tx, user_id, device_id)
        storage.insert_device(tx, user_id, device_id, display_name, self._clock.now_ms())
        tx.after_commit(lambda _: self.forget_user(user_id))
        return self._record_tokens(
            tx, nids, user_id, device_id, supersedes=None, refreshable=refreshable
        )

    def _record_tokens(
        self,
        tx: Transaction,
        nids: TokenNids,
        user_id: UserID,
        device_id: DeviceID,
        *,
        supersedes: int | None,
        refreshable: bool,
    ) -> NewSession:
        access_token = tokens.make_token(tokens.ACCESS)
        expires_ms = self._clock.now_ms() + self._lifetime_ms if refreshable else None
        storage.insert_access_token(
            tx, nids[0], tokens.digest_of(access_token), user_id, device_id,
            expires_ms=expires_ms, supersedes=supersedes,
        )  # fmt: skip
        refresh_token = None
        if refreshable:
            refresh_token = tokens.make_token(tokens.REFRESH)
            storage.insert_refresh_token(
                tx, nids[1], tokens.digest_of(refresh_token), user_id, device_id,
                supersedes=supersedes,
            )  # fmt: skip
        return NewSession(
            user_id, device_id, access_token, refresh_token,
            self._lifetime_ms if refreshable else None,
        )  # fmt: skip

    async def refresh(self, refresh_token: str, *, client_id: str | None = None) -> NewSession:
        """Exchange a refresh token for a new pair; `client_id` is None for one of /login.

        The old pair stays valid until the new one is used, so that an answer that is lost can be
        asked for again.
        """
        used = await storage.find_refresh_token(self._db, tokens.digest_of(refresh_token))
        if used is None or used.client_id != client_id:
            raise UnknownToken("The refresh token is not valid")
        if used.is_locked:
            raise user_locked()
        nids = await self.prepare()
        tx = Transaction()
        storage.guard_refresh(tx, used, self._clock.now_ms() + _REUSE_NOTICED_MS)
        new = self._record_tokens(
            tx, nids, used.user_id, used.device_id, supersedes=used.nid, refreshable=True
        )
        tx.after_commit(lambda _: self.forget_user(used.user_id))
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise UnknownToken("The refresh token is not valid") from None
        return new

    # region signing out

    def record_end(
        self, tx: Transaction, user_id: UserID, device_ids: Collection[DeviceID]
    ) -> None:
        """Record the end of devices: the rows of this family only; see `flows.logout`."""
        storage.delete_devices(tx, user_id, device_ids)
        tx.after_commit(lambda _: self.forget_user(user_id))

    def record_end_of_all(self, tx: Transaction, user_id: UserID, kept: DeviceID | None) -> None:
        """Record the end of all devices but `kept`, of browsers and of the sign-in tokens."""
        storage.delete_devices_except(tx, user_id, kept or "")
        browser_storage.delete_browser_sessions(tx, user_id)
        account_storage.delete_login_tokens(tx, user_id)
        tx.after_commit(lambda _: self.forget_user(user_id))

    # region devices

    async def find_all(self, user_id: UserID) -> list[Device]:
        """Return a user's devices, with when each was last seen."""
        return [
            self._with_last_seen(user_id, device)
            for device in await storage.find_devices(self._db, user_id)
        ]

    async def get(self, user_id: UserID, device_id: str) -> Device:
        """Return one of a user's devices, or answer M_NOT_FOUND."""
        check_text(device_id, "The device id")
        device = await storage.find_device(self._db, user_id, device_id)
        if device is None:
            raise NotFound("No such device")
        return self._with_last_seen(user_id, device)

    async def rename(
        self,
        user_id: UserID,
        device_id: str,
        display_name: str | None,
        also: Callable[[Transaction], object],
    ) -> None:
        """Change a device's name (None leaves it), or answer M_NOT_FOUND.

        `also` records what belongs into the same commit.
        """
        await self.get(user_id, device_id)
        if display_name is None:
            return
        check_text(display_name, "The name", max_bytes=MAX_DEVICE_NAME_BYTES, allow_empty=True)
        tx = Transaction()
        storage.update_device_name(tx, user_id, device_id, display_name)
        also(tx)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise NotFound("No such device") from None

    def note_seen(
        self, requester: Requester, address: str | None, agent: str | None = None
    ) -> None:
        """Remember that a device was here just now; written by `tidy`."""
        self._seen[requester.user_id, requester.device_id] = (
            self._clock.now_ms(), address, fit_device_name(agent)
        )  # fmt: skip

    def _with_last_seen(self, user_id: UserID, device: Device) -> Device:
        seen = self._seen.get((user_id, device.device_id))
        if seen is None:
            return device
        return storage.Device(device.device_id, device.display_name, *seen)

    # region upkeep

    async def tidy(self) -> None:
        """Write when devices were last seen; drop tokens and half-done things that expired."""
        seen, self._seen = self._seen, {}
        tx = Transaction()
        storage.update_last_seen(
            tx, [(*what, user, device) for (user, device), what in seen.items()]
        )
        account_storage.delete_expired(tx, self._clock.now_ms())
        browser_storage.delete_expired(tx, self._clock.now_ms())
        email_storage.delete_expired(tx, self._clock.now_ms())
        await self._db.commit(tx)

    async def run(self) -> None:
        """Tidy every few minutes, for ever."""
        while True:
            await asyncio.sleep(_TIDY_EVERY_S)
            await self.tidy()


def _expired(token: AccessToken, now_ms: int) -> bool:
    return token.expires_ms is not None and now_ms >= token.expires_ms


def make_device_id() -> DeviceID:
    """Return a new random device id, in the form that people know from other servers."""
    return DeviceID("".join(secrets.choice(_DEVICE_ID_LETTERS) for _ in range(10)))


def check_device_id(device_id: str | None) -> DeviceID:
    """Return the device id that a client asks for, or a new one for None (or '')."""
    return DeviceID(check_text(device_id, "The device id")) if device_id else make_device_id()


def fit_device_name(display_name: str | None) -> str | None:
    """Return a new device's name, cut to size: nobody is kept out by a long one."""
    if display_name is None:
        return None
    printable = display_name.replace("\0", "").encode("utf-8", "ignore")
    return printable[:MAX_DEVICE_NAME_BYTES].decode("utf-8", "ignore")
