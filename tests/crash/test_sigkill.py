"""SIGKILL of the homeserver under load: what was acknowledged is there, once.

A build that answers before its commit is durable is caught by the same check.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
import apsw
import orjson
import pytest

from yizhan_testing.homeserver import Homeserver, Person, Refused
from yizhan_testing.replica import Replica, all_messages

KILLS = 20
PEOPLE = 10
ROOMS = 4

CARELESS = """
import runpy, time
from yizhan_database import sqlite_writer

class EarlyCursor:
    def __init__(self, cursor): self.cursor, self.before_commit = cursor, None
    def __getattr__(self, name): return getattr(self.cursor, name)
    def execute(self, sql, *args):
        if sql == "COMMIT":
            self.before_commit()
            time.sleep(0.05)
        return self.cursor.execute(sql, *args)

class CarelessWriter(sqlite_writer.Writer):
    def _attempt(self, jobs):
        if not isinstance(self._cursor, EarlyCursor):
            self._cursor = EarlyCursor(self._cursor)
        self._cursor.before_commit = lambda: CarelessWriter.real_hand_over(self, jobs)
        super()._attempt(jobs)
    @property
    def _hand_over(self): return lambda jobs: None
    @_hand_over.setter
    def _hand_over(self, call): self.answers = call
    def real_hand_over(self, jobs): self.answers(jobs)

from yizhan_database import sqlite
sqlite.Writer = CarelessWriter
runpy.run_module("yizhan_server", run_name="__main__", alter_sys=True)
"""
"""A build broken on purpose: it answers just before each commit."""


class CarelessHomeserver(Homeserver):
    program: ClassVar[tuple[str, ...]] = ("-c", CARELESS)


class Lost(AssertionError):
    """Something that was acknowledged is not there."""


@dataclass
class Sent:
    """A request with a transaction id, and the event that it was answered with."""

    person: Person
    room: str
    path: str
    body: dict[str, Any]
    event_id: str


@dataclass
class Load:
    """Ten people at work, what they were told, and what three of them have synced."""

    server: Homeserver
    people: list[Person] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    lobby: str = ""
    watchers: list[Replica] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    """(room, event id) of every acknowledged event."""
    checked: int = 0
    """How many of them were looked at one by one."""
    history: dict[str, list[str]] = field(default_factory=dict)
    """What /messages said at the last check, by room."""
    notes: dict[str, int] = field(default_factory=dict)
    """The number in each person's account data that was acknowledged last."""
    messages: set[int] = field(default_factory=set)
    """The numbers of the acknowledged to-device messages to the first watcher."""
    received: list[int] = field(default_factory=list)
    count: int = 0
    wanted: int = 0
    under_way: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once `count` has reached `wanted`."""

    async def begins(self) -> None:
        self.people = [await self.server.person(f"person{number}") for number in range(PEOPLE)]
        first = self.people[0]
        for _ in range(ROOMS):
            room = await first.creates_room(
                preset="public_chat", power_level_content_override={"state_default": 0}
            )
            self.rooms.append(room)
            await asyncio.gather(*(person.joins(room) for person in self.people[1:]))
        self.lobby = await first.creates_room(preset="public_chat")
        wanted = {"room": {"timeline": {"limit": 100}}}
        self.watchers = [
            Replica(await self.server.signs_in(f"person{number}"), f"watcher {number}", wanted,
                    fills_gaps=True)
            for number in range(3)
        ]  # fmt: skip
        for watcher in self.watchers:
            await watcher.syncs()

    async def lasts_until_killed(self, delay_s: float) -> None:
        """Work until the server is killed, `delay_s` seconds after everybody has begun."""
        async with asyncio.TaskGroup() as group:
            for person in self.people:
                group.create_task(self._until_dead(partial(self._act, person)))
            for watcher in self.watchers:
                group.create_task(self._until_dead(partial(self._watch, watcher)))
            self.under_way.clear()
            self.wanted = self.count + 3 * PEOPLE
            await self.under_way.wait()
            await asyncio.sleep(delay_s)
            await self.server.kill()

    async def _until_dead(self, act: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await act()
            except (aiohttp.ClientError, ConnectionError, orjson.JSONDecodeError):
                return
            except Refused as refused:
                # Two who act on the same may refuse each other; a fault is never right, but
                # what a build that is broken anyway answers is not the question.
                if refused.status >= 500 and not isinstance(self.server, CarelessHomeserver):
                    raise

    async def _watch(self, watcher: Replica) -> None:
        answer = await watcher.syncs(timeout_ms=2000)
        if watcher is self.watchers[0]:
            for event in answer.body.get("to_device", {}).get("events", []):
                self.received.append(event["content"]["number"])

    async def _act(self, person: Person) -> None:
        self.count += 1
        if self.count >= self.wanted:
            self.under_way.set()
        number = self.count
        room = random.choice(self.rooms)
        path = f"/v3/rooms/{quote(room, safe='')}"
        kind = random.choices(
            ("say", "state", "redact", "lobby", "note", "message", "receipt"),
            (12, 3, 1, 2, 2, 2, 2),
        )[0]
        if kind == "say":
            target = f"{path}/send/m.room.message/t{number}"
            body = {"msgtype": "m.text", "body": str(number)}
            answer = await person.put(target, body)
            self._acknowledge(person, room, target, body, answer["event_id"])
        elif kind == "state":
            key = random.choice("abcd")
            self.events.append((room, await person.sets(room, "m.x", {"n": number}, key)))
        elif kind == "redact" and self.sent:
            one = random.choice(self.sent[-50:])
            target = f"/v3/rooms/{quote(one.room, safe='')}/redact/{quote(one.event_id)}/t{number}"
            answer = await one.person.put(target, {})
            self._acknowledge(one.person, one.room, target, {}, answer["event_id"])
        elif kind == "lobby" and person is not self.people[0]:
            await person.joins(self.lobby)
            await person.leaves(self.lobby)
        elif kind == "note":
            user = quote(person.user_id)
            await person.put(f"/v3/user/{user}/account_data/m.note", {"number": number})
            self.notes[person.user_id] = max(number, self.notes.get(person.user_id, 0))
        elif kind == "message":
            watcher = self.watchers[0].person
            to = {watcher.user_id: {watcher.device_id: {"number": number}}}
            await person.put(f"/v3/sendToDevice/m.x/t{number}", {"messages": to})
            self.messages.add(number)
        elif kind == "receipt" and self.sent:
            one = random.choice(self.sent[-50:])
            target = f"/v3/rooms/{quote(one.room, safe='')}/receipt/m.read/{quote(one.event_id)}"
            await person.post(target, {})

    def _acknowledge(
        self, person: Person, room: str, path: str, body: dict[str, Any], event_id: str
    ) -> None:
        self.sent.append(Sent(person, room, path, body, event_id))
        self.events.append((room, event_id))

    async def revives(self) -> None:
        """Start the server again on what the kill left."""
        await self.server.resume()
        for person in (*self.people, *(watcher.person for watcher in self.watchers)):
            person.base_url = self.server.base_url

    async def check(self) -> None:
        """Find everything that was acknowledged; Lost otherwise."""
        await self._check_events()
        await self._check_notes()
        await self._check_watchers()

    async def _check_events(self) -> None:
        self.history = {room: await all_messages(self.people[0], room, 1000) for room in self.rooms}
        there = {event_id for room in self.rooms for event_id in self.history[room]}
        for _, event_id in self.events:
            if event_id not in there:
                raise Lost(f"{event_id} is not in /messages")
        for room, event_id in self.events[self.checked :]:
            try:
                await self.people[0].get(
                    f"/v3/rooms/{quote(room, safe='')}/event/{quote(event_id)}"
                )
            except Refused as refused:
                raise Lost(f"{event_id} is not there") from refused
        self.checked = len(self.events)
        for one in self.sent[-60:]:
            answer = await one.person.put(one.path, one.body)
            if answer["event_id"] != one.event_id:
                raise Lost("a transaction id has another event")

    async def _check_notes(self) -> None:
        for person in self.people:
            noted = self.notes.get(person.user_id)
            if noted is not None:
                path = f"/v3/user/{quote(person.user_id)}/account_data/m.note"
                if (await person.get(path))["number"] < noted:
                    raise Lost("account data is older than what was acknowledged")

    async def _check_watchers(self) -> None:
        for watcher in self.watchers:
            await self._watch(watcher)
            for room in self.rooms:
                span = watcher.spans[room]
                known = self.history[room]
                if not span or span[0] not in known or span != known[known.index(span[0]) :]:
                    raise Lost(f"{watcher.name} saw other events than there are")
        if len(self.received) != len(set(self.received)):
            raise AssertionError("a to-device message came twice")
        if not self.messages <= set(self.received):
            raise Lost("a to-device message")


def check_file(file: Path) -> None:
    """Check the database that the kill left: sound, and each room one chain with one end."""
    connection = apsw.Connection(str(file))
    try:
        assert list(connection.execute("PRAGMA integrity_check")) == [("ok",)]
        assert not list(connection.execute("PRAGMA foreign_key_check"))
        rooms = list(connection.execute("SELECT nid, forward_extremities FROM room"))
        for nid, extremities in rooms:
            rows = list(
                connection.execute(
                    "SELECT nid, event_id, depth, line, seq, rest FROM event WHERE room = ?"
                    " ORDER BY pos",
                    (nid,),
                )
            )
            assert orjson.loads(extremities) == [list(rows[-1][:5])]
            for before, row in pairwise(rows):
                assert orjson.loads(row[5])["prev_events"] == [before[1]]
                assert row[2] == before[2] + 1
            differing = connection.execute(
                "SELECT m.user_id FROM membership AS m JOIN state_key AS k"
                " ON k.type = 'm.room.member' AND k.state_key = m.user_id WHERE m.room = ?"
                " AND m.event <> (SELECT c.event FROM current_state AS c WHERE c.room = m.room"
                " AND c.key = k.nid ORDER BY c.pos DESC LIMIT 1)",
                (nid,),
            )
            assert not list(differing)
        (position,) = next(
            connection.execute("SELECT value FROM yizhan_counter WHERE name = 'position'")
        )
        (last,) = next(connection.execute("SELECT max(pos) FROM event"))
        assert last <= position
    finally:
        connection.close()


def database_in(folder: Path) -> Path:
    (file,) = folder.glob("*.db")
    return file


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_what_was_acknowledged_survives_twenty_kills_under_load(tmp_path: Path) -> None:
    load = Load(await Homeserver.start(tmp_path))
    try:
        await load.begins()
        for number in range(KILLS):
            await load.lasts_until_killed(random.uniform(0, 0.6))
            check_file(database_in(tmp_path))
            await load.revives()
            await load.check()
            assert len(load.events) > 10 * (number + 1)
        for watcher in load.watchers:
            await watcher.check()
    finally:
        await load.server.stop()


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_build_that_answers_before_its_commit_is_caught(tmp_path: Path) -> None:
    careful = await Homeserver.start(tmp_path)
    load = Load(careful)
    try:
        await load.begins()
        await careful.kill()
        load.server = CarelessHomeserver(tmp_path)
        await load.revives()
        with pytest.raises(Lost):
            await _live_and_die(load, KILLS)
    finally:
        await careful.stop()
        await load.server.stop()


async def _live_and_die(load: Load, times: int) -> None:
    for _ in range(times):
        await load.lasts_until_killed(random.uniform(0, 0.3))
        await load.revives()
        await load.check()
