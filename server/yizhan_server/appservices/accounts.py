"""The accounts of application services: registering and signing in without a password.

Spec: application service API, "Server admin style permissions", "Device management".
"""

from __future__ import annotations

from yizhan_database import Database, Transaction
from yizhan_server.accounts.accounts import Accounts
from yizhan_server.accounts.sessions import (
    MAX_DEVICE_NAME_BYTES,
    NewSession,
    Sessions,
    check_device_id,
    fit_device_name,
)
from yizhan_server.accounts.text import check_text
from yizhan_server.appservices.registered import Appservices, exclusive
from yizhan_server.clock import Clock
from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.protocol.identifiers import DeviceID, UserID, localpart_of
from yizhan_server.storage import devices as stored_devices


class AppserviceAccounts:
    """Makes accounts and devices for application services."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        services: Appservices,
        accounts: Accounts,
        sessions: Sessions,
    ) -> None:
        self._db = db
        self._clock = clock
        self._services = services
        self._accounts = accounts
        self._sessions = sessions

    async def prepare(self) -> None:
        """Make the accounts of the services themselves, where they are missing."""
        for service in self._services:
            if await self._accounts.find(service.sender) is None:
                await self._accounts.create(localpart_of(service.sender), None, service=service.id)

    async def register(
        self,
        service_id: str,
        localpart: str,
        *,
        device_id: str | None,
        device_name: str | None,
        refreshable: bool,
        inhibit_login: bool,
    ) -> tuple[UserID, NewSession | None]:
        """Create an account in the service's namespaces and, unless inhibited, a session for it."""
        device = check_device_id(device_id)
        nids = await self._sessions.prepare()
        session: NewSession | None = None

        def also(tx: Transaction, user_id: UserID) -> None:
            nonlocal session
            if not inhibit_login:
                session = self._sessions.record_start(
                    tx, nids, user_id, device,
                    display_name=fit_device_name(device_name), refreshable=refreshable,
                )  # fmt: skip

        user_id = await self._accounts.create(localpart, None, service=service_id, also=also)
        return user_id, session

    async def sign_in(
        self,
        service_id: str,
        name: str,
        *,
        device_id: str | None,
        device_name: str | None,
        refreshable: bool,
    ) -> NewSession:
        """Start a session of a user in the service's namespaces, or answer M_EXCLUSIVE."""
        user_id = self._accounts.find_user_id(name)
        if user_id is None or not self._services.get(service_id).has_user(user_id):
            raise exclusive("This user is outside of the application service's namespaces", 403)
        account = await self._accounts.find_active(user_id)
        if account is None:
            raise Forbidden("The application service has not registered this user")
        return await self._accounts.sign_in(
            account, device_id=device_id, display_name=device_name, refreshable=refreshable
        )

    async def ensure_device(
        self, user_id: UserID, device_id: str, display_name: str | None
    ) -> bool:
        """Create a device without a token, unless it is there; whether it was created."""
        check_text(device_id, "The device id")
        if display_name is not None:
            check_text(display_name, "The name", max_bytes=MAX_DEVICE_NAME_BYTES, allow_empty=True)
        if await stored_devices.find_device(self._db, user_id, device_id) is not None:
            return False
        tx = Transaction()
        stored_devices.insert_device(
            tx, user_id, DeviceID(device_id), display_name, self._clock.now_ms()
        )
        await self._db.commit(tx)
        return True


def device_needed() -> MatrixError:
    """Return the error for what cannot be done without naming a device."""
    return MatrixError(400, "M_MISSING_PARAM", "This needs a device: name it by 'device_id'")
