"""The auth DAG's edges and its cover by chains; the algorithms are in `rooms/auth_chains.py`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import orjson

from yizhan_database import Database, Transaction, in_list
from yizhan_server.protocol.canonical_json import parse_any

PAGE = 250
"""Numbers in one list of a statement: a read of a millisecond or so."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a chain; seq counts from 1 without gaps."""

    chain: int
    seq: int


@dataclass(frozen=True, slots=True)
class Link:
    """A way from a place in one chain to a place in another."""

    source: Place
    target: Place


def pages(values: Iterable[int]) -> Iterator[list[int]]:
    """Return `values` in lists that one statement takes."""
    rest = iter(values)
    while page := list(islice(rest, PAGE)):
        yield page


async def cover_version(db: Database, room: int) -> int:
    """Return how often the room's cover was extended."""
    row = await db.row("SELECT ver FROM auth_cover WHERE room = ?", room)
    return 0 if row is None else row[0]


def advance_cover(tx: Transaction, room: int, known_version: int) -> None:
    """Extend a room's cover, if it is still at `known_version`.

    A guard: two who extend the same chain would put two events in one place.
    """
    tx.guard(
        "INSERT INTO auth_cover (room, ver) VALUES (?, ?) ON CONFLICT (room)"
        " DO UPDATE SET ver = excluded.ver WHERE auth_cover.ver = excluded.ver - 1",
        room, known_version + 1,
    )  # fmt: skip


def append_auth_events(tx: Transaction, auth: Mapping[int, Collection[int]]) -> None:
    """Record the auth events of events. All of them have, or get in `tx`, their places."""
    tx.execute_many(
        "INSERT INTO event_auth (event, auth) VALUES (?, ?)",
        [(event, orjson.dumps(sorted(nids)).decode()) for event, nids in auth.items()],
    )


def append_places(tx: Transaction, places: Mapping[int, Place]) -> None:
    """Record the places of events."""
    tx.execute_many(
        "INSERT INTO auth_chain (event, chain, seq) VALUES (?, ?, ?)",
        [(event, place.chain, place.seq) for event, place in places.items()],
    )


def append_links(tx: Transaction, links: Iterable[Link]) -> None:
    """Record links between chains."""
    tx.execute_many(
        "INSERT INTO auth_chain_link (chain, seq, to_chain, to_seq) VALUES (?, ?, ?, ?)",
        [
            (link.source.chain, link.source.seq, link.target.chain, link.target.seq)
            for link in links
        ],
    )


async def auth_events(db: Database, page: list[int]) -> dict[int, list[int]]:
    """Return the auth events of those of these events that are covered."""
    rows = await db.rows(*in_list("SELECT event, auth FROM event_auth WHERE event IN (??)", page))
    return {event: orjson.loads(auth) for event, auth in rows}


async def distinct_auth_events(db: Database, page: list[int]) -> set[int]:
    """Return all auth events of these events, which are covered."""
    rows = await db.rows(*in_list("SELECT DISTINCT auth FROM event_auth WHERE event IN (??)", page))
    return {nid for (auth,) in rows for nid in orjson.loads(auth)}


async def named_auth_events(db: Database, page: list[int]) -> dict[int, list[str]]:
    """Return the event IDs that these events themselves name as auth events."""
    rows = await db.rows(*in_list("SELECT nid, rest FROM event WHERE nid IN (??)", page))
    return {nid: [_event_id(one) for one in parse_any(rest)["auth_events"]] for nid, rest in rows}


def _event_id(reference: str | list[str]) -> str:
    """Return the ID of a reference, which in old room versions has a hash beside it."""
    return reference if isinstance(reference, str) else reference[0]


async def nids_in_room(db: Database, room: int, event_ids: list[str]) -> dict[str, int]:
    """Return the numbers of those of these events that are known, and of this room."""
    # The room is compared here: in the statement, SQLite would search the whole room instead.
    rows = await db.rows(
        *in_list("SELECT event_id, nid, room FROM event WHERE event_id IN (??)", event_ids)
    )
    return {event_id: nid for event_id, nid, of_room in rows if of_room == room}


async def places(db: Database, page: list[int]) -> dict[int, Place]:
    """Return the places of those of these events that have one."""
    rows = await db.rows(
        *in_list("SELECT event, chain, seq FROM auth_chain WHERE event IN (??)", page)
    )
    return {event: Place(chain, seq) for event, chain, seq in rows}


async def lengths(db: Database, chains: list[int]) -> dict[int, int]:
    """Return how many events these chains have."""
    rows = await db.rows(
        *in_list(
            "SELECT first.chain, (SELECT max(a.seq) FROM auth_chain AS a"
            " WHERE a.chain = first.chain)"
            " FROM auth_chain AS first WHERE first.chain IN (??) AND first.seq = 1",
            chains,
        )
    )
    return dict(rows)


async def links_from(db: Database, chains: list[int]) -> list[Link]:
    """Return all links from these chains."""
    rows = await db.rows(
        *in_list(
            "SELECT chain, seq, to_chain, to_seq FROM auth_chain_link WHERE chain IN (??)", chains
        )
    )
    return [
        Link(Place(chain, seq), Place(to_chain, to_seq)) for chain, seq, to_chain, to_seq in rows
    ]


async def events_between(db: Database, chain: int, after: int, upto: int) -> list[int]:
    """Return the events of a chain with after < seq <= upto."""
    rows = await db.rows(
        "SELECT event FROM auth_chain WHERE chain = ? AND seq > ? AND seq <= ?", chain, after, upto
    )
    return [event for (event,) in rows]
