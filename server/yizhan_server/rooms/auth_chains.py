"""What events reach along their auth events, answered by ranges of chains instead of walks.

Every event that others name as an auth event has a place (chain, seq): it reaches all before it in
its chain, and where the chain has links at or before its place, what these lead to. So what any
set of events reaches is one number for each chain (`Reach`), and differences are ranges.

Events that nobody names, most members of a large room among them, need no place: they reach
their auth events. The cover is made when it is first needed, from the events' own words: rooms
whose history never forks have none, and the path that writes events is not concerned.

An auth event that is not known here, or is of another room, counts as not named.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from weakref import WeakValueDictionary

from yizhan_database import Database, GuardFailed, Transaction
from yizhan_server.rooms.auth_cover import Planner
from yizhan_server.rooms.turns import Turns
from yizhan_server.storage import auth_chains as stored
from yizhan_server.storage.auth_chains import Link

Reach = dict[int, int]
"""chain -> the greatest seq that is reached"""


class AuthChains:
    """The auth DAGs of all rooms."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._covering: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def difference(
        self,
        room: int,
        sets: Sequence[Collection[int]],
        shared: Collection[int] = (),
        *,
        limit: int,
        turns: Turns | None = None,
    ) -> set[int] | None:
        """Return the events that some but not all sets reach; None if more than `limit`.

        A set reaches its own events and their auth chains. `shared` are further events of every
        set.
        """
        turns = turns or Turns()
        await self.cover(room, set(shared).union(*sets), turns)
        all_links: dict[int, list[Link]] = {}
        base, _ = await self._reach_of(shared, all_links, turns)
        reaches, placeless = [], []
        for one in sets:
            reach, without = await self._reach_of(one, all_links, turns, base)
            reaches.append(reach)
            placeless.append(without - set(shared))
        ranges = {
            chain: (
                min(reach.get(chain, 0) for reach in reaches),
                max(reach.get(chain, 0) for reach in reaches),
            )
            for chain in set[int]().union(*reaches)
        }
        found = await self._events_in(ranges, turns, limit)
        if found is None:
            return None
        return found | (placeless[0].union(*placeless) - placeless[0].intersection(*placeless))

    async def subgraph(
        self, room: int, nids: Collection[int], *, limit: int, turns: Turns | None = None
    ) -> set[int] | None:
        """Return what lies on a way along auth events from one of these events to another.

        These events themselves included; None if there are more than `limit`.
        """
        turns = turns or Turns()
        await self.cover(room, nids, turns)
        links: dict[int, list[Link]] = {}
        backwards, placeless = await self._reach_of(nids, links, turns)
        forwards: dict[int, int] = {}  # chain -> the least seq that reaches one of the events
        for page in stored.pages(nids):
            for place in (await stored.places(self._db, page)).values():
                forwards[place.chain] = min(place.seq, forwards.get(place.chain, place.seq))
            await turns.offer()
        into: dict[int, list[Link]] = defaultdict(list)
        for link in (link for some in links.values() for link in some):
            # What the events do not reach is on no way between them, and may be the whole room.
            if link.source.seq <= backwards.get(link.source.chain, 0):
                into[link.target.chain].append(link)
        waiting = list(forwards)
        while waiting:
            chain = waiting.pop()
            for link in into[chain]:
                source = link.source
                if link.target.seq >= forwards[chain] and source.seq < forwards.get(
                    source.chain, source.seq + 1
                ):
                    forwards[source.chain] = source.seq
                    waiting.append(source.chain)
            await turns.offer()
        ranges = {
            chain: (seq - 1, backwards[chain])
            for chain, seq in forwards.items()
            if seq <= backwards.get(chain, 0)
        }
        found = await self._events_in(ranges, turns, limit)
        return None if found is None else found | placeless

    async def ancestors(
        self, room: int, nids: Collection[int], *, limit: int, turns: Turns | None = None
    ) -> set[int] | None:
        """Return the auth chains of these events, themselves excluded unless one of them is in it.

        None if there are more than `limit`.
        """
        turns = turns or Turns()
        await self.cover(room, nids, turns)
        parents: set[int] = set()
        for page in stored.pages(nids):
            parents |= await stored.distinct_auth_events(self._db, page)
            await turns.offer()
        reach, _ = await self._reach_of(parents, {}, turns)
        ranges = {chain: (0, seq) for chain, seq in reach.items()}
        return await self._events_in(ranges, turns, limit)

    async def cover(self, room: int, nids: Collection[int], turns: Turns) -> None:
        """Give all that these events reach its places, in commits of bounded size."""
        # One at a time in this process, for the sake of work; the guard is for correctness.
        covering = self._covering.setdefault(room, asyncio.Lock())
        while True:
            async with covering:
                version = await stored.cover_version(self._db, room)
                planner = Planner(self._db, room, turns)
                await planner.explore(nids)
                try:
                    async for step in planner.steps():
                        tx = Transaction()
                        stored.advance_cover(tx, room, version)
                        stored.append_auth_events(tx, step.auth)
                        stored.append_places(tx, step.places)
                        stored.append_links(tx, step.links)
                        await self._db.commit(tx)
                        version += 1
                except GuardFailed:
                    # Another process was faster, so it has placed some of the events: in the end
                    # none are left to compete for.
                    continue
                return

    async def _reach_of(
        self,
        nids: Iterable[int],
        links: dict[int, list[Link]],
        turns: Turns,
        base: Reach | None = None,
    ) -> tuple[Reach, set[int]]:
        """Return what these events reach, beyond `base`, and those of them that have no place.

        `links` remembers the links of chains that have been read.
        """
        reach: Reach = dict(base or {})
        placeless: set[int] = set()
        raised: set[int] = set()
        for page in stored.pages(nids):
            places = await stored.places(self._db, page)
            without = [nid for nid in page if nid not in places]
            placeless.update(without)
            for some in stored.pages(await stored.distinct_auth_events(self._db, without)):
                places |= await stored.places(self._db, some)
            for place in places.values():
                if place.seq > reach.get(place.chain, 0):
                    reach[place.chain] = place.seq
                    raised.add(place.chain)
            await turns.offer()
        while raised:
            for page in stored.pages(chain for chain in raised if chain not in links):
                links.update((chain, []) for chain in page)
                for link in await stored.links_from(self._db, page):
                    links[link.source.chain].append(link)
                await turns.offer()
            raised = _follow(raised, links, reach)
            await turns.offer()
        return reach, placeless

    async def _events_in(
        self, ranges: dict[int, tuple[int, int]], turns: Turns, limit: int
    ) -> set[int] | None:
        """Return the events of these ranges (after, upto] of chains, if they are not too many."""
        if sum(upto - after for after, upto in ranges.values()) > limit:
            return None
        found: set[int] = set()
        for chain, (after, upto) in ranges.items():
            if after < upto:
                found.update(await stored.events_between(self._db, chain, after, upto))
                await turns.offer()
        return found


def _follow(raised: set[int], links: dict[int, list[Link]], reach: Reach) -> set[int]:
    """Follow the links of chains whose reach was raised; return the chains that this raised."""
    further: set[int] = set()
    for chain in raised:
        for link in links[chain]:
            target = link.target
            if link.source.seq <= reach[chain] and target.seq > reach.get(target.chain, 0):
                reach[target.chain] = target.seq
                further.add(target.chain)
    return further
