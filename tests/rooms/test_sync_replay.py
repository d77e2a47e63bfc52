"""Random lives of a few people; whoever replays /sync must end with the server's own state."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from yizhan_server.app import MIGRATIONS
from yizhan_testing.databases import Dialect, fresh_database
from yizhan_testing.homeserver import Person, Refused
from yizhan_testing.replica import Replica
from yizhan_testing.served import served

TIMELINE = ["m.room.message", "m.room.name"]


def replicas_of(person: Person, second: Person, third: Person) -> list[Replica]:
    """Return clients of every kind; two that load members lazily are never the same device."""

    def room(limit: int, *, lazy: bool = False, **timeline: Any) -> dict[str, Any]:
        state = {"lazy_load_members": True} if lazy else {}
        return {"room": {"timeline": {"limit": limit, **timeline}, "state": state}}

    return [
        Replica(person, "plain", room(100)),
        Replica(person, "default"),
        Replica(person, "one", room(1)),
        Replica(person, "none", room(0)),
        Replica(person, "after", room(2), state_after=True),
        Replica(person, "filtered", room(2, types=TIMELINE)),
        Replica(second, "lazy", room(3, lazy=True)),
        Replica(third, "lazy after", room(3, lazy=True), state_after=True),
    ]


class Script:
    """People who do anything that they may, and some things that they may not."""

    def __init__(self, people: list[Person], seed: int) -> None:
        self.people = people
        self.rooms: list[str] = []
        self.said: dict[str, list[str]] = {}
        self.chance = random.Random(seed)
        self.done = 0

    async def act(self) -> None:
        """Do one thing; a refusal is fine."""
        chance, person = self.chance, self.chance.choice(self.people)
        other = chance.choice(self.people)
        self.done += 1
        if len(self.rooms) < 2 or chance.random() < 0.02:
            self.rooms.append(
                await person.creates_room(
                    preset=chance.choice(["public_chat", "private_chat"]),
                    room_version=chance.choice(["12", "11", "10", "9", "6", "5", "1"]),
                    name=f"room {self.done}",
                    power_level_content_override={"events_default": 0, "state_default": 0},
                )
            )
            return
        room = chance.choice(self.rooms)
        path = f"/v3/rooms/{quote(room, safe='')}"
        said = self.said.setdefault(room, [])
        kind = chance.choices(
            ("say", "state", "join", "leave", "invite", "kick", "ban", "unban", "redact", "receipt",
             "forget", "name", "visibility", "react"),
            (30, 12, 12, 6, 6, 3, 2, 3, 4, 6, 2, 2, 2, 3),
        )[0]  # fmt: skip
        try:
            if kind == "say":
                said.append(await person.says(room, f"{self.done}"))
            elif kind == "state":
                key = chance.choice(["", "a", "b"])
                said.append(await person.sets(room, "m.x", {"n": chance.randrange(3)}, key))
            elif kind == "join":
                await person.joins(room)
            elif kind in ("leave", "forget"):
                await person.post(f"{path}/{kind}", {})
            elif kind in ("invite", "kick", "ban", "unban"):
                await person.post(f"{path}/{kind}", {"user_id": other.user_id})
            elif kind == "redact" and said:
                event = quote(chance.choice(said), safe="")
                await person.put(f"{path}/redact/{event}/r{self.done}", {})
            elif kind == "receipt" and said:
                event = quote(chance.choice(said), safe="")
                await person.post(f"{path}/receipt/m.read/{event}", {})
            elif kind == "name":
                await person.put(
                    f"/v3/profile/{quote(person.user_id)}/displayname",
                    {"displayname": f"name {self.done}"},
                )
            elif kind == "visibility":
                value = chance.choice(["shared", "joined", "invited", "world_readable"])
                await person.sets(room, "m.room.history_visibility", {"history_visibility": value})
            elif kind == "react" and said:
                relates = {"rel_type": "m.annotation", "event_id": chance.choice(said), "key": "👍"}
                await person.sends(room, "m.reaction", {"m.relates_to": relates})
        except Refused as refused:
            if refused.status not in (400, 403, 404):
                raise


async def live(tmp_path: Path, dialect: Dialect, seed: int, steps: int) -> None:
    url = await fresh_database(dialect, MIGRATIONS, tmp_path)
    async with served(tmp_path, url, seed) as homeserver:
        people = [await homeserver.person(name) for name in ("alice", "bob", "carol")]
        replicas = []
        for person in people:
            name = person.user_id[1:].partition(":")[0]
            devices = [await homeserver.signs_in(name) for _ in range(2)]
            replicas += replicas_of(person, *devices)
        script = Script(people, seed)
        await _act_and_sync(script, replicas, steps)
    async with served(tmp_path, url, seed + 1) as homeserver:
        for each in (*people, *(replica.person for replica in replicas)):
            each.base_url, each.http = homeserver.base_url, homeserver.http
        await _act_and_sync(script, replicas, steps)
        for replica in replicas:
            await replica.syncs()
            await replica.check()
            quiet = await replica.syncs()
            assert "rooms" not in quiet.body, (replica.name, quiet.body)


async def _act_and_sync(script: Script, replicas: list[Replica], steps: int) -> None:
    for _ in range(steps):
        await script.act()
        for replica in replicas:
            # Some follow closely, others come back after long absences.
            if script.chance.random() < (0.02 if replica.name in ("none", "one") else 0.08):
                await replica.syncs()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_replayed_sync_is_the_state_of_the_server(tmp_path: Path, seed: int) -> None:
    await live(tmp_path, "sqlite", seed, 150)


async def test_a_replayed_sync_is_the_state_on_postgresql(tmp_path: Path) -> None:
    await live(tmp_path, "postgresql", 4, 80)
