"""For whom an application service speaks: its token, and the user and device that it names.

Spec: application service API, "Identity assertion", "Using /sync and /events".
"""

from __future__ import annotations

from collections.abc import Mapping

from yizhan_database import Database
from yizhan_server.accounts.accounts import Accounts
from yizhan_server.accounts.requester import Requester
from yizhan_server.accounts.sessions import user_locked
from yizhan_server.appservices.registered import Appservices
from yizhan_server.appservices.registration import Appservice
from yizhan_server.protocol.errors import Forbidden, MatrixError
from yizhan_server.protocol.identifiers import DeviceID, UserID
from yizhan_server.storage import devices as stored_devices

NO_DEVICE = DeviceID("")
_DEVICE_KEYS = ("device_id", "org.matrix.msc3202.device_id")


class AppserviceIdentities:
    """Turns a service's token and what it asserts into a requester."""

    def __init__(self, db: Database, services: Appservices, accounts: Accounts) -> None:
        self._db = db
        self._services = services
        self._accounts = accounts

    async def find(self, token: str, query: Mapping[str, str]) -> Requester | None:
        """Return whom the request is made for; None when the token is not a service's.

        Answers M_FORBIDDEN for a user outside of the namespaces or not registered, and
        M_UNKNOWN_DEVICE for a device that is not that user's.
        """
        service = self._services.find_by_token(token)
        if service is None:
            return None
        user_id = UserID(query.get("user_id") or service.sender)
        if not service.has_user(user_id):
            raise Forbidden("The application service may not act as this user")
        account = None if "\0" in user_id else await self._accounts.find_active(user_id)
        if account is None:
            raise Forbidden("The application service has not registered this user")
        if account.is_locked:
            raise user_locked()
        return Requester(
            user_id,
            await self._device(user_id, query),
            0,
            account.is_admin,
            is_suspended=account.is_suspended,
            appservice=service.id,
            is_rate_limited=service.is_rate_limited and user_id != service.sender,
        )

    def find_service(self, token: str) -> Requester | None:
        """Return the service itself as the requester, whomever the request may name."""
        service = self._services.find_by_token(token)
        return None if service is None else _itself(service)

    async def _device(self, user_id: UserID, query: Mapping[str, str]) -> DeviceID:
        named = next((query[key] for key in _DEVICE_KEYS if query.get(key)), None)
        if named is None:
            return NO_DEVICE
        known = None
        if "\0" not in named:
            known = await stored_devices.find_device(self._db, user_id, named)
        if known is None:
            raise MatrixError(400, "M_UNKNOWN_DEVICE", "The user has no such device")
        return known.device_id


def _itself(service: Appservice) -> Requester:
    return Requester(service.sender, NO_DEVICE, 0, appservice=service.id, is_rate_limited=False)
