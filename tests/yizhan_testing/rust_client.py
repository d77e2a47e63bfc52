"""A real Matrix client for tests: matrix-rust-sdk with the services that Element X is built on.

One `RustClient` is one device of one person; its program is in `tests/clients/rust` and is compiled
when a test asks for it. It speaks simplified sliding sync only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from yizhan_testing.driven_program import Connection
from yizhan_testing.js_client import WAIT_S, Verification

PROGRAM = Path(__file__).parents[1] / "clients" / "rust"
_TARGET = PROGRAM.parents[2] / ".cache" / "rust-client"

JsonObject = dict[str, Any]


def cargo() -> str | None:
    """Return where cargo is, or None: the tests that need it skip then."""
    return shutil.which("cargo")


def build_program() -> Path:
    """Compile the client if it is not, and return its executable; the first time takes minutes.

    Raises RuntimeError with the compiler's words.
    """
    _TARGET.mkdir(parents=True, exist_ok=True)
    # The SDK's manifests ask for a newer Rust than the one it builds with.
    command = ["cargo", "build", "--locked", "--ignore-rust-version", "--quiet"]
    with (_TARGET / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            command, cwd=PROGRAM, env={**os.environ, "CARGO_TARGET_DIR": str(_TARGET)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the client could not be built:\n{done.stderr}")
    return _TARGET / "debug" / "yizhan-test-client"


class RustClient:
    """One signed-in, syncing device. Ids of rooms and events are plain strings.

    What waits does so for `within` seconds, and then fails with what was awaited.
    """

    def __init__(self, connection: Connection, base_url: str, store: Path) -> None:
        self._connection = connection
        self._home = {"baseUrl": base_url, "store": str(store)}
        self._session: JsonObject = {}

    @classmethod
    async def launch(cls, base_url: str, store: Path) -> Self:
        """Start the process only; its databases will be in `store`."""
        return cls(await _launch(), base_url, store)

    @classmethod
    async def start(cls, base_url: str, user_id: str, password: str, store: Path) -> Self:
        """Sign in by password and sync; a first device makes the cryptographic identity."""
        client = await cls.launch(base_url, store)
        try:
            await client.signs_in(user_id, password)
        except BaseException:
            await client.close()
            raise
        return client

    async def signs_in(self, user_id: str, password: str) -> None:
        """Sign in by password and sync."""
        self._session = await self.call("login", **self._home, userId=user_id, password=password)
        await self.call("start")

    async def begins_oauth(self, redirect_uri: str) -> str:
        """Register as an application; returns the page that the person is to open."""
        answer = await self.call("begins_oauth", **self._home, redirectUri=redirect_uri)
        return str(answer["url"])

    async def completes_oauth(self, address: str) -> None:
        """Take the address to which the browser came back, and sync."""
        self._session = await self.call("completes_oauth", address=address)
        await self.call("start")

    async def renews_its_token(self) -> None:
        """Exchange the refresh token; the new access token is another one."""
        before = self._session["access_token"]
        self._session |= await self.call("refreshes")
        assert self._session["access_token"] != before

    async def recovers(self, recovery_key: str) -> None:
        """Unlock secret storage: this device signs itself and learns the backup's key."""
        await self.call("recovers", recoveryKey=recovery_key)

    @property
    def user_id(self) -> str:
        return str(self._session["user_id"])

    @property
    def device_id(self) -> str:
        return str(self._session["device_id"])

    async def call(self, method: str, within: float = WAIT_S, /, **params: Any) -> JsonObject:
        """Call a method of the program; parameters that are None are left out."""
        chosen = {name: value for name, value in params.items() if value is not None}
        return await self._connection.call(method, {**chosen, "timeoutMs": round(within * 1000)})

    async def restarts(self) -> None:
        """Go on in a new process with what the databases hold; not after signing in by OAuth."""
        await self.close()
        self._connection = await _launch()
        await self.call(
            "restore",
            **self._home,
            userId=self.user_id,
            deviceId=self.device_id,
            accessToken=self._session["access_token"],
        )
        await self.call("start")

    async def close(self) -> None:
        """End the process."""
        await self._connection.close()

    async def rooms(self) -> list[JsonObject]:
        """Return the list as it is shown: of each room its id, `name`, `membership`, counts."""
        return list((await self.call("rooms"))["rooms"])

    async def lists_first(self, room: str) -> None:
        """Wait until the room is at the top of the list, where something happened last."""
        await self.call("lists_first", roomId=room)

    async def creates_room(self, *, invite: list[str]) -> str:
        """Make an encrypted room."""
        return str((await self.call("create_room", invite=invite))["room_id"])

    async def accepts_invitation(self, room: str) -> None:
        """Wait for an invitation into the room and join."""
        await self.call("invited", roomId=room)
        await self.call("join", roomId=room)

    async def says(self, room: str, body: str) -> str:
        """Send a text; returns the event id once the server has given it back."""
        return str((await self.call("says", roomId=room, body=body))["event_id"])

    async def reads(self, body: str, room: str, within: float = WAIT_S) -> JsonObject:
        """Wait for a message that can be read; returns `event_id`, `sender`, `encrypted`."""
        return await self.call("reads", within, roomId=room, body=body)

    async def scrolls_back(self, room: str) -> None:
        """Fetch the room's events up to its beginning."""
        await self.call("scrolls_back", roomId=room)

    async def marks_read(self, room: str) -> None:
        """Say that one has read the latest event."""
        await self.call("marks_read", roomId=room)

    async def sees_unread(self, room: str, notifications: int, highlights: int) -> None:
        """Wait until the room has these counts in the list."""
        await self.call(
            "unread_becomes", roomId=room, notifications=notifications, highlights=highlights
        )

    async def requests_verification(self, user_id: str) -> Verification:
        """Ask a person, in the direct room with them."""
        answer = await self.call("requests_verification", userId=user_id)
        return Verification(self, answer["handle"])

    async def accepts_verification(self, user_id: str) -> Verification:
        """Wait for that person's request, and accept it."""
        answer = await self.call("accepts_verification", userId=user_id)
        return Verification(self, answer["handle"])

    async def sees_verified(self, user_id: str) -> None:
        """Wait until the person counts as verified."""
        await self.call("trust_becomes", userId=user_id)


async def _launch() -> Connection:
    program = await asyncio.to_thread(build_program)
    loop = asyncio.get_running_loop()
    _, connection = await loop.subprocess_exec(Connection, program)
    await connection.ready
    return connection
