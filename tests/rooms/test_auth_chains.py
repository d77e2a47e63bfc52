"""What the chains say about the auth DAG is what walking it says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from yizhan_database import Transaction
from yizhan_server.app import MIGRATIONS
from yizhan_server.rooms import auth_cover
from yizhan_server.rooms.auth_chains import AuthChains
from yizhan_server.storage import auth_chains as stored
from yizhan_testing.databases import Dialect, StatementRecorder, opened_fresh
from yizhan_testing.stored_events import ROOM, StoredDag, bare_event, record

if TYPE_CHECKING:
    from yizhan_database import Database

ANY = 10**9


@pytest_asyncio.fixture
async def db(tmp_path: Path, dialect: Dialect) -> AsyncIterator[Database]:
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as database:
        yield database


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a small DAG take many pages and many commits."""
    monkeypatch.setattr(auth_cover, "STEP", 4)
    monkeypatch.setattr(stored, "PAGE", 3)


async def check(dag: StoredDag, chains: AuthChains, chance: random.Random) -> None:
    nids = list(dag.auth)

    def some(most: int) -> set[int]:
        return set(chance.sample(nids, chance.randrange(min(most, len(nids)) + 1)))

    sets, shared = [some(5) for _ in range(chance.randrange(2, 5))], some(4)
    reached = [dag.reached(one | shared) for one in sets]
    assert await chains.difference(ROOM, sets, shared, limit=ANY) == reached[0].union(
        *reached
    ) - reached[0].intersection(*reached)
    ends = some(6)
    between = {nid for nid in dag.reached(ends) if nid in ends or dag.chain({nid}) & ends}
    assert await chains.subgraph(ROOM, ends, limit=ANY) == between
    assert await chains.ancestors(ROOM, ends, limit=ANY) == dag.chain(ends)


@pytest.mark.usefixtures("small_steps")
async def test_chains_say_what_walks_say_while_the_room_grows(
    db: Database, dialect: Dialect
) -> None:
    for seed in range(15 if dialect == "sqlite" else 2):
        chance = random.Random(seed)
        await forget_everything(db)
        dag = StoredDag(db)
        chains = AuthChains(db)
        width = chance.choice([3, 10, 40])
        for _ in range(8):
            for _ in range(chance.randrange(1, 9)):
                recent = list(dag.auth)[-width:]
                await dag.adds(chance.sample(recent, min(len(recent), chance.randrange(5))))
            await check(dag, chains, chance)


async def forget_everything(db: Database) -> None:
    tx = Transaction()
    for table in ("event", "event_auth", "auth_chain", "auth_chain_link", "auth_cover"):
        tx.execute(f"DELETE FROM {table}")
    await db.commit(tx)


@pytest.mark.usefixtures("small_steps")
async def test_two_who_cover_a_room_at_once_do_not_spoil_it(db: Database) -> None:
    chance = random.Random(7)
    dag = StoredDag(db)
    for _ in range(40):
        recent = list(dag.auth)[-8:]
        await dag.adds(chance.sample(recent, min(len(recent), 3)))
    newest = list(dag.auth)[-3:]

    found = await asyncio.gather(
        *(AuthChains(db).ancestors(ROOM, newest, limit=ANY) for _ in range(3))
    )

    assert found == [dag.chain(set(newest))] * 3
    for _ in range(5):
        await check(dag, AuthChains(db), chance)


async def test_events_of_an_old_room_that_name_one_another_in_a_circle_do_no_harm(
    db: Database,
) -> None:
    tx = Transaction()
    record(tx, 1, bare_event("$1:a.test", ["$3:a.test", "$unknown:a.test"]))
    record(tx, 2, bare_event("$2:a.test", ["$1:a.test"]))
    record(tx, 3, bare_event("$3:a.test", ["$2:a.test", "$3:a.test"]))
    record(tx, 4, bare_event("$4:a.test", ["$3:a.test"]))
    await db.commit(tx)

    found = await AuthChains(db).ancestors(ROOM, [4], limit=ANY)
    assert found is not None
    assert {3} <= found <= {1, 2, 3}
    assert await AuthChains(db).difference(ROOM, [[4], [3]], limit=ANY) == {4}


async def test_what_is_too_much_is_not_read(db: Database) -> None:
    dag = StoredDag(db)
    (last,) = await dag.adds([])
    for _ in range(30):
        (last,) = await dag.adds([last])
    chains = AuthChains(db)

    assert await chains.ancestors(ROOM, [last], limit=30) == dag.chain({last})
    assert await chains.ancestors(ROOM, [last], limit=29) is None
    assert await chains.difference(ROOM, [[last], [1]], limit=28) is None
    assert await chains.subgraph(ROOM, [last, 1], limit=28) is None


async def rows_of(db: Database, table: str) -> int:
    row = await db.row(f"SELECT count(*) FROM {table} /* scan: a test */")
    assert row is not None
    return int(row[0])


async def test_ten_thousand_members_need_few_chains(tmp_path: Path) -> None:
    with StatementRecorder() as recorder:
        async with opened_fresh("sqlite", MIGRATIONS, tmp_path) as db:
            recorder.statements.clear()  # migrations
            dag = StoredDag(db)
            (create,) = await dag.adds([])
            (founder,) = await dag.adds([create])
            (levels,) = await dag.adds([create, founder])
            (rules,) = await dag.adds([create, founder, levels])
            joins = await dag.adds(*[[create, levels, rules] for _ in range(9_000)])
            newest = joins[-1]
            names = await dag.adds(
                *[[create, levels, rules, joins[0] if n == 0 else newest + n] for n in range(1_000)]
            )
            chains = AuthChains(db)

            # One side has another name of the first member, all else is shared.
            difference = await chains.difference(
                ROOM, [[names[-1]], [names[-10]]], joins[1:], limit=100
            )

            assert difference == set(names[-9:])
            # Members whom nobody names need no place; a member's names are one after the other.
            assert await rows_of(db, "auth_chain") == 4 + 1_000
            row = await db.row("SELECT count(DISTINCT chain) FROM auth_chain /* scan: a test */")
            assert row == (1,)
            assert await rows_of(db, "auth_chain_link") == 0
        (file,) = tmp_path.glob("*.db")
        assert recorder.full_scans(file) == []
        assert recorder.whole_rooms(file) == []
