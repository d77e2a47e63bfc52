"""Profiles of people of other servers, which these are asked for.

Spec: server-server API, "Querying for information" (GET /query/profile).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from yizhan_config.tasks import Background
from yizhan_server.accounts.profiles import (
    AVATAR_URL,
    DISPLAY_NAME,
    MAX_PROFILE_BYTES,
    check_field_name,
    check_field_value,
)
from yizhan_server.clock import Clock
from yizhan_server.federation_client.errors import (
    RemoteFailure,
    RemoteMisbehaved,
    RemoteRefused,
    told_to_client,
)
from yizhan_server.federation_client.queries import QueryRequests
from yizhan_server.federation_client.remembered import Ask, Remembered
from yizhan_server.protocol.canonical_json import NotCanonical
from yizhan_server.protocol.errors import MatrixError, NotFound
from yizhan_server.protocol.identifiers import UserID, server_name_of

log = logging.getLogger(__name__)

KEPT_MS = 60_000
MOST = 1000

PATIENCE_S = 3
"""How long an invitation waits for the name of whom it invites."""


class RemoteProfiles:
    """Asks the servers of people, and keeps what they say for a minute."""

    def __init__(self, clock: Clock, background: Background, queries: QueryRequests) -> None:
        self._queries = queries
        self._profiles = Remembered(clock, background, self._query, for_ms=KEPT_MS, most=MOST)

    async def find(self, user_id: UserID, ask: Ask) -> dict[str, Any]:
        """Return somebody's profile, or answer why it is not known."""
        try:
            return await self._profiles.get(user_id, ask)
        except RemoteRefused as refusal:
            if refusal.status == 404:
                raise NotFound("There is no such user") from None
            raise told_to_client(refusal) from None
        except RemoteFailure as failure:
            raise told_to_client(failure) from None

    async def find_for_invitation(self, user_id: UserID) -> dict[str, Any]:
        """Return the profile of somebody who is being invited; {} if it cannot be had soon."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._profiles.get(user_id, lambda: None)
        except (RemoteFailure, TimeoutError):
            return {}

    async def _query(self, user_id: UserID) -> dict[str, Any]:
        server = server_name_of(user_id)
        assert server is not None, "the user id has been parsed"
        answer = await self._queries.profile(server, user_id)
        profile, size = {}, 0
        for field, value in answer.items():
            try:
                size += len(check_field_name(field)) + len(check_field_value(field, value))
            except (MatrixError, NotCanonical):
                # null, in older servers, is what is not set.
                if field in (DISPLAY_NAME, AVATAR_URL) and value is not None:
                    log.info("profile field dropped", extra={"server": server, "field": field})
                continue
            profile[field] = value
        if size > MAX_PROFILE_BYTES:
            raise RemoteMisbehaved(server, "the profile is too large")
        return profile
