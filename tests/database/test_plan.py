"""How a batch is arranged for PostgreSQL. That nothing changes by it: test_same_outcome."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from yizhan_database import Lane, Transaction
from yizhan_database.jobs import Job
from yizhan_database.postgresql_plan import Catalogue, Plan, plan_batch

if TYPE_CHECKING:
    from collections.abc import Callable

CATALOGUE = Catalogue.make(
    parents={"event": ["room"], "relation": ["event"]},
    cascades={"room": ["event"], "event": ["relation"]},
    triggered=["audited"],
)
GUARD = "UPDATE room SET ver = ver + 1 WHERE nid = ? AND ver = ?"
EVENT = "INSERT INTO event (nid, room, pos) VALUES (?, ?, ?)"
TXN = "INSERT INTO txn (id, event) VALUES (?, ?)"


def planned(
    *records: Callable[[Transaction], None], lanes: list[Lane] | None = None, gather: bool = True
) -> Plan:
    loop = asyncio.new_event_loop()
    jobs = []
    for number, record in enumerate(records):
        tx = Transaction(lanes[number] if lanes else None)
        record(tx)
        jobs.append(Job(tx, loop))
    loop.close()
    return plan_batch(jobs, CATALOGUE, gather_guards=gather)


def send(room: int) -> Callable[[Transaction], None]:
    """Record what sending a message records."""

    def record(tx: Transaction) -> None:
        tx.guard(GUARD, room, 0)
        tx.execute(TXN, f"t{room}", room)
        tx.execute(EVENT, room, room, tx.position())

    return record


def shape(plan: Plan) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    early, late = (
        [(group.sql, len(group.entries)) for group in groups] for groups in (plan.early, plan.late)
    )
    return early, late


def test_fifty_sends_are_three_statements_of_which_one_is_under_the_lock() -> None:
    plan = planned(*(send(room) for room in range(50)))
    assert shape(plan) == ([(GUARD, 50), (TXN, 50)], [(EVENT, 50)])
    assert plan.position_count == 50
    assert [list(entry.filled(100))[2] for entry in plan.late[0].entries] == list(range(101, 151))


def test_guards_lock_rows_in_the_order_of_their_lanes() -> None:
    lanes = [Lane(order=number) for number in (3, 1, 2)]
    plan = planned(send(3), send(1), send(2), lanes=lanes)
    assert [entry.args[0] for entry in plan.early[0].entries] == [1, 2, 3]
    # Positions keep the order of submission.
    assert [entry.args[0] for entry in plan.late[0].entries] == [3, 1, 2]


def test_guards_without_an_order_stay_as_they_were_submitted() -> None:
    plan = planned(send(3), send(1), send(2), lanes=[Lane(order=9), Lane(), Lane(order=2)])
    assert [entry.args[0] for entry in plan.early[0].entries] == [3, 1, 2]


def test_each_guard_is_a_group_when_the_failed_one_must_be_named() -> None:
    plan = planned(send(1), send(2), gather=False)
    assert [(group.sql, group.entries[0].job) for group in plan.early if group.is_guard] == [
        (GUARD, 0),
        (GUARD, 1),
    ]


def test_a_single_job_is_run_as_it_was_recorded() -> None:
    def record(tx: Transaction) -> None:
        tx.execute(TXN, "a", 1)
        tx.execute(TXN, "b", 2)
        tx.execute(EVENT, 1, 1, tx.position())
        tx.execute(TXN, "c", 3)
        tx.guard(GUARD, 1, 0)
        tx.guard(GUARD, 1, 1)

    assert shape(planned(record)) == (
        [(TXN, 2)],
        [(EVENT, 1), (TXN, 1), (GUARD, 1), (GUARD, 1)],
    )


def test_nothing_moves_past_what_it_depends_on() -> None:
    new_room = "INSERT INTO room (nid, ver) VALUES (?, 0)"
    drop_room = "DELETE FROM room WHERE nid = ?"
    relate = "UPDATE relation SET kind = ? WHERE event = ?"

    def create(tx: Transaction) -> None:
        tx.execute(new_room, 9)

    def drop(tx: Transaction) -> None:
        tx.execute(drop_room, 9)

    def change_relation(tx: Transaction) -> None:
        tx.execute(relate, "x", 1)

    # The room must be there before its event, and a cascade reaches grandchildren.
    assert shape(planned(send(1), create, send(2))) == (
        [(GUARD, 1), (TXN, 2)],
        [(EVENT, 1), (new_room, 1), (GUARD, 1), (EVENT, 1)],
    )
    assert shape(planned(change_relation, drop, change_relation))[0] == [
        (relate, 1),
        (drop_room, 1),
        (relate, 1),
    ]


def test_statements_whose_reach_is_unknown_stay_in_their_place() -> None:
    audit = "INSERT INTO audited (nid) VALUES (?)"
    odd = "SELECT setval('s', ?)"

    def touch(sql: str) -> Callable[[Transaction], None]:
        def record(tx: Transaction) -> None:
            tx.execute(sql, 1)

        return record

    for sql in (audit, odd):
        assert shape(planned(touch(TXN), touch(sql), touch(TXN)))[0] == [
            (TXN, 1),
            (sql, 1),
            (TXN, 1),
        ]


def test_tables_are_found_wherever_a_statement_names_them() -> None:
    footprint = CATALOGUE.footprint(
        "INSERT INTO a (x) SELECT b.x FROM b, c AS other JOIN d ON d.x = b.x"
        " WHERE EXISTS (SELECT 1 FROM e) ON CONFLICT (x) DO UPDATE SET x = 1"
    )
    assert footprint is not None
    assert footprint.writes == {"a", "a!"}
    assert {"a", "b", "c", "d", "e"} <= footprint.reads
    update = CATALOGUE.footprint("UPDATE a SET x = f.x FROM f WHERE f.y = a.y")
    assert update is not None
    assert update.writes == {"a"}
    assert "f" in update.reads
