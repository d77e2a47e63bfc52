"""What an attacker sends, and what must hold of every answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import orjson
from yarl import URL

from yizhan_testing.homeserver import HomeserverInProcess, Person


@dataclass(frozen=True, slots=True)
class Answer:
    """Whatever the server said."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def errcode(self) -> str | None:
        return self.body.get("errcode") if isinstance(self.body, dict) else None


@dataclass(frozen=True, slots=True)
class Town:
    """A server with a room in which alice has said something and bob is a member."""

    homeserver: HomeserverInProcess
    alice: Person
    bob: Person
    room: str
    event: str

    @property
    def position(self) -> int:
        """The end of the stream: everything durable that anybody can see moves it."""
        return self.homeserver.parts.stream.position

    async def calls(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send exactly these bytes to exactly this path; `token` defaults to alice's."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.alice.token}"
        async with self.alice.http.request(
            method,
            URL(self.homeserver.base_url + path, encoded=True),
            data=None if data is None else BytesIO(data),
            headers=sent,
        ) as response:
            raw = await response.read()
            is_json = response.headers.get("Content-Type", "").startswith("application/json")
            body = orjson.loads(raw) if is_json and raw else raw
            return Answer(response.status, body, response.headers)

    async def attacks(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call; whatever comes is never a 5xx, errors are Matrix errors that changed nothing."""
        before = self.position
        answer = await self.calls(method, path, data, token=token, headers=headers)
        what = f"{method} {path} {(data or b'')[:200]!r} -> {answer.status} {answer.body!r:.300}"
        assert answer.status < 500, what
        assert answer.headers.get("Access-Control-Allow-Origin") == "*", what
        if answer.status == 401 and "flows" in answer.body:
            assert self.position == before, what  # asked to confirm with the password
        elif answer.status >= 400:
            assert answer.headers["Content-Type"] == "application/json", what
            # What other standards define (OAuth) has their form of error.
            if path.startswith("/_matrix/"):
                assert isinstance(answer.errcode, str), what
                assert answer.errcode.startswith("M_"), what
            assert isinstance(answer.body["error"], str), what
            assert self.position == before, what
        return answer
