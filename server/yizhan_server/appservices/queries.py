"""Asking application services: for users and rooms that they may make, and whether they are there.

Spec: application service API, "Querying", "Pinging".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
from typing_extensions import override

from yizhan_server.appservices.calls import Answer, AppserviceCalls, CallFailed
from yizhan_server.appservices.registered import Appservices
from yizhan_server.appservices.registration import Appservice
from yizhan_server.protocol.errors import Forbidden, MatrixError

ATTEMPTS = 3
PAUSE_S = 0.5
QUERY_TIMEOUT_S = 20.0
PING_TIMEOUT_S = 20.0
_MAX_TOLD = 4096
"""Bytes of a bad answer that the service is told back."""


class BadStatus(MatrixError):
    """A ping was answered, but not with success; the service is told what it answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(502, "M_BAD_STATUS", f"The application service answered {answer.status}")
        self._answer = answer

    @override
    def body(self) -> dict[str, Any]:
        """Return the answer's body with the status and text that the service gave."""
        text = self._answer.body[:_MAX_TOLD].decode(errors="replace")
        return {**super().body(), "status": self._answer.status, "body": text}


class AppserviceQueries:
    """Asks. Is `rooms.aliases.AliasSource` and `rooms.members.UserSource`."""

    def __init__(self, services: Appservices, calls: AppserviceCalls) -> None:
        self._services = services
        self._calls = calls
        self._reached: list[Callable[[str], None]] = []

    def on_reached(self, call: Callable[[str], None]) -> None:
        """Have `call` told the id of each service that answers a ping."""
        self._reached.append(call)

    def check_alias(self, alias: str, service_id: str | None) -> None:
        """Answer M_EXCLUSIVE unless this service (None: a person) may give or take this alias."""
        self._services.check_alias(alias, service_id)

    async def offer_alias(self, alias: str) -> bool:
        """Let whoever has this alias make its room now; whether one says that it is there."""
        for service in self._services:
            if service.url is not None and service.has_alias(alias):
                answer = await self._ask(service, "rooms", alias)
                if answer.is_success:
                    return True
        return False

    async def offer_user(self, user_id: str) -> bool:
        """Let whoever has this user register it now; whether one says that it is there."""
        for service in self._services:
            if service.url is not None and service.has_user(user_id):
                answer = await self._ask(service, "users", user_id)
                if answer.is_success:
                    return True
        return False

    async def _ask(self, service: Appservice, kind: str, identifier: str) -> Answer:
        """Ask for one entity, several times if need be; 408 when the service stays silent."""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_S)
            try:
                return await self._calls.call(
                    service, "GET", (kind, identifier), timeout_s=QUERY_TIMEOUT_S
                )
            except CallFailed:
                continue
        raise MatrixError(408, "M_UNKNOWN", "The application service does not answer")

    async def ping(self, service_id: str, named: str, transaction_id: str | None) -> int:
        """Call the service that asks for it; returns how many ms its answer took."""
        if service_id != named:
            raise Forbidden("This is another application service's token")
        service = self._services.get(service_id)
        if service.url is None:
            raise MatrixError(400, "M_URL_NOT_SET", "The application service has no URL")
        body = {} if transaction_id is None else {"transaction_id": transaction_id}
        begun = time.monotonic()
        try:
            answer = await self._calls.call(
                service, "POST", ("ping",), body=orjson.dumps(body), legacy=None,
                timeout_s=PING_TIMEOUT_S,
            )  # fmt: skip
        except CallFailed as failed:
            if failed.timed_out:
                raise MatrixError(504, "M_CONNECTION_TIMEOUT", "No answer in time") from None
            raise MatrixError(502, "M_CONNECTION_FAILED", f"No connection: {failed}") from None
        duration_ms = round((time.monotonic() - begun) * 1000)
        if not answer.is_success:
            raise BadStatus(answer)
        for reached in self._reached:
            reached(service_id)
        return duration_ms
