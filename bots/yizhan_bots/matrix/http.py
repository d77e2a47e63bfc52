"""Requests to the homeserver: one connection pool, one error type, polite when told to wait."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

Json = dict[str, Any]

REQUEST_SECONDS = 30.0
MOST_WAIT_SECONDS = 60.0
_TRIES = 5


class Refusal(Exception):
    """The homeserver answered with an error. `body` may hold UIA flows (status 401)."""

    def __init__(self, status: int, errcode: str, message: str, body: Json) -> None:
        super().__init__(f"{status} {errcode}: {message}")
        self.status = status
        self.errcode = errcode
        self.body = body

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status >= 500 or self.status in {408, 429}


class Unreachable(Exception):
    """No (complete) answer arrived; whether the request took effect is unknown."""


def path(*segments: str) -> str:
    """Join path segments, each percent-encoded as a whole (ids contain `!`, `/`, `:`)."""
    return "/".join(quote(segment, safe="") for segment in segments)


class Homeserver:
    """The client API of one homeserver under one access token."""

    def __init__(self, base_url: str, access_token: str | None = None) -> None:
        self._base = base_url.rstrip("/") + "/_matrix/client/"
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None), json_serialize=_dumps
        )
        self.access_token = access_token

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def request(
        self,
        method: str,
        where: str,
        body: Json | None = None,
        *,
        query: dict[str, str] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> Json:
        """Send one request and return its JSON object; waits and repeats on 429.

        `where` is below `/_matrix/client/`, already encoded (see `path`). Raises `Refusal` and
        `Unreachable`.
        """
        for _ in range(_TRIES - 1):
            try:
                return await self._once(method, where, body, query, seconds)
            except Refusal as refusal:
                if refusal.status != 429:
                    raise
                wait = refusal.body.get("retry_after_ms")
                wait_ms = wait if isinstance(wait, int) else 1000
                await asyncio.sleep(min(max(wait_ms, 50) / 1000, MOST_WAIT_SECONDS))
        return await self._once(method, where, body, query, seconds)

    async def _once(
        self,
        method: str,
        where: str,
        body: Json | None,
        query: dict[str, str] | None,
        seconds: float,
    ) -> Json:
        headers = {}
        if self.access_token is not None:
            headers["Authorization"] = f"Bearer {self.access_token}"
        url = self._base + where
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    method,
                    URL(url, encoded=True),  # else aiohttp would turn %2F into a slash
                    params=query,
                    json=body if body is not None or method == "GET" else {},
                    headers=headers,
                ) as response,
            ):
                raw = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Neither URL nor headers: both may carry what no log should.
            raise Unreachable(type(error).__name__) from error
        answer = _parse(raw)
        if status != 200:
            body = answer if isinstance(answer, dict) else {}
            raise Refusal(status, str(body.get("errcode", "")), str(body.get("error", "")), body)
        if not isinstance(answer, dict):
            # Whoever answered was no homeserver: a proxy's page, say.
            raise Unreachable("the answer is no JSON object")
        return answer


def _parse(raw: bytes) -> object:
    """Return the JSON value; None for what is no JSON."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        # In old rooms a number may be larger than any float, which the faster parser refuses.
        return json.loads(raw, parse_int=_nearest)
    except (ValueError, RecursionError):
        return None


def _nearest(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def _dumps(value: object) -> str:
    return orjson.dumps(value).decode()
