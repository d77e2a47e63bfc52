"""An account as an office has it: many rooms with names, people and encrypted messages.

The ciphertext is random bytes of the usual length: like the real one it does not shrink.
"""

from __future__ import annotations

import asyncio
import base64
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yizhan_testing.homeserver import Homeserver, HomeserverInProcess, Person

COLLEAGUES = 9
PLACES = (
    "经营部",
    "财务室",
    "档案科",
    "值班",
    "项目协调",
    "信息中心",
    "后勤",
    "采购",
    "法务",
    "人事",
)
ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


def encrypted(generator: random.Random) -> dict[str, Any]:
    """Return the content of an encrypted message, as clients send it."""

    def secret(size: int) -> str:
        return base64.b64encode(generator.randbytes(size)).decode().rstrip("=")

    return {
        "algorithm": "m.megolm.v1.aes-sha2",
        "sender_key": secret(32),
        "ciphertext": secret(generator.randrange(220, 340)),
        "session_id": secret(32),
        "device_id": secret(8)[:10].upper(),
    }


async def crowd(
    homeserver: Homeserver | HomeserverInProcess, rooms: int = 50, messages: int = 25
) -> tuple[Person, list[str]]:
    """Make an account with so many rooms, of three to ten people each; returns their ids too."""
    generator = random.Random(50)
    owner = await homeserver.person("owner")
    colleagues = [await homeserver.person(f"colleague{number}") for number in range(COLLEAGUES)]
    made = []
    for number in range(rooms):
        present = generator.sample(colleagues, generator.randrange(2, COLLEAGUES))
        room = await present[0].creates_room(
            name=f"{PLACES[number % len(PLACES)]}（{number + 1}）",
            topic=f"第 {number + 1} 号工作群，请勿讨论无关事项。",
            invite=[owner, *present[1:]],
            initial_state=[ENCRYPTION],
        )
        await asyncio.gather(*(person.joins(room) for person in [owner, *present[1:]]))
        for turn in range(messages):
            sender = present[turn % len(present)]
            await sender.sends(room, "m.room.encrypted", encrypted(generator))
        made.append(room)
    return owner, made
