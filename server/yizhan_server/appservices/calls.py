"""HTTP to application services: one authorised call, by the path of today or that of before.

Spec: application service API, "Authorisation", "Legacy routes".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from yizhan_config.outbound import (
    OutboundRefused,
    OutboundSession,
    ResponseTooLarge,
    read_bounded,
)
from yizhan_server.appservices.registration import Appservice

MAX_ANSWER_BYTES = 1 << 20
_PREFIX = "/_matrix/app/v1"
_ABSENT = (404, 405, 501)


class CallFailed(Exception):
    """There is no answer: the service cannot be reached, or does not answer in time."""

    def __init__(self, why: str, *, timed_out: bool = False) -> None:
        super().__init__(why)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the call was accepted."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the parsed body; None when it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


class AppserviceCalls:
    """Calls application services. `outbound` is to reach their addresses and no others."""

    def __init__(self, outbound: OutboundSession) -> None:
        self._outbound = outbound

    async def call(
        self,
        service: Appservice,
        method: str,
        path: tuple[str, ...],
        *,
        legacy: str | None = "",
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float,
    ) -> Answer:
        """Call an endpoint; `path` is its segments. Raises CallFailed.

        `legacy` is what stands before the same segments in the path of before, which is tried
        when the service does not know the endpoint; None: there was none.
        """
        if service.url is None:
            raise CallFailed("it has no URL")
        tail = "".join("/" + quote(segment, safe="") for segment in path)
        query = dict(query or {})
        answer = await self._send(service, method, _PREFIX + tail, query, body, timeout_s)
        if legacy is not None and _is_unknown(answer):
            # So old a service knows the token only from here.
            query["access_token"] = service.hs_token
            before = await self._send(service, method, legacy + tail, query, body, timeout_s)
            if not _is_unknown(before):
                return before
        return answer

    async def _send(
        self,
        service: Appservice,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        timeout_s: float,
    ) -> Answer:
        headers = {"Authorization": f"Bearer {service.hs_token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = URL(f"{service.url}{path}", encoded=True).with_query(query)
        try:
            async with self._outbound.request(
                method, url, headers=headers, data=body, timeout_seconds=timeout_s
            ) as response:
                return Answer(response.status, await read_bounded(response, MAX_ANSWER_BYTES))
        except TimeoutError:
            raise CallFailed("no answer in time", timed_out=True) from None
        except OutboundRefused as refused:
            raise CallFailed(str(refused)) from None
        except (aiohttp.ClientError, OSError, ResponseTooLarge) as error:
            raise CallFailed(type(error).__name__) from None


def _is_unknown(answer: Answer) -> bool:
    """Whether the service does not know the endpoint, rather than what was asked for."""
    if answer.status not in _ABSENT:
        return False
    body = answer.json()
    errcode = body.get("errcode") if isinstance(body, dict) else None
    return errcode in (None, "M_UNRECOGNIZED")
