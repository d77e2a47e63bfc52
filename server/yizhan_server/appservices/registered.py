"""All registered application services: whose token it is, and who owns which name.

Spec: application service API, "Registration", "Server admin style permissions".
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence

from yarl import URL

from yizhan_server.appservices.registration import Appservice
from yizhan_server.protocol.errors import MatrixError


class Appservices:
    """The application services of this server. Is `accounts.namespaces.NamespaceGuard`."""

    def __init__(self, services: Sequence[Appservice]) -> None:
        self._by_id = {service.id: service for service in services}

    def __iter__(self) -> Iterator[Appservice]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, service_id: str) -> Appservice:
        """Return the service of an id that is known to be one."""
        return self._by_id[service_id]

    def find_by_token(self, token: str) -> Appservice | None:
        """Return the service whose `as_token` this is."""
        given = token.encode("utf-8", "surrogatepass")
        # Every one of them is compared, in constant time: they are few.
        found = None
        for service in self:
            if hmac.compare_digest(service.as_token.encode(), given):
                found = service
        return found

    def check_user(self, user_id: str, service_id: str | None) -> None:
        """Answer M_EXCLUSIVE unless this service (None: a person) may make this account."""
        if service_id is not None and not self._by_id[service_id].has_user(user_id):
            raise exclusive("This user is outside of the application service's namespaces")
        if any(each.owns_user(user_id) for each in self if each.id != service_id):
            raise exclusive("This user name is reserved for an application service")

    def check_alias(self, alias: str, service_id: str | None) -> None:
        """Answer M_EXCLUSIVE unless this service (None: a person) may give or take this alias."""
        if service_id is not None and not self._by_id[service_id].has_alias(alias):
            raise exclusive("This alias is outside of the application service's namespaces")
        if any(each.owns_alias(alias) for each in self if each.id != service_id):
            raise exclusive("This alias is reserved for an application service")

    def hosts(self) -> list[str]:
        """Return what has to be reached, in the form of `outbound.allow`."""
        urls = [URL(each.url) for each in self if each.url is not None]
        return [f"{_bracketed(url.host or '')}:{url.port}" for url in urls]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def exclusive(message: str, status: int = 400) -> MatrixError:
    """Return the error for a name that belongs to, or lies outside of, somebody's namespaces."""
    return MatrixError(status, "M_EXCLUSIVE", message)
