"""The whole product as processes of its own, and people who use it: for stories that join all.

    async with open_installation(folder) as yizhan:
        await yizhan.up()                                  # `yizhan up --demo`
        zhang = await yizhan.js("@zhangsan:localhost")     # a matrix-js-sdk client, cross-signed
        talk = await yizhan.talk(zhang)                    # the encrypted direct room with the bot
        question = await talk.asks("1", "从哪一天开始")

Everything is on free ports of the loopback. Rate limits and all other settings are the product's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from yizhan_config.health import is_healthy
from yizhan_testing.js_client import JsClient, Match, SeenEvent
from yizhan_testing.nio_client import NioClient, ReadEvent
from yizhan_testing.stand_ins import free_ports
from yizhan_testing.tampering import TamperingRelay

YIZHAN = (sys.executable, "-P", "-c", "from yizhan_config.command import main; main()")
"""The command `yizhan`, wherever it is installed."""
ZHANG, LI, ADMIN, BOT = (f"@{name}:localhost" for name in ("zhangsan", "lisi", "admin", "yizhan"))
WAIT_S = 60.0
"""How long anything may take on a busy machine."""

CODE = re.compile(r"代码 ([0-9A-Z]{4}-[0-9A-Z]{2})")
ProgramName = Literal["homeserver", "push-gateway", "bots"]

_NEW_ACCOUNT_PASSWORD = "correct horse battery staple"


class Process:
    """A running command; what it says on the terminal is read when somebody waits for it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.text = ""

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
    ) -> Process:
        """Start it in a session of its own; with `log`, its output goes there instead."""
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else asyncio.subprocess.PIPE
            return cls(
                await asyncio.create_subprocess_exec(
                    *command,
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    async def until(self, words: str, within: float = WAIT_S) -> str:
        """Read lines until one holds `words`; fails if the command ends without them."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within):
            while words not in self.text:
                line = await self.process.stdout.readline()
                assert line, f"{words!r} was never said:\n{self.text}"
                self.text += line.decode()
        return self.text

    async def end(self, number: signal.Signals = signal.SIGTERM, within: float = WAIT_S) -> int:
        """Send a signal, unless it has ended, and return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(within):
            if self.process.stdout is not None:
                self.text += (await self.process.stdout.read()).decode()
            return await self.process.wait()


@dataclass
class Installation:
    """One data folder, the programs that run on it, and the devices that people have."""

    folder: Path
    ports: Mapping[ProgramName, int]
    opened: AsyncExitStack
    language: str = "zh_CN.UTF-8"
    passwords: dict[str, str] = field(default_factory=dict)
    """By user id."""
    terminal: Process | None = None
    """That of `yizhan up`."""
    _running: dict[ProgramName, Process] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        """Where clients find the homeserver."""
        return f"http://127.0.0.1:{self.ports['homeserver']}"

    @property
    def gateway_url(self) -> str:
        """Where pushers send their notifications."""
        return f"http://127.0.0.1:{self.ports['push-gateway']}/_matrix/push/v1/notify"

    @property
    def vapid_url(self) -> str:
        """Where a browser's client learns the key with which it subscribes."""
        return f"http://127.0.0.1:{self.ports['push-gateway']}/_yizhan/push/v1/vapid"

    # The programs

    def command(self, *words: str) -> list[str]:
        """Return `yizhan WORDS --data FOLDER`."""
        return [*YIZHAN, *words, "--data", str(self.folder)]

    @property
    def environment(self) -> dict[str, str]:
        """That of a person at a terminal, who reads `language`."""
        return {**os.environ, "LANG": self.language, "LC_ALL": self.language}

    async def run(self, *words: str, typed: str = "") -> str:
        """Run `yizhan WORDS` to its end and return what it printed; fails if it fails."""
        status, said = await self.tries(*words, typed=typed)
        assert status == 0, said
        return said

    async def tries(self, *words: str, typed: str = "") -> tuple[int, str]:
        """Run `yizhan WORDS` to its end; returns its status and everything it printed."""
        done = await asyncio.to_thread(
            subprocess.run,
            self.command(*words),
            env=self.environment,
            input=typed,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.returncode, done.stdout

    async def up(self) -> str:
        """Start `yizhan up --demo`; returns what it has said once everything runs."""
        self.terminal = await Process.start(self.command("up", "--demo"), self.environment)
        said = await self.terminal.until("Ctrl-C", within=120)
        self._find_passwords()
        return said

    async def down(self) -> str:
        """End `yizhan up` as Ctrl-C does; returns all that it has said."""
        assert self.terminal is not None
        assert await self.terminal.end(signal.SIGINT) == 0, self.terminal.text
        said, self.terminal = self.terminal.text, None
        return said

    async def start(self, *names: ProgramName) -> None:
        """Start programs each by itself, as services of the system, and wait for them."""
        commands = {
            "homeserver": self.command("serve"),
            "push-gateway": [sys.executable, "-P", "-m", "yizhan_bridges", *self._data()],
            "bots": self.command("bots", "run"),
        }
        for name in names:
            log = self.folder / f"{name}.log"
            self._running[name] = await Process.start(commands[name], self.environment, log)
            await self._healthy(name)
        self._find_passwords()

    async def kill(self, name: ProgramName) -> None:
        """End a program that `start` has started, as a power cut would."""
        await self._running.pop(name).end(signal.SIGKILL)

    async def stop(self) -> None:
        """End whatever runs."""
        if self.terminal is not None:
            await self.terminal.end()
        for process in reversed(self._running.values()):
            await process.end()

    def _data(self) -> list[str]:
        return ["--data", str(self.folder)]

    async def _healthy(self, name: ProgramName) -> None:
        path = {"homeserver": "/_matrix/client/versions"}.get(name, "/health")
        running = self._running[name].process
        deadline = time.monotonic() + WAIT_S
        while not await asyncio.to_thread(is_healthy, f"http://127.0.0.1:{self.ports[name]}{path}"):
            log = (self.folder / f"{name}.log").read_text()
            assert running.returncode is None, log
            assert time.monotonic() < deadline, log
            await asyncio.sleep(0.05)

    def process_id(self, name: ProgramName) -> int:
        """Return the process of a program that `yizhan up` runs; 0 while there is none."""
        assert self.terminal is not None
        package = {
            "homeserver": "yizhan_server", "push-gateway": "yizhan_bridges", "bots": "yizhan_bots"
        }[name]  # fmt: skip
        parent = self.terminal.process.pid
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if package in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
                    return int(child)
        return 0

    # People

    async def account(self, localpart: str, name: str = "") -> str:
        """Make an account with `yizhan user add`; returns the user id."""
        words = ["user", "add", localpart, "--password-stdin", "--json"]
        if name:
            words += ["--display-name", name]
        user_id = str(json.loads(await self.run(*words, typed=_NEW_ACCOUNT_PASSWORD))["user_id"])
        self.passwords[user_id] = _NEW_ACCOUNT_PASSWORD
        return user_id

    async def js(self, user_id: str, *, identity: bool = True, **options: Any) -> JsClient:
        """Sign in a new matrix-js-sdk device; with `identity`, it sets up cross-signing.

        `options` are those of `JsClient.start`.
        """
        client = await JsClient.start(self.base_url, user_id, self.passwords[user_id], **options)
        self.opened.push_async_callback(client.close)
        if identity:
            await client.sets_up_identity()
        return client

    async def nio(self, user_id: str) -> NioClient:
        """Sign in a new matrix-nio device, which nothing has signed."""
        folder = self.folder / "devices" / user_id[1:].partition(":")[0]
        client = await NioClient.start(self.base_url, user_id, self.passwords[user_id], folder)
        self.opened.push_async_callback(client.close)
        return client

    async def talk(self, client: JsClient, bot: str = BOT) -> Talk:
        """Open an encrypted direct room with the bot; returns once it has greeted."""
        room = await client.creates_room(invite=[bot], direct=True)
        await client.sees_member(room, bot, within=WAIT_S)
        talk = Talk(client, room, bot)
        await talk.hears("请您审批：驿站助手 练习")
        return talk

    # What the bots keep

    def office(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Read the bots' SQLite database, beside the running bot."""
        file = self.folder / "bots.db"
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            return database.execute(sql, arguments).fetchall()

    def steps(self, ref: str) -> list[tuple[str, str]]:
        """Return (action, actor) of each step of the request with that number, in order."""
        rows = self.office(
            """
            SELECT event.canonical FROM approval_request AS request
            JOIN approval_event AS event ON event.request = request.id
            WHERE request.ref = ? AND event.seq > 0 ORDER BY event.seq
            """,
            ref,
        )
        # Each is kept as it is hashed: a line that says what it is, then canonical JSON.
        steps = (json.loads(canonical.partition(b"\n")[2]) for (canonical,) in rows)
        return [(step["action"], step["actor"]) for step in steps]

    def matters(self, event_id: str) -> list[tuple[str, str, str]]:
        """Return (matter, standing, detail) of what the record says about a message."""
        rows = self.office(
            "SELECT matter, standing, detail FROM office_record WHERE event_id = ?", event_id
        )
        return [(matter, standing, detail) for matter, standing, detail in rows]

    def _find_passwords(self) -> None:
        for line in (self.folder / "first-start.txt").read_text().splitlines():
            if line.startswith("@"):
                user_id, password = line.split()
                self.passwords[user_id] = password


@asynccontextmanager
async def open_installation(
    folder: Path, *, client_port: int | None = None, **settings: object
) -> AsyncIterator[Installation]:
    """Make an installation named localhost with `yizhan init`; at the end everything stops.

    `settings` are keys of the configuration, with `__` for the dot. Nothing runs yet.
    """
    free, gateway, bots = free_ports(3)
    client = client_port or free
    chosen: dict[str, object] = {
        "listen__client": f"127.0.0.1:{client}",
        "push_gateway__listen": f"127.0.0.1:{gateway}",
        "bots__listen": f"127.0.0.1:{bots}",
        "public__client_baseurl": f"http://127.0.0.1:{client}",
        "outbound__allow": [f"127.0.0.1:{gateway}"],
        **settings,
    }
    ports: dict[ProgramName, int] = {"homeserver": client, "push-gateway": gateway, "bots": bots}
    async with AsyncExitStack() as stack:
        yizhan = Installation(folder, ports, stack)
        stack.push_async_callback(yizhan.stop)
        written = [
            f"--set={key.replace('__', '.')}={json.dumps(value)}" for key, value in chosen.items()
        ]
        await yizhan.run("init", "--server-name", "localhost", "--behind-proxy", *written)
        yield yizhan


@asynccontextmanager
async def open_with_relay(folder: Path) -> AsyncIterator[tuple[Installation, TamperingRelay]]:
    """Make an installation whose bot reaches the homeserver through a relay that can lie."""
    (port,) = free_ports(1)
    async with (
        TamperingRelay.open(f"http://127.0.0.1:{port}") as relay,
        open_installation(folder, client_port=port, bots__homeserver_url=relay.base_url) as yizhan,
    ):
        yield yizhan, relay


@dataclass(frozen=True)
class Talk:
    """A person's encrypted direct room with the bot, seen through matrix-js-sdk."""

    client: JsClient
    room: str
    bot: str = BOT

    async def says(self, text: str, **options: Any) -> str:
        """Send a text; returns the event id once the homeserver has accepted it."""
        return await self.client.says(self.room, text, **options)

    async def hears(self, part: str, *, after: str | None = None) -> SeenEvent:
        """Wait for an encrypted message of the bot's that holds `part`."""
        match: Match = {"room": self.room, "sender": self.bot, "contains": part}
        if after is not None:
            match["after"] = after
        seen = await self.client.reads(within=WAIT_S, **match)
        assert seen.encrypted
        return seen

    async def asks(self, text: str, part: str) -> SeenEvent:
        """Send a text and wait for the bot's answer that holds `part`."""
        return await self.hears(part, after=await self.says(text))

    async def heard(self, part: str) -> list[SeenEvent]:
        """Return all messages of the bot's so far that hold `part`."""
        return await self.client.events(room=self.room, sender=self.bot, contains=part)

    async def submits(self, approver: str, reason: str) -> str:
        """Ask for leave in one line; returns the request's number."""
        line = f"请假 开始=明天 天数=3 事由={reason} 审批人={approver}"
        answer = await self.asks(line, "已提交，编号")
        assert answer.body is not None
        return answer.body.partition("编号 ")[2][:4]

    async def reads_task(self, reason: str) -> tuple[str, SeenEvent]:
        """Wait for the card that asks for a decision about `reason`; returns code and card."""
        card = await self.hears(f"事由：{reason}\n同意请回复")
        return code_of(card.body), card


@dataclass(frozen=True)
class NioTalk:
    """The same through matrix-nio."""

    client: NioClient
    room: str
    bot: str = BOT

    async def says(self, text: str) -> str:
        return await self.client.says(self.room, text)

    async def hears(self, part: str) -> ReadEvent:
        """Wait for an encrypted message of the bot's that holds `part`."""
        seen = await self.client.reads(contains=part, sender=self.bot, within=WAIT_S)
        assert (seen.room_id, seen.encrypted) == (self.room, True)
        return seen


def code_of(text: str | None) -> str:
    """Return the first code that a text shows."""
    found = CODE.search(text or "")
    assert found is not None, text
    return found[1]
