"""What the stories of this folder are told with: a bot that takes notes, people, devices."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import nio  # type: ignore[import-untyped]

from yizhan_bots.conversation import (
    Answer,
    Greeted,
    Incoming,
    Outgoing,
    People,
    PollAnswer,
    Text,
)
from yizhan_bots.matrix.account import Folder
from yizhan_bots.matrix.cross_signing import OwnIdentity, nio_requests, publish
from yizhan_bots.matrix.runner import BotSettings, Runner
from yizhan_database import Database, Transaction, open_database
from yizhan_testing.databases import fresh_database
from yizhan_testing.nio_client import NioClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from yizhan_testing.databases import Dialect
    from yizhan_testing.servers import RunningHomeserver

PASSWORD = "correct horse battery staple"
MIGRATIONS = "yizhan_bots.storage.migrations"
WAIT_S = 20

_numbers = count(1)


class Notebook:
    """A skill that writes down what it hears and answers what the story tells it to."""

    def __init__(self) -> None:
        self.heard: list[Incoming] = []
        self.reply: Callable[[Incoming], list[Outgoing]] = lambda _: []
        self._people: People | None = None
        self._more = asyncio.Event()

    async def open(self, _: Database, people: People) -> Notebook:
        self._people = people
        return self

    @property
    def people(self) -> People:
        assert self._people is not None, "the bot has not started"
        return self._people

    async def answer(self, incoming: Incoming, tx: Transaction) -> Answer:
        self.heard.append(incoming)
        self._more.set()
        return Answer(self.reply(incoming))

    async def hears(self, wanted: Callable[[Incoming], bool]) -> Incoming:
        """Wait until something wanted has been heard."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for incoming in self.heard:
                    if wanted(incoming):
                        return incoming
                self._more.clear()
                await self._more.wait()

    async def hears_text(self, body: str) -> Incoming:
        return await self.hears(lambda i: isinstance(i.content, Text) and i.content.body == body)

    async def hears_poll_answer(self, answer: str) -> Incoming:
        return await self.hears(lambda i: i.content == PollAnswer(answer))

    async def hears_kind(self, kind: type[object]) -> Incoming:
        return await self.hears(lambda i: isinstance(i.content, kind))

    async def hears_event(self, event_id: str) -> Incoming:
        return await self.hears(lambda i: i.event_id == event_id)

    def texts(self) -> list[str]:
        """All texts heard, in order."""
        return [i.content.body for i in self.heard if isinstance(i.content, Text)]


@dataclass
class Bot:
    """One bot account and its data folder; runs until stopped, and again."""

    base_url: str
    data: Path
    database_url: str
    user_id: str
    notebook: Notebook
    settings: dict[str, Any] = field(default_factory=dict)
    _runner: Runner | None = None
    _database: Database | None = None
    _folder: Folder | None = None

    @property
    def runner(self) -> Runner:
        assert self._runner is not None, "the bot is stopped"
        return self._runner

    async def start(self) -> None:
        self._folder = Folder.open(self.data)
        self._database = await open_database(self.database_url, MIGRATIONS)
        settings = {"homeserver_url": self.base_url, "user_id": self.user_id}
        self._runner = await Runner.start(
            BotSettings(password=PASSWORD, **(settings | self.settings)),
            self._database,
            self._folder,
            self.notebook.open,
        )

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.stop()
            self._runner = None
        if self._database is not None:
            await self._database.close()
            self._database = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    async def rows(self, sql: str, *args: str) -> list[tuple[Any, ...]]:
        assert self._database is not None, "the bot is stopped"
        return await self._database.rows(sql, *args)

    async def commit(self, tx: Transaction) -> None:
        assert self._database is not None, "the bot is stopped"
        await self._database.commit(tx)


@dataclass(frozen=True)
class Office:
    """A homeserver with people on it, and bots."""

    homeserver: RunningHomeserver
    folder: Path
    opened: AsyncExitStack

    async def bot(
        self, *, base_url: str | None = None, dialect: Dialect = "sqlite", **settings: Any
    ) -> Bot:
        """A running bot with an account of its own."""
        user_id = await self.account("bot")
        data = self.folder / user_id[1:].partition(":")[0]
        data.mkdir()
        url = await fresh_database(dialect, MIGRATIONS, data)
        base_url = base_url or self.homeserver.base_url
        bot = Bot(base_url, data, url, user_id, Notebook(), settings)
        self.opened.push_async_callback(bot.stop)
        await bot.start()
        return bot

    async def person(self, name: str, *, signed: bool = True) -> NioClient:
        """A new person with one device; `signed`: by a cross-signing identity."""
        client = await self.device(await self.account(name))
        if signed:
            await cross_signs(client)
        return client

    async def device(self, user_id: str) -> NioClient:
        """One more device of a person, which nothing has signed yet."""
        folder = self.folder / f"device{next(_numbers)}"
        client = await NioClient.start(self.homeserver.base_url, user_id, PASSWORD, folder)
        self.opened.push_async_callback(client.close)
        return client

    async def account(self, name: str) -> str:
        """A new account; returns the user id."""
        localpart = f"{name}{next(_numbers)}{secrets.token_hex(2)}"
        return await self.homeserver.register(localpart, PASSWORD)


async def cross_signs(client: NioClient) -> OwnIdentity:
    """Give the person a new identity that signs this device."""
    identity = OwnIdentity.generate(client.user_id)
    await publish(
        nio_requests(client.client),
        identity,
        client.device_id,
        client.client.olm.account.identity_keys["ed25519"],
        PASSWORD,
    )
    return identity


async def opens_direct_room(client: NioClient, bot: Bot) -> str:
    """Make an encrypted room with the bot alone and wait until the bot greets."""
    room = await client.creates_room(invite=[bot.user_id])
    await client.sees_member(room, bot.user_id)
    await bot.notebook.hears(lambda i: i.sender == client.user_id and i.content == Greeted())
    return room


def says_back(incoming: Incoming) -> list[Outgoing]:
    """Answer every text in its room with how it was judged."""
    if not isinstance(incoming.content, Text):
        return []
    text = f"{incoming.content.body}: {incoming.standing.value}"
    return [Outgoing(text, room_id=incoming.room_id)]


def bodies(client: NioClient) -> list[str]:
    """The texts that the client has read so far, in order."""
    events = [event for _, event in client._seen]
    return [
        event.body
        for event in events
        if isinstance(event, nio.RoomMessageText | nio.RoomMessageNotice)
    ]
