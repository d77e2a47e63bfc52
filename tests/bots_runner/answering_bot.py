"""A program that a test can kill: a bot that answers every text with `done: TEXT`.

python -m bots_runner.answering_bot BASE_URL USER_ID PASSWORD DATA
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from yizhan_bots.conversation import Answer, Incoming, Outgoing, People, Text
from yizhan_bots.matrix.account import Folder
from yizhan_bots.matrix.runner import BotSettings, Runner
from yizhan_database import Database, Transaction, open_database


class Answering:
    """Answers every text."""

    async def answer(self, incoming: Incoming, _: Transaction) -> Answer | None:
        if not isinstance(incoming.content, Text):
            return None
        text = f"done: {incoming.content.body} ({incoming.standing.value})"
        return Answer([Outgoing(text, room_id=incoming.room_id)])


async def open_answering(_: Database, __: People) -> Answering:
    return Answering()


async def main(base_url: str, user_id: str, password: str, data: Path) -> None:
    database = await open_database(f"sqlite://{data / 'bots.db'}", "yizhan_bots.storage.migrations")
    settings = BotSettings(homeserver_url=base_url, user_id=user_id, password=password)
    runner = await Runner.start(settings, database, Folder.open(data), open_answering)
    print("ready", flush=True)  # noqa: T201 (whoever started us waits for it)
    await runner.failed()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
