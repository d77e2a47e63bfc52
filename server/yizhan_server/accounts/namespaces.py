"""Names that are not everybody's to take."""

from __future__ import annotations

from typing import Protocol


class NamespaceGuard(Protocol):
    """Knows which users belong to application services."""

    def check_user(self, user_id: str, service_id: str | None) -> None:
        """Answer M_EXCLUSIVE unless this service (None: a person) may make this account."""
        ...
