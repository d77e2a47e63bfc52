"""Resolving the states after several forward extremities: what to change in the first one.

The algorithm is `protocol.state_resolution`, which is pure and asks; this answers from the
database. Only what differs is read. Whoever can send events into a room can make it fork at
will, so this lets others run every few milliseconds, gives up on what is too large, and remembers
what it found.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.protocol.auth_events import auth_types_for_event
from yizhan_server.protocol.event import Pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import RoomVersion, StateResolution
from yizhan_server.protocol.state_resolution import (
    Need,
    NeedEvents,
    NeedUnconflicted,
    StateKey,
    Steps,
    resolve_state,
)
from yizhan_server.rooms.auth_chains import AuthChains
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.turns import Turns
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.auth_chains import pages
from yizhan_server.storage.state import REMOVED, Point

EVENT_BUDGET = 20_000
"""Events that one resolution may look at."""

CACHED_KEYS = 50_000
"""Keys in all remembered results together."""

Changes = dict[int, int]
"""State key number -> event; 0 where the key is removed"""


class ResolutionTooLarge(Exception):
    """The states differ in more than may be looked at. Whoever merges them must go without."""


class ResolvableRoom(Protocol):
    """What of a room matters here."""

    @property
    def nid(self) -> int:
        """The room's number."""

    @property
    def version(self) -> RoomVersion:
        """The room's version."""


class StateResolver:
    """Resolves states of all rooms."""

    def __init__(self, db: Database, keys: StateKeys, event_budget: int = EVENT_BUDGET) -> None:
        self._db = db
        self._keys = keys
        self._chains = AuthChains(db)
        self._event_budget = event_budget
        self._results: OrderedDict[tuple[Point, ...], list[Changes]] = OrderedDict()
        self._cached_keys = 0

    async def resolve(self, room: ResolvableRoom, points: Sequence[Point]) -> Changes:
        """Return the resolution of the states at these points, as changes to the first one.

        All points must be durable. Their order makes no difference to the resolved state. Raises
        ResolutionTooLarge.
        """
        distinct = tuple(sorted(set(points)))
        return dict((await self._resolved(room, distinct))[distinct.index(points[0])])

    async def merged(self, room: ResolvableRoom, points: Sequence[Point]) -> tuple[Point, Changes]:
        """Return the same as changes to the point that has the fewest.

        A merge that continued any other would write rows for all that one of two branches does
        not know, again and again.
        """
        distinct = tuple(sorted(set(points)))
        found = await self._resolved(room, distinct)
        nearest = min(range(len(distinct)), key=lambda index: len(found[index]))
        return distinct[nearest], dict(found[nearest])

    async def _resolved(self, room: ResolvableRoom, points: tuple[Point, ...]) -> list[Changes]:
        """Return the changes to each of `points`, which are sorted."""
        # Points are better than the IDs of the extremities: messages do not move them.
        if len(points) == 1:
            return [{}]
        changes = self._results.get(points)
        if changes is None:
            changes = await _Resolution(
                self._db, self._keys, self._chains, room, points, self._event_budget
            ).changes()
            self._remember(points, changes)
        else:
            self._results.move_to_end(points)
        return changes

    def _remember(self, points: tuple[Point, ...], changes: list[Changes]) -> None:
        if points in self._results:
            return
        self._results[points] = changes
        self._cached_keys += 1 + sum(map(len, changes))
        while self._cached_keys > CACHED_KEYS:
            _, forgotten = self._results.popitem(last=False)
            self._cached_keys -= 1 + sum(map(len, forgotten))


class _Resolution:
    """One resolution and what it has read."""

    def __init__(
        self,
        db: Database,
        keys: StateKeys,
        chains: AuthChains,
        room: ResolvableRoom,
        points: Sequence[Point],
        event_budget: int,
    ) -> None:
        self._db = db
        self._keys = keys
        self._chains = chains
        self._room = room
        self._points = points
        self._budget = event_budget
        self._turns = Turns()
        self._pdus: dict[EventID, Pdu] = {}
        self._nids: dict[EventID, int] = {}
        self._asked: set[EventID] = set()

    async def changes(self) -> list[Changes]:
        """Return what the resolution changes in each of the states."""
        values = await self._differing()
        if not values:
            return [{} for _ in self._points]
        event_ids = await self._event_ids({nid for one in values.values() for nid in one if nid})
        names = await self._key_names(values)
        conflicted = {
            names[key]: frozenset(event_ids[nid] for nid in one if nid)
            for key, one in values.items()
        }
        await self._load(event_ids.values())
        steps = resolve_state(
            self._room.version,
            conflicted,
            await self._auth_difference(values, conflicted, event_ids),
            await self._subgraph(event_ids),
        )
        resolved = await self._run(steps)
        return await self._as_changes(resolved, {names[key]: key for key in values}, values)

    # What differs

    async def _differing(self) -> dict[int, list[int]]:
        """Return the keys whose event is not the same at all points, with the event at each."""
        touched: set[int] = set()
        for point in self._points[1:]:
            touched |= await stored_state.touched_keys(self._db, self._points[0], point)
            await self._turns.offer()
        differing: dict[int, list[int]] = {}
        for page in pages(touched):
            states = []
            for point in self._points:
                states.append(await stored_state.state_events_at(self._db, point, page))
                await self._turns.offer()
            for key in page:
                values = [state.get(key, REMOVED) for state in states]
                if any(value != values[0] for value in values):
                    differing[key] = values
        if len(differing) > self._budget:
            raise ResolutionTooLarge
        return differing

    async def _event_ids(self, nids: Collection[int]) -> dict[int, EventID]:
        found: dict[int, EventID] = {}
        for page in pages(nids):
            found |= await stored_events.event_ids_by_nid(self._db, page)
            await self._turns.offer()
        self._nids |= {event_id: nid for nid, event_id in found.items()}
        return found

    async def _key_names(self, keys: Collection[int]) -> dict[int, StateKey]:
        names: dict[int, StateKey] = {}
        for page in pages(keys):
            names |= await stored_state.keys_by_nid(self._db, page)
            await self._turns.offer()
        return names

    # What the auth chains do not share

    async def _auth_difference(
        self,
        values: Mapping[int, Sequence[int]],
        conflicted: Mapping[StateKey, Collection[EventID]],
        event_ids: Mapping[int, EventID],
    ) -> frozenset[EventID]:
        if self._room.version.state_resolution is StateResolution.V1:
            return frozenset()
        sets = [
            {one[index] for one in values.values()} - {REMOVED}
            for index in range(len(self._points))
        ]
        # What unconflicted state reaches, all states reach. Mostly what authorises the conflicted
        # events reaches the rest, and the other members of a large room need not be read.
        shared: Collection[int] = await self._unconflicted_authority(conflicted)
        difference = await self._difference(sets, shared)
        if difference is None or not difference <= event_ids.keys():
            shared = await self._unconflicted(values.keys())
            difference = await self._difference(sets, shared)
        if difference is None:
            raise ResolutionTooLarge
        return frozenset((await self._event_ids(difference)).values())

    async def _difference(
        self, sets: Sequence[Collection[int]], shared: Collection[int]
    ) -> set[int] | None:
        return await self._chains.difference(
            self._room.nid, sets, shared, limit=self._budget, turns=self._turns
        )

    async def _unconflicted_authority(
        self, conflicted: Mapping[StateKey, Collection[EventID]]
    ) -> list[int]:
        keys: set[StateKey] = {("m.room.power_levels", ""), ("m.room.join_rules", "")}
        for pdu in self._pdus.values():
            keys.update(
                auth_types_for_event(
                    pdu.type, pdu.sender, pdu.state_key, pdu.content, self._room.version
                )
            )
        return list((await self._unconflicted_of(keys - conflicted.keys())).values())

    async def _unconflicted_of(self, keys: Iterable[StateKey]) -> dict[StateKey, int]:
        """Return the events of keys that are not conflicted."""
        names = {nid: key for key in keys if (nid := await self._keys.find(key)) is not None}
        found: dict[StateKey, int] = {}
        for page in pages(names):
            state = await stored_state.state_events_at(self._db, self._points[0], page)
            found |= {names[nid]: event for nid, event in state.items()}
            await self._turns.offer()
        return found

    async def _unconflicted(self, conflicted: Collection[int]) -> list[int]:
        """Return all events on which the states agree."""
        state: dict[int, int] = {}
        for place in reversed(await stored_state.ancestry(self._db, self._points[0])):
            after = 0
            while page := await stored_state.state_page(self._db, place, after, 250):
                state.update(page)
                after = page[-1][0]
                await self._turns.offer()
        return [event for key, event in state.items() if event != REMOVED and key not in conflicted]

    async def _subgraph(self, event_ids: Mapping[int, EventID]) -> frozenset[EventID]:
        if self._room.version.state_resolution is not StateResolution.V2_1:
            return frozenset()
        found = await self._chains.subgraph(
            self._room.nid, event_ids.keys(), limit=self._budget, turns=self._turns
        )
        if found is None:
            raise ResolutionTooLarge
        return frozenset((await self._event_ids(found)).values())

    # Answering the algorithm

    async def _run(
        self, steps: Steps[dict[StateKey, EventID | None]]
    ) -> dict[StateKey, EventID | None]:
        try:
            need = next(steps)
            while True:
                answer = await self._answer(need)
                await self._turns.offer()
                need = steps.send(answer)
        except StopIteration as done:
            resolved: dict[StateKey, EventID | None] = done.value
            return resolved
        finally:
            steps.close()

    async def _answer(self, need: Need) -> Mapping[Any, Any]:
        match need:
            case NeedEvents(event_ids):
                await self._load(event_ids)
                return {one: self._pdus[one] for one in event_ids if one in self._pdus}
            case NeedUnconflicted(keys):
                agreed = await self._unconflicted_of(keys)
                event_ids_of = await self._event_ids(agreed.values())
                return {key: event_ids_of[nid] for key, nid in agreed.items()}

    async def _load(self, event_ids: Iterable[EventID]) -> None:
        """Read events that were not asked for yet, within the budget."""
        missing = [event_id for event_id in event_ids if event_id not in self._asked]
        self._asked.update(missing)
        if len(self._asked) > self._budget:
            raise ResolutionTooLarge
        for start in range(0, len(missing), 50):
            some = missing[start : start + 50]
            for event_id, (nid, pdu) in (
                await stored_events.accepted_pdus(
                    self._db, self._room.nid, some, self._room.version
                )
            ).items():
                self._pdus[event_id] = pdu
                self._nids[event_id] = nid
            await self._turns.offer()

    async def _as_changes(
        self,
        resolved: Mapping[StateKey, EventID | None],
        numbers: Mapping[StateKey, int],
        values: Mapping[int, Sequence[int]],
    ) -> list[Changes]:
        changes: list[Changes] = [{} for _ in self._points]
        for name, event_id in resolved.items():
            number = numbers.get(name)
            if number is None:
                number = await self._number_of(name)
            after = REMOVED if event_id is None else self._nids[event_id]
            before = values.get(number, [REMOVED] * len(changes))
            for index, each in enumerate(changes):
                if after != before[index]:
                    each[number] = after
        return changes

    async def _number_of(self, name: StateKey) -> int:
        """Return the number of a key that no state has; perhaps no state ever had it."""
        while True:
            tx = Transaction()
            number = await self._keys.intern(tx, name)
            if not tx.operations:
                return number
            try:
                await self._db.commit(tx)
            except GuardFailed:
                # Another worker has given it another number meanwhile.
                self._keys.forget_pending()
            else:
                return number
