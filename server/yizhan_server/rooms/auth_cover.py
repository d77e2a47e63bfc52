"""Finding places in chains for events that have none yet.

`explore` finds what is not covered; `steps` gives it places, ancestors first, in portions each
of which leaves a sound cover: whatever has its auth events recorded, they have places.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass, field

from yizhan_database import Database
from yizhan_server.rooms.turns import Turns
from yizhan_server.storage import auth_chains as stored
from yizhan_server.storage.auth_chains import Link, Place

STEP = 200
"""Events covered in one commit."""


@dataclass(slots=True)
class Step:
    """What one commit adds to a cover."""

    auth: dict[int, list[int]] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)


class Planner:
    """Extends the cover of one room; it must not change meanwhile."""

    def __init__(self, db: Database, room: int, turns: Turns) -> None:
        self._db = db
        self._room = room
        self._turns = turns
        self._auth: dict[int, list[int]] = {}
        """Auth events of all events that were looked at."""
        self._new: set[int] = set()
        """Those whose auth events are not recorded yet."""
        self._places: dict[int, Place] = {}
        self._lengths: dict[int, int] = {}
        self._linked: dict[int, dict[int, int]] = {}
        """chain -> chain -> how far there its last event reaches by links"""

    async def explore(self, nids: Iterable[int]) -> None:
        """Find what these events reach and is not covered."""
        frontier = set(nids)
        while frontier:
            found: dict[int, list[int]] = {}
            for page in stored.pages(frontier):
                known = await stored.auth_events(self._db, page)
                found |= known
                fresh = [nid for nid in page if nid not in known]
                if fresh:
                    self._new.update(fresh)
                    found |= await self._named(fresh)
                await self._turns.offer()
            self._auth |= found
            # Of a covered event all ancestors have places.
            frontier = {
                one for nid, auth in found.items() if nid in self._new for one in auth
            } - self._auth.keys()
        for page in stored.pages({one for auth in self._auth.values() for one in auth}):
            self._places |= await stored.places(self._db, page)
            await self._turns.offer()

    async def _named(self, page: list[int]) -> dict[int, list[int]]:
        named = await stored.named_auth_events(self._db, page)
        wanted = sorted({one for event_ids in named.values() for one in event_ids})
        nids: dict[str, int] = {}
        for start in range(0, len(wanted), stored.PAGE):
            some = wanted[start : start + stored.PAGE]
            nids |= await stored.nids_in_room(self._db, self._room, some)
        return {
            nid: sorted({nids[one] for one in named.get(nid, ()) if one in nids} - {nid})
            for nid in page
        }

    async def steps(self) -> AsyncIterator[Step]:
        """Yield what to record, each step when the one before is durable."""
        step = Step()
        for nid in self._ancestors_first():
            # An event gets its place when the first one that names it is recorded.
            unplaced = [one for one in self._auth[nid] if one not in self._places]
            for one in unplaced:
                await self._place(one, step)
            step.auth[nid] = self._auth[nid]
            if len(step.auth) >= STEP:
                yield step
                step = Step()
                await self._turns.offer()
        if step.auth:
            yield step

    def _ancestors_first(self) -> list[int]:
        """Sort the new events so that each comes after those that it names.

        Only event IDs of old rooms, which are no hashes, can name one another in a circle: an
        event of such a circle loses the auth events that come after it.
        """
        ordered: list[int] = []
        done: set[int] = set()
        entered: set[int] = set()
        for start in sorted(self._new):
            stack = [start]
            while stack:
                nid = stack[-1]
                if nid in done:
                    stack.pop()
                    continue
                if nid in entered:
                    self._auth[nid] = [
                        one for one in self._auth[nid] if one in done or one not in self._new
                    ]
                    ordered.append(stack.pop())
                    done.add(nid)
                    continue
                entered.add(nid)
                stack += [one for one in self._auth[nid] if one in self._new and one not in entered]
        return ordered

    async def _place(self, nid: int, step: Step) -> None:
        """Put an event, whose auth events all have places, at the end of a chain."""
        auth = self._essential(self._auth[nid])
        places = [self._places[one] for one in auth]
        await self._load_chains({place.chain for place in places})
        ends = [place for place in places if place.seq == self._lengths[place.chain]]
        before = max(ends, key=lambda place: (place.seq, place.chain), default=None)
        if before is None:
            place = Place(nid, 1)
            self._linked[nid] = {}
        else:
            place = Place(before.chain, before.seq + 1)
        self._places[nid] = step.places[nid] = place
        self._lengths[place.chain] = place.seq
        linked = self._linked[place.chain]
        for target in sorted(places, key=lambda one: (one.chain, -one.seq)):
            if target.chain != place.chain and target.seq > linked.get(target.chain, 0):
                linked[target.chain] = target.seq
                step.links.append(Link(place, target))

    def _essential(self, auth: Collection[int]) -> list[int]:
        """Leave out what another one names itself: it is reached anyway."""
        named = {one for nid in auth for one in self._auth.get(nid, ())}
        return [one for one in auth if one not in named]

    async def _load_chains(self, chains: set[int]) -> None:
        missing = [chain for chain in chains if chain not in self._lengths]
        if not missing:
            return
        self._lengths |= await stored.lengths(self._db, missing)
        self._linked.update((chain, {}) for chain in missing)
        for link in await stored.links_from(self._db, missing):
            linked = self._linked[link.source.chain]
            linked[link.target.chain] = max(link.target.seq, linked.get(link.target.chain, 0))
