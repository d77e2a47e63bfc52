"""Acts of administrators upon accounts. Each is one commit, its entry in the audit log included.

Called in this process, or through the socket by `yizhan user` while the server runs: one
service, so that a change takes effect at once either way. Arguments and answers are JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from yizhan_config.secret_files import make_password
from yizhan_database import GuardFailed, Transaction
from yizhan_server.protocol.errors import MatrixError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.identity_reset import IdentityResets
    from yizhan_server.accounts.profiles import Profiles
    from yizhan_server.accounts.registration import Registration
    from yizhan_server.admin.record import Record
    from yizhan_server.flows.password_change import PasswordChange
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.storage.accounts import Account

JsonObject = dict[str, Any]
T = TypeVar("T")

_NAMES_AT_ONCE = 500
_DAY_MS = 86_400_000


class Refusal(Exception):
    """An act that cannot be done; the sentence for the administrator, in both languages."""

    def __init__(self, zh: str, en: str) -> None:
        super().__init__(en)
        self.zh = zh
        self.en = en


class UserAdministration:
    """What an administrator of the machine may do. `actor` names the person, for the record."""

    def __init__(
        self,
        db: Database,
        record: Record,
        *,
        accounts: Accounts,
        profiles: Profiles,
        password_change: PasswordChange,
        registration: Registration,
        identity_resets: IdentityResets,
    ) -> None:
        self._db = db
        self._record = record
        self._accounts = accounts
        self._profiles = profiles
        self._password_change = password_change
        self._registration = registration
        self._identity_resets = identity_resets

    # region looking

    async def list_people(self) -> list[JsonObject]:
        """Return every account, by user id."""
        accounts = [account async for account in self._accounts.scan()]
        people: list[JsonObject] = []
        for start in range(0, len(accounts), _NAMES_AT_ONCE):
            portion = accounts[start : start + _NAMES_AT_ONCE]
            names = await self._profiles.find_display_names(
                [account.user_id for account in portion]
            )
            people += [_to_json(account, names.get(account.user_id)) for account in portion]
        return people

    async def find_taken(self, localparts: Sequence[str]) -> list[str]:
        """Return those of `localparts` that have an account; Refusal for one that cannot."""
        taken = []
        for localpart in localparts:
            user_id = self._check_name(localpart)
            if await self._accounts.find(user_id) is not None:
                taken.append(localpart)
        return taken

    async def list_acts(self, limit: int) -> list[JsonObject]:
        """Return the latest entries of the audit log, newest first."""
        return await self._record.list_latest(limit)

    # region acting

    async def add(
        self,
        actor: str,
        localpart: str,
        *,
        password: str | None = None,
        display_name: str | None = None,
        is_admin: bool = False,
    ) -> JsonObject:
        """Create an account. Without `password` a random one is made and returned."""
        self._check_name(localpart)
        made = None if password is not None else make_password()
        record = await self._record.begin(actor, "add", {"admin": is_admin})

        def also(tx: Transaction, user_id: UserID) -> None:
            if display_name:
                self._profiles.record_display_name(tx, user_id, display_name)
            record(tx, user_id)

        user_id = await _said(
            self._accounts.create(
                localpart,
                password if made is None else made,
                is_admin=is_admin,
                has_initial_password=True,
                also=also,
            ),
            localpart,
        )
        return _with_password(user_id, made)

    async def set_password(
        self, actor: str, localpart: str, *, password: str | None, keep_devices: bool
    ) -> JsonObject:
        """Set a password, by default ending all sessions. None: a random one is returned."""
        account = await self._find(localpart)
        new = make_password() if password is None else password
        record = await self._record.begin(actor, "password", {"keep_devices": keep_devices})
        await _said(
            self._password_change.set(
                account.user_id,
                new,
                logout_devices=not keep_devices,
                is_initial=True,
                also=lambda tx: record(tx, account.user_id),
            ),
            localpart,
        )
        return _with_password(account.user_id, new if password is None else None)

    async def set_locked(self, actor: str, localpart: str, *, is_locked: bool) -> JsonObject:
        """Lock an account, or end the lock. Its sessions stay and are refused meanwhile."""
        account = await self._find(localpart)
        record = await self._record.begin(actor, "lock" if is_locked else "unlock", {})
        tx = Transaction()
        self._accounts.record_locked(tx, account.user_id, is_locked=is_locked)
        record(tx, account.user_id)
        await self._commit(tx, localpart)
        return {"user_id": account.user_id}

    async def set_suspended(self, actor: str, localpart: str, *, is_suspended: bool) -> JsonObject:
        """Suspend an account, or end that. It may read and leave, and write nothing."""
        account = await self._find(localpart)
        record = await self._record.begin(actor, "suspend" if is_suspended else "unsuspend", {})
        tx = Transaction()
        self._accounts.record_suspended(tx, account.user_id, is_suspended=is_suspended)
        record(tx, account.user_id)
        await self._commit(tx, localpart)
        return {"user_id": account.user_id}

    async def allow_identity_reset(self, actor: str, localpart: str) -> JsonObject:
        """Let somebody replace their cross-signing keys once, within ten minutes."""
        account = await self._find(localpart)
        record = await self._record.begin(actor, "reset_identity", {})
        tx = Transaction()
        self._identity_resets.record(tx, account.user_id)
        record(tx, account.user_id)
        await self._commit(tx, localpart)
        return {"user_id": account.user_id}

    async def set_admin(self, actor: str, localpart: str, *, is_admin: bool) -> JsonObject:
        """Make an administrator of the homeserver, or no longer."""
        account = await self._find(localpart)
        record = await self._record.begin(actor, "admin" if is_admin else "admin_revoke", {})
        tx = Transaction()
        self._accounts.record_admin(tx, account.user_id, is_admin=is_admin)
        record(tx, account.user_id)
        await self._commit(tx, localpart)
        return {"user_id": account.user_id}

    async def make_token(self, actor: str, *, uses: int | None, days: int | None) -> JsonObject:
        """Make a registration token."""
        if (uses is not None and uses < 1) or (days is not None and not 1 <= days <= 3650):
            raise Refusal("次数至少为 1，天数为 1 到 3650。", "Uses from 1, days from 1 to 3650.")
        record = await self._record.begin(actor, "token", {"uses": uses, "days": days})
        lifetime_ms = None if days is None else days * _DAY_MS
        token = await self._registration.make_token(
            uses, lifetime_ms, also=lambda tx: record(tx, "")
        )
        return {"token": token, "open": self._registration.is_open}

    # region finding

    async def _commit(self, tx: Transaction, localpart: str) -> None:
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise _unknown(localpart) from None

    def _check_name(self, localpart: str) -> UserID:
        try:
            return self._accounts.check_name(localpart)
        except MatrixError as error:
            raise _refusal(error, localpart) from None

    async def _find(self, name: str) -> Account:
        user_id = self._accounts.find_user_id(name)
        account = None if user_id is None else await self._accounts.find_active(user_id)
        if account is None:
            raise _unknown(name)
        return account


def _to_json(account: Account, display_name: str | None) -> JsonObject:
    return {
        "user_id": account.user_id,
        "display_name": display_name,
        "admin": account.is_admin,
        "locked": account.is_locked,
        "suspended": account.is_suspended,
        "deactivated": account.is_deactivated,
        "initial_password": account.has_initial_password,
        "created_ms": account.created_ms,
        "signed_in_ms": account.signed_in_ms,
    }


def _with_password(user_id: UserID, made: str | None) -> JsonObject:
    return {"user_id": user_id} if made is None else {"user_id": user_id, "password": made}


async def _said(act: Coroutine[Any, Any, T], name: str) -> T:
    """Await `act`, and put what a client would be told into words for the administrator."""
    try:
        return await act
    except MatrixError as error:
        raise _refusal(error, name) from None


def _refusal(error: MatrixError, name: str) -> Refusal:
    match error.errcode:
        case "M_USER_IN_USE":
            return Refusal(f"{name} 已经存在。", f"{name} exists already.")
        case "M_INVALID_USERNAME":
            return Refusal(
                f"“{name}”不能作用户名：只能用小写字母 a-z、数字和 . _ = - / +。",
                f"'{name}' cannot be a user name: only a-z, 0-9 and . _ = - / + are allowed.",
            )
        case "M_WEAK_PASSWORD":
            return Refusal("密码太短、太长，或与用户名相同。", f"{error.message}.")
        case "M_NOT_FOUND":
            return _unknown(name)
        case _:
            return Refusal(f"{name}：{error.message}。", f"{name}: {error.message}.")


def _unknown(name: str) -> Refusal:
    return Refusal(
        f"没有 {name} 这个账号；用 yizhan user list 查看全部账号。",
        f"There is no account {name}; yizhan user list shows all.",
    )
