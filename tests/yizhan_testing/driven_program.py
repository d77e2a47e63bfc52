"""A real client in another language, as a process that answers to JSON lines.

A line to the program is `{"id", "method", "params"}`; a line from it `{"id", "result"}` or
`{"id", "error": {message, errcode, status}}`, in the order of completion. The first one, with the
id 0, says that it is ready. It ends with its standard input. `tests/clients` holds such programs.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import Any, cast

from typing_extensions import override

JsonObject = dict[str, Any]


class ProgramError(Exception):
    """What the program answered instead of a result; `errcode` and `status` are the server's."""

    def __init__(
        self, message: str, *, errcode: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.errcode = errcode
        self.status = status


class Connection(asyncio.SubprocessProtocol):
    """The protocol's side in Python: lines out, futures in. Needs no task of its own."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[JsonObject] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.complaints: deque[str] = deque(maxlen=60)  # the last lines of standard error
        self._pending: dict[int, asyncio.Future[JsonObject]] = {0: self.ready}
        self._next = 1
        self._line = bytearray()
        self._stdin: asyncio.WriteTransport | None = None
        self._transport: asyncio.SubprocessTransport | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))

    @override
    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.complaints.extend(data.decode(errors="replace").splitlines())
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._line += line
            self._answered(json.loads(self._line))
            self._line.clear()
        self._line += rest

    def _answered(self, message: JsonObject) -> None:
        future = self._pending.pop(message["id"])
        if future.done():  # its caller was cancelled
            return
        error = message.get("error")
        if error is None:
            future.set_result(message["result"])
        else:
            text = error["stack"] if error.get("name") == "TypeError" else error["message"]
            future.set_exception(
                ProgramError(text, errcode=error.get("errcode"), status=error.get("status"))
            )

    @override
    def process_exited(self) -> None:
        for future in self._pending.values():
            if not future.done():
                text = "the client ended:\n" + "\n".join(self.complaints)
                future.set_exception(ProgramError(text))
        self._pending.clear()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def call(self, method: str, params: JsonObject) -> asyncio.Future[JsonObject]:
        future: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        transport = self._transport
        if transport is None or self._stdin is None or transport.get_returncode() is not None:
            future.set_exception(ProgramError("the client is not running"))
            return future
        number, self._next = self._next, self._next + 1
        self._pending[number] = future
        line = json.dumps({"id": number, "method": method, "params": params})
        self._stdin.write(line.encode() + b"\n")
        return future

    async def close(self) -> None:
        """End the process by closing its input; by force when it does not obey within 5 s."""
        if self._transport is None:
            return
        if self._stdin is not None:
            self._stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), 5)
        if not self.ended.done():
            self._transport.kill()
            await self.ended
        self._transport.close()
