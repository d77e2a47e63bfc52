"""The SQL of approvals: the chain of events, and the indexes that follow from it.

`approval_event` is the only truth. `approval_request` and `approval_task` exist to find a
request by number, person or code; whatever is shown is folded from the events.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from yizhan_database import Transaction

from .events import BrokenChain, Recorded, Request, State, Task, apply, read_event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_database import Database, Row

LIST_LIMIT = 20
"""How many requests one answer lists."""


async def find_request(db: Database, request_id: str) -> Request | None:
    """Return the request as its events make it. BrokenChain when somebody has changed them."""
    request: Request | None = None
    for recorded in await chain_of(db, request_id):
        request = apply(request, recorded)
    return request


async def chain_of(db: Database, request_id: str) -> list[Recorded]:
    """Return a request's events in order, each checked against its stored hash."""
    chain = []
    for canonical, stored in await db.rows(
        "SELECT canonical, hash FROM approval_event WHERE request = ? ORDER BY seq", request_id
    ):
        recorded = read_event(canonical)
        if recorded.hash != stored:
            raise BrokenChain(f"an event of {request_id} does not have its hash")
        chain.append(recorded)
    return chain


async def get_request(db: Database, request_id: str) -> Request:
    """Return a request that an index names. BrokenChain when it has no events."""
    request = await find_request(db, request_id)
    if request is None:
        raise BrokenChain(f"{request_id} has no events")
    return request


async def requests_named(db: Database, ref: str) -> list[Request]:
    """Return the latest requests with that number; numbers may come again after years."""
    rows = await db.rows(
        "SELECT id FROM approval_request WHERE ref = ? ORDER BY created_ms DESC LIMIT 5", ref
    )
    return [await get_request(db, row[0]) for row in rows]


async def tasks_named(db: Database, short: str) -> list[tuple[Request, Task]]:
    """Return the latest tasks with those four characters; at most one of them is open."""
    rows = await db.rows(
        "SELECT id, request FROM approval_task WHERE short = ? ORDER BY opened_ms DESC LIMIT 5",
        short,
    )
    return await _with_requests(db, rows)


async def open_tasks_of(
    db: Database, assignee: str, limit: int = LIST_LIMIT
) -> list[tuple[Request, Task]]:
    """Return what waits for a person, oldest first."""
    rows = await db.rows(
        """
        SELECT id, request FROM approval_task
        WHERE assignee = ? AND state = 'open' ORDER BY opened_ms LIMIT ?
        """,
        assignee,
        limit,
    )
    return await _with_requests(db, rows)


async def _with_requests(db: Database, rows: Sequence[Row]) -> list[tuple[Request, Task]]:
    found = []
    for task_id, request_id in rows:
        request = await get_request(db, request_id)
        found.append((request, request.task(task_id)))
    return found


async def requests_of(db: Database, applicant: str, state: State | None = None) -> list[Request]:
    """Return a person's latest requests, newest first, all or those in one state."""
    rows = await db.rows(
        """
        SELECT id FROM approval_request WHERE applicant = ? AND (? = '' OR state = ?)
        ORDER BY created_ms DESC LIMIT ?
        """,
        applicant,
        state.value if state else "",
        state.value if state else "",
        LIST_LIMIT,
    )
    return [await get_request(db, row[0]) for row in rows]


async def count_by_state(db: Database, applicant: str) -> dict[State, int]:
    """Return how many requests of a person are in each state."""
    rows = await db.rows(
        "SELECT state, COUNT(*) FROM approval_request WHERE applicant = ? GROUP BY state",
        applicant,
    )
    return {State(state): count for state, count in rows}


async def count_open_tasks(db: Database, assignee: str) -> int:
    """Return how many tasks wait for a person."""
    row = await db.row(
        "SELECT COUNT(*) FROM approval_task WHERE assignee = ? AND state = 'open'", assignee
    )
    return 0 if row is None else int(row[0])


async def recent_approvers(db: Database, applicant: str) -> list[str]:
    """Return whom a person asked lately, latest first, each once."""
    rows = await db.rows(
        """
        SELECT task.assignee FROM approval_request AS request
        JOIN approval_task AS task ON task.request = request.id
        WHERE request.applicant = ? ORDER BY request.created_ms DESC LIMIT 20
        """,
        applicant,
    )
    return list(dict.fromkeys(row[0] for row in rows))


async def is_short_free(db: Database, short: str) -> bool:
    """Say whether neither an open task nor any request goes by these four characters."""
    row = await db.row(
        """
        SELECT 1 FROM approval_task WHERE short = ? AND state = 'open'
        UNION ALL SELECT 1 FROM approval_request WHERE ref = ?
        """,
        short,
        short,
    )
    return row is None


def append_events(tx: Transaction, before: Request | None, recorded: Sequence[Recorded]) -> Request:
    """Record events that follow `before` and bring the indexes up to date; return the result.

    Guarded by the request's revision: when another writer was faster nothing is recorded,
    the commit fails with GuardFailed, and the whole command is to be judged again.
    """
    after = before
    for one in recorded:
        after = apply(after, one)
    assert after is not None
    if before is None:
        tx.guard(*_insert_request(after))
    else:
        tx.guard(
            "UPDATE approval_request SET state = ?, rev = ? WHERE id = ? AND rev = ?",
            after.state.value,
            after.rev,
            after.id,
            before.rev,
        )
    first = before.rev if before else 0
    tx.execute_many(
        "INSERT INTO approval_event (request, seq, canonical, hash) VALUES (?, ?, ?, ?)",
        [(after.id, seq, one.canonical, one.hash) for seq, one in enumerate(recorded, start=first)],
    )
    _write_tasks(tx, before, after)
    return after


def _insert_request(request: Request) -> tuple[str, str, str, str, str, str, int, int]:
    return (
        """
        INSERT INTO approval_request (id, ref, form, applicant, state, created_ms, rev)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        request.id,
        request.ref,
        request.form.id,
        request.applicant,
        request.state.value,
        request.created_ms,
        request.rev,
    )


def _write_tasks(tx: Transaction, before: Request | None, after: Request) -> None:
    known = {task.id: task for task in before.tasks} if before else {}
    for task in after.tasks:
        if task.id not in known:
            tx.execute(
                """
                INSERT INTO approval_task (id, request, node, assignee, short, state, opened_ms)
                VALUES (?, ?, ?, ?, ?, ?, ?)
                """,
                task.id,
                task.request,
                task.node,
                task.assignee,
                task.short,
                task.state.value,
                task.opened_ms,
            )
        elif task.state is not known[task.id].state:
            tx.execute("UPDATE approval_task SET state = ? WHERE id = ?", task.state.value, task.id)


async def rebuild(db: Database, tx: Transaction) -> int:
    """Record the making anew of all indexes from the events; return how many requests.

    BrokenChain when the events of a request do not follow from one another. To be run while
    no other writer is at work.
    """
    count = 0
    tx.execute("DELETE FROM approval_task")
    tx.execute("DELETE FROM approval_request")
    pages = db.scan(
        """
        SELECT request FROM approval_event
        WHERE seq = 0 AND request > ? ORDER BY request LIMIT ?
        """,
        after="",
    )
    async for (request_id,) in pages:
        request = await get_request(db, request_id)
        tx.execute(*_insert_request(request))
        _write_tasks(tx, None, request)
        count += 1
    return count


async def open_secret(db: Database) -> bytes:
    """Return the installation's secret behind all codes; it is made on the first call."""
    tx = Transaction()
    tx.execute(
        "INSERT INTO approval_secret (id, secret) VALUES (1, ?) ON CONFLICT DO NOTHING",
        secrets.token_bytes(32),
    )
    await db.commit(tx)
    row = await db.row("SELECT secret FROM approval_secret WHERE id = 1")
    assert row is not None
    return bytes(row[0])
