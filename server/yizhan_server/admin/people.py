"""Acts of administrators upon accounts, from the network. Each is on the record.

`admin.administration` is the same for whoever sits at the machine; there the operating system says
who acts, here the access token does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yizhan_database import GuardFailed, Transaction
from yizhan_server.accounts.profiles import AVATAR_URL, DISPLAY_NAME
from yizhan_server.admin.gate import Administrator, Subject, access_subject, get_account
from yizhan_server.protocol.errors import Forbidden, InvalidParam, NotFound
from yizhan_server.protocol.identifiers import localpart_of
from yizhan_server.storage.people import ListedAccount, scan_listed_accounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from yizhan_database import Database
    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.accounts.profiles import Profiles
    from yizhan_server.accounts.sessions import Sessions
    from yizhan_server.admin.record import Record
    from yizhan_server.flows.deactivation import Deactivation
    from yizhan_server.flows.device_rename import DeviceRename
    from yizhan_server.flows.logout import Logout
    from yizhan_server.flows.password_change import PasswordChange
    from yizhan_server.flows.profile_change import ProfileChange
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.storage.accounts import Account
    from yizhan_server.storage.devices import Device

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to become of an account; None leaves it as it is."""

    password: str | None = None
    logout_devices: bool = True
    display_name: str | None = None
    """'' removes it; so for the avatar."""
    avatar_url: str | None = None
    is_admin: bool | None = None
    is_deactivated: bool | None = None
    is_locked: bool | None = None


class PeopleAdministration:
    """What an administrator may do to accounts from afar."""

    def __init__(
        self,
        db: Database,
        record: Record,
        *,
        accounts: Accounts,
        sessions: Sessions,
        profiles: Profiles,
        profile_change: ProfileChange,
        password_change: PasswordChange,
        deactivation: Deactivation,
        logout: Logout,
        device_rename: DeviceRename,
    ) -> None:
        self._db = db
        self._record = record
        self._accounts = accounts
        self._sessions = sessions
        self._profiles = profiles
        self._profile_change = profile_change
        self._password_change = password_change
        self._deactivation = deactivation
        self._logout = logout
        self._device_rename = device_rename

    # region looking

    async def list_accounts(self) -> list[ListedAccount]:
        """Return every account, by user id."""
        return [listed async for listed in scan_listed_accounts(self._db)]

    async def get(self, user_id: UserID) -> ListedAccount:
        """Return an account, or answer M_NOT_FOUND."""
        account = await get_account(self._accounts, user_id)
        profile = await self._profiles.find(user_id)
        devices = await self._sessions.find_all(user_id)
        seen = [device.last_seen_ms for device in devices if device.last_seen_ms is not None]
        return ListedAccount(
            account, profile.get(DISPLAY_NAME), profile.get(AVATAR_URL), max(seen, default=None)
        )

    async def devices(self, user_id: UserID) -> list[Device]:
        """Return the devices of an account, or answer M_NOT_FOUND."""
        await get_account(self._accounts, user_id)
        return await self._sessions.find_all(user_id)

    async def device(self, user_id: UserID, device_id: str) -> Device:
        """Return one device of an account, or answer M_NOT_FOUND."""
        await get_account(self._accounts, user_id)
        return await self._sessions.get(user_id, device_id)

    # region accounts

    async def put(self, administrator: Administrator, user_id: UserID, wish: Changes) -> bool:
        """Create an account, or change the one that there is; True when it was created."""
        if not self._accounts.is_local(user_id):
            raise InvalidParam("This user is of another server")
        account = await self._accounts.find(user_id)
        if account is None:
            await self._create(administrator, user_id, wish)
        else:
            await self._change(administrator, account, wish)
        for field, value in ((DISPLAY_NAME, wish.display_name), (AVATAR_URL, wish.avatar_url)):
            if value is not None:
                await self._record.note(administrator.user_id, "profile", user_id, {"field": field})
                await self._profile_change.set(user_id, field, value)
        return account is None

    async def _create(self, administrator: Administrator, user_id: UserID, wish: Changes) -> None:
        if self._accounts.check_name(localpart_of(user_id)) != user_id:
            raise InvalidParam("User names are written in small letters")
        if wish.is_deactivated or wish.is_locked:
            raise InvalidParam("A new account is neither locked nor deactivated")
        is_admin = bool(wish.is_admin)
        entry = await self._record.begin(administrator.user_id, "add", {"admin": is_admin})
        await self._accounts.create(
            localpart_of(user_id), wish.password, is_admin=is_admin, has_initial_password=True,
            also=entry,
        )  # fmt: skip

    async def _change(self, administrator: Administrator, account: Account, wish: Changes) -> None:
        user_id = account.user_id
        # Who is found out before anything is done: all of it may be done, or none is.
        for is_asked in (
            wish.password is not None and user_id != administrator.user_id,
            wish.is_deactivated is not None and wish.is_deactivated != account.is_deactivated,
            wish.is_locked is not None and wish.is_locked != account.is_locked,
        ):
            if is_asked:
                access_subject(administrator, account)
        if wish.is_admin is not None and wish.is_admin != account.is_admin:
            _check_not_oneself(administrator, user_id)
        if wish.is_deactivated is False and account.is_deactivated:
            await self._commit(
                administrator, "reactivate", user_id,
                lambda tx: self._accounts.record_reactivation(tx, user_id),
            )  # fmt: skip
        if wish.password is not None:
            await self._set_password(
                administrator, user_id, wish.password, logout_devices=wish.logout_devices
            )
        if wish.is_admin is not None and wish.is_admin != account.is_admin:
            await self.set_admin(administrator, user_id, is_admin=wish.is_admin)
        is_locked = wish.is_locked
        if is_locked is not None and is_locked != account.is_locked:
            await self._commit(
                administrator, "lock" if is_locked else "unlock", user_id,
                lambda tx: self._accounts.record_locked(tx, user_id, is_locked=is_locked),
            )  # fmt: skip
        if wish.is_deactivated and not account.is_deactivated:
            await self.deactivate(administrator, user_id, erase=False)

    async def reset_password(
        self, administrator: Administrator, user_id: UserID, password: str, *, logout_devices: bool
    ) -> None:
        """Set somebody's password, by default ending all sessions."""
        account = await get_account(self._accounts, user_id)
        if user_id != administrator.user_id:
            access_subject(administrator, account)
        await self._set_password(administrator, user_id, password, logout_devices=logout_devices)

    async def set_admin(
        self, administrator: Administrator, user_id: UserID, *, is_admin: bool
    ) -> None:
        """Make somebody an administrator, or no longer; never oneself."""
        _check_not_oneself(administrator, user_id)
        account = await get_account(self._accounts, user_id)
        if is_admin and account.is_guest:
            raise InvalidParam("A guest cannot be an administrator")
        await self._commit(
            administrator, "admin" if is_admin else "admin_revoke", user_id,
            lambda tx: self._accounts.record_admin(tx, user_id, is_admin=is_admin),
        )  # fmt: skip

    async def set_suspended(
        self, administrator: Administrator, user_id: UserID, *, is_suspended: bool
    ) -> None:
        """Suspend an account, or end that."""
        await self._access(administrator, user_id)
        await self._commit(
            administrator, "suspend" if is_suspended else "unsuspend", user_id,
            lambda tx: self._accounts.record_suspended(tx, user_id, is_suspended=is_suspended),
        )  # fmt: skip

    async def deactivate(
        self, administrator: Administrator, user_id: UserID, *, erase: bool
    ) -> bool:
        """End an account; with `erase` its messages are hidden from who has not seen them.

        Returns whether no address of it is left at an identity server.
        """
        await self._access(administrator, user_id)
        entry = await self._record.begin(administrator.user_id, "deactivate", {"erase": erase})
        return await self._deactivation.deactivate(user_id, erase=erase, also=entry.about(user_id))

    # region devices

    async def rename_device(
        self, administrator: Administrator, user_id: UserID, device_id: str, name: str | None
    ) -> None:
        """Name somebody's device."""
        await self._access(administrator, user_id)
        await self._sessions.get(user_id, device_id)
        await self._record.note(
            administrator.user_id, "rename_device", user_id, {"device": device_id}
        )
        await self._device_rename.rename(user_id, device_id, name)

    async def end_devices(
        self, administrator: Administrator, user_id: UserID, device_ids: Sequence[str]
    ) -> None:
        """Sign devices of somebody out; those that are not there are passed over."""
        await self._access(administrator, user_id)
        entry = await self._record.begin(
            administrator.user_id, "end_devices", {"devices": list(device_ids)}
        )
        await self._logout.end(user_id, device_ids, also=entry.about(user_id))

    # region helping

    async def _access(self, administrator: Administrator, user_id: UserID) -> Subject:
        return access_subject(administrator, await get_account(self._accounts, user_id))

    async def _set_password(
        self, administrator: Administrator, user_id: UserID, password: str, *, logout_devices: bool
    ) -> None:
        entry = await self._record.begin(
            administrator.user_id, "password", {"keep_devices": not logout_devices}
        )
        await self._password_change.set(
            user_id, password, logout_devices=logout_devices, is_initial=True,
            also=entry.about(user_id),
        )  # fmt: skip

    async def _commit(
        self,
        administrator: Administrator,
        action: str,
        user_id: UserID,
        change: Callable[[Transaction], None],
    ) -> None:
        entry = await self._record.begin(administrator.user_id, action)
        tx = Transaction()
        change(tx)
        entry(tx, user_id)
        try:
            await self._db.commit(tx)
        except GuardFailed:
            raise NotFound("There is no such account in use") from None


def _check_not_oneself(administrator: Administrator, user_id: UserID) -> None:
    # Whoever gave up their own rights by mistake could not take them back.
    if user_id == administrator.user_id:
        raise Forbidden("You cannot change your own rights")
