"""The state log against a dictionary, on random histories with forks and merges."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from yizhan_database import Transaction
from yizhan_server.app import MIGRATIONS
from yizhan_server.rooms import state_log
from yizhan_server.rooms.state_log import (
    MAX_LINE_DEPTH,
    Merge,
    point_after,
    point_of_merge,
    thin_state_log,
)
from yizhan_server.storage import state as storage
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import REMOVED, Point
from yizhan_testing.databases import DIALECTS, Dialect, opened_fresh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from yizhan_database import Database

KEYS, MANY_KEYS = 8, 500
ROOM = 1

State = dict[int, int]


class History:
    """One room's events, with the state after each in the log and in a dictionary."""

    def __init__(self, db: Database, chance: random.Random, reach: int = 10_000) -> None:
        self.db = db
        self.numbers = Numbers(db)
        self.chance = chance
        self.reach = reach
        """How far back a fork may begin, in events."""
        self.points: list[tuple[Point, State]] = []
        self.current: list[tuple[int, State]] = []
        """(stream position, current state as of it)"""
        self.events = 0

    async def begins(self) -> None:
        line = await self.numbers.next("state_line")
        tx = Transaction()
        storage.open_line(tx, line, ROOM, None, 0)
        for key in range(1, MANY_KEYS):
            storage.intern_key(tx, key, ("m.x", str(key)))
        await self.db.commit(tx)
        self.points.append((Point(line, 0), {}))
        self.current.append((self.db.position, {}))

    async def sends(self) -> None:
        """A state event after the newest one, or after any: a fork."""
        point, state = self.points[-1] if self.chance.random() < 0.8 else self._any()
        self.events += 1
        await self._append(point, state, {self.chance.randrange(1, KEYS + 1): self.events})

    async def merges(self) -> None:
        """Two ends become one, by some resolution; the log goes on from one of them."""
        (one, mine), (other, theirs) = self._any(), self._any()
        differing = await storage.differences(self.db, one, other)
        assert differing == _differences(mine, theirs)
        resolved = {
            key: self.chance.choice([mine.get(key, REMOVED), theirs.get(key, REMOVED), REMOVED])
            for key in differing
        }
        changes = {key: event for key, event in resolved.items() if event != mine.get(key, REMOVED)}
        if changes:
            await self._append(one, mine, changes, merges=True)

    async def check(self) -> None:
        for point, state in self.points:
            assert await storage.full_state_at(self.db, point) == state
            for key in range(1, KEYS + 1):
                assert await storage.state_event_at(self.db, point, key) == state.get(key)
        for _ in range(10):
            (one, mine), (other, theirs) = self._any(), self._any()
            assert await storage.differences(self.db, one, other) == _differences(mine, theirs)
        for (after, before), (upto, state) in zip(
            self.current, self.current[1:] + self.current[-1:], strict=True
        ):
            assert await storage.current_state(self.db, ROOM, upto) == state
            for key in range(1, KEYS + 1):
                found = await storage.current_state_event(self.db, ROOM, key, upto)
                assert found == state.get(key)
            changes = await storage.current_state_changes(self.db, ROOM, after, upto)
            replayed = {**before, **changes}
            assert {k: e for k, e in replayed.items() if e != REMOVED} == state

    async def _append(
        self, point: Point, state: State, changes: State, *, merges: bool = False
    ) -> None:
        tx = Transaction()
        if merges:
            merge = Merge(point, changes)
            place = await point_of_merge(self.db, self.numbers, tx, ROOM, merge)
        else:
            known = True if point == self.points[-1][0] else None
            place = await point_after(self.db, self.numbers, tx, ROOM, point, is_line_head=known)
            storage.append_state(tx, place, changes)
        pos = tx.position()
        now = dict(self.current[-1][1])
        # Any resolution will do for the current line, as long as the log says the same.
        shown = {key: event for key, event in changes.items() if self.chance.random() < 0.7}
        storage.append_current_state(tx, ROOM, pos, shown)
        commit = await self.db.commit(tx)
        self.points.append((place, _applied(state, changes)))
        self.current.append((commit[pos], _applied(now, shown)))

    def _any(self) -> tuple[Point, State]:
        return self.chance.choice(self.points[-self.reach :])


def _differences(mine: State, theirs: State) -> State:
    keys = {key for key in mine | theirs if mine.get(key) != theirs.get(key)}
    return {key: mine.get(key, REMOVED) for key in keys}


def _applied(state: State, changes: State) -> State:
    after = {**state, **changes}
    return {key: event for key, event in after.items() if event != REMOVED}


@pytest.fixture(params=[MAX_LINE_DEPTH, 3])
def depth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let few forks suffice for lines to be shortened again and again."""
    monkeypatch.setattr(state_log, "MAX_LINE_DEPTH", request.param)
    return int(request.param)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_log_says_what_a_dictionary_says(
    tmp_path: Path, dialect: Dialect, depth: int
) -> None:
    for seed in range(12 if dialect == "sqlite" else 2):
        chance = random.Random(seed)
        async with opened_fresh(dialect, MIGRATIONS, tmp_path, chance) as db:
            history = History(db, random.Random(seed))
            await history.begins()
            for _ in range(chance.randrange(5, 60)):
                if chance.random() < 0.25:
                    await history.merges()
                else:
                    await history.sends()
            await history.check()
            for point, _ in history.points:
                assert len(await storage.ancestry(db, point)) <= depth + 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.usefixtures("depth")
async def test_thinning_the_log_leaves_the_state_of_what_is_kept(
    tmp_path: Path, dialect: Dialect
) -> None:
    dropped = 0
    for seed in range(12 if dialect == "sqlite" else 2):
        chance = random.Random(seed)
        async with opened_fresh(dialect, MIGRATIONS, tmp_path, chance) as db:
            history = History(db, random.Random(seed), reach=4)
            await history.begins()
            for _ in range(60):
                await (history.merges() if chance.random() < 0.15 else history.sends())
            kept = history.points[chance.randrange(len(history.points)) :]
            before = {
                point: await storage.full_state_at(db, Point(point.line, point.seq - 1))
                for point, _ in kept
                if point.seq > 1
            }
            rows = await _log_rows(db)
            await thin_state_log(db, ROOM, _points(kept))
            dropped += rows - await _log_rows(db)
            history.points = kept
            await history.check()
            for point, state in before.items():
                found = await storage.full_state_at(db, Point(point.line, point.seq - 1))
                assert found == state
            # And what comes after builds on it.
            for _ in range(10):
                await history.sends()
            await history.check()
    assert dropped > (10 if dialect == "sqlite" else 0)


async def _log_rows(db: Database) -> int:
    [(count,)] = await db.rows("SELECT count(*) FROM state_log")
    return int(count)


async def _points(kept: list[tuple[Point, State]]) -> AsyncIterator[Point]:
    for point, _ in kept:
        yield point


async def test_forks_upon_forks_do_not_make_a_seek_long(tmp_path: Path) -> None:
    async with opened_fresh("sqlite", MIGRATIONS, tmp_path) as db:
        history = History(db, random.Random(5))
        await history.begins()
        await history.sends()
        for number in range(3 * MAX_LINE_DEPTH):
            point, state = history.points[-1]
            changes = {1 + number % KEYS: 1000 + number}
            await history._append(point, state, changes, merges=True)
            assert len(await storage.ancestry(db, history.points[-1][0])) <= MAX_LINE_DEPTH + 1
        await history.check()


async def test_forks_off_a_deep_line_that_has_grown_long_cost_little(tmp_path: Path) -> None:
    async with opened_fresh("sqlite", MIGRATIONS, tmp_path) as db:
        history = History(db, random.Random(5))
        await history.begins()
        for number in range(MAX_LINE_DEPTH):
            point, state = history.points[-1]
            await history._append(point, state, {1 + number % KEYS: 1 + number}, merges=True)
        point, state = history.points[-1]
        for number in range(300):
            await history._append(point, state, {100 + number: 1000 + number})
            point, state = history.points[-1]
        before = await _log_rows(db)
        forks = history.points[-100:]
        for number, (point, state) in enumerate(forks):
            await history._append(point, state, {1: 2000 + number}, merges=True)
        # Once the few rows above the line are copied, its children are no longer too deep.
        assert await _log_rows(db) - before <= len(forks) + MAX_LINE_DEPTH
        await history.check()


async def test_two_who_shorten_one_line_at_once_do_not_spoil_it(tmp_path: Path) -> None:
    async with opened_fresh("sqlite", MIGRATIONS, tmp_path) as db:
        history = History(db, random.Random(5))
        await history.begins()
        for number in range(MAX_LINE_DEPTH + 1):
            point, state = history.points[-1]
            await history._append(point, state, {1 + number % KEYS: 1 + number}, merges=True)
        point, state = history.points[-1]
        jobs = []
        for event in (101, 102):
            tx = Transaction()
            changes = {1: event}
            place = await point_of_merge(db, history.numbers, tx, ROOM, Merge(point, changes))
            history.points.append((place, _applied(state, changes)))
            jobs.append(db.submit(tx))
        assert [await _outcome(job) for job in jobs] == ["committed", "committed"]
        await history.check()


async def test_two_writers_at_one_head_of_a_line_do_not_both_succeed(tmp_path: Path) -> None:
    async with opened_fresh("sqlite", MIGRATIONS, tmp_path) as db:
        history = History(db, random.Random(1))
        await history.begins()
        await history.sends()
        head = history.points[-1][0]
        place = Point(head.line, head.seq + 1)
        jobs = []
        for event in (101, 102):
            tx = Transaction()
            found = await point_after(db, history.numbers, tx, ROOM, head, is_line_head=True)
            assert found == place
            storage.append_state(tx, place, {1: event})
            jobs.append(db.submit(tx))
        first, second = [await _outcome(job) for job in jobs]
        assert (first, second) == ("committed", "GuardFailed")
        assert await storage.state_event_at(db, place, 1) == 101


async def _outcome(job: object) -> str:
    try:
        await job  # type: ignore[misc]
    except Exception as error:  # noqa: BLE001 - its name is the outcome
        return type(error).__name__
    return "committed"
