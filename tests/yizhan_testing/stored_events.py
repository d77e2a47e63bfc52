"""Events in a database without a server: a DAG of auth events, and a forked room with states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from yizhan_database import Database, Transaction
from yizhan_server.protocol.event import Pdu, trust_pdu
from yizhan_server.protocol.identifiers import EventID
from yizhan_server.protocol.room_version import V2, RoomVersion
from yizhan_server.rooms.state_keys import StateKeys
from yizhan_server.rooms.state_log import point_after
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import state as stored_state
from yizhan_server.storage.events import Relation
from yizhan_server.storage.numbers import Numbers
from yizhan_server.storage.state import REMOVED, Point
from yizhan_testing.forked_room import ForkedRoom, Node
from yizhan_testing.whole_set_resolution import State

ROOM = 1


def record(tx: Transaction, nid: int, pdu: Pdu, point: Point | None = None, flags: int = 0) -> None:
    """Record an event of the room `ROOM`."""
    client, rest = stored_events.split_pdu(pdu)
    stored_events.append_event(
        tx, nid=nid, room=ROOM, pos=None, pdu=pdu, line=0 if point is None else point.line,
        seq=0 if point is None else point.seq, relation=Relation(), flags=flags, client=client,
        rest=rest,
    )  # fmt: skip


def bare_event(event_id: str, auth_events: Sequence[str]) -> Pdu:
    """Return an event of which nothing matters but what it names."""
    raw = {
        "type": "x", "sender": "@a:a.test", "state_key": "", "content": {}, "depth": 1,
        "room_id": "!r:a.test", "origin_server_ts": 1, "prev_events": [], "event_id": event_id,
        "auth_events": [[one, {}] for one in auth_events],
    }  # fmt: skip
    return trust_pdu(raw, V2, EventID(event_id))


class StoredDag:
    """Events that name one another as auth events, and what they reach, found by walking."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._numbers = count(1)
        self.auth: dict[int, list[int]] = {}

    async def adds(self, *auths: Sequence[int]) -> list[int]:
        """Record events, each with these auth events."""
        tx = Transaction()
        added = []
        for auth in auths:
            nid = next(self._numbers)
            self.auth[nid] = list(auth)
            record(tx, nid, bare_event(f"${nid}:a.test", [f"${one}:a.test" for one in auth]))
            added.append(nid)
        await self._db.commit(tx)
        return added

    def chain(self, nids: set[int]) -> set[int]:
        """Return the union of the auth chains of these events."""
        found: set[int] = set()
        waiting = list(nids)
        while waiting:
            for one in self.auth[waiting.pop()]:
                if one not in found:
                    found.add(one)
                    waiting.append(one)
        return found

    def reached(self, nids: set[int]) -> set[int]:
        """Return these events and their auth chains."""
        return nids | self.chain(nids)


class StoredRoom:
    """A forked room in a database: each event with the state after it."""

    def __init__(self, db: Database, version: RoomVersion) -> None:
        self._db = db
        self._numbers = Numbers(db)
        self.keys = StateKeys(db, self._numbers)
        self.nid = ROOM
        self.version = version
        self.points: dict[EventID, Point] = {}
        self.nids: dict[EventID, int] = {}
        self._head = Point(0, 0)

    async def stores(self, room: ForkedRoom) -> None:
        """Record all events of a room and the states after them."""
        states: dict[EventID, State] = {}
        for node in room.nodes:
            self.nids[node.event.event_id] = await self._numbers.next("event")
        for node in room.nodes:
            tx = Transaction()
            before = node.event.prev_events[0] if node.event.prev_events else None
            point = await self._point(tx, before, states.get(before, {}) if before else {}, node)
            record(tx, self.nids[node.event.event_id], node.event, point)
            await self._db.commit(tx)
            self.points[node.event.event_id] = point
            states[node.event.event_id] = node.state_after

    async def _point(
        self, tx: Transaction, parent: EventID | None, before: State, node: Node
    ) -> Point:
        if parent is None:
            line = await self._numbers.next("state_line")
            stored_state.open_line(tx, line, ROOM, None, 0)
            point = Point(line, 0)
        else:
            point = self.points[parent]
        changes = {}
        for key in sorted(before.keys() | node.state_after.keys()):
            after = node.state_after.get(key)
            if after != before.get(key):
                number = await self.keys.intern(tx, key)
                changes[number] = REMOVED if after is None else self.nids[after]
        if not changes:
            return point
        known = True if parent is None or point == self._head else None
        place = await point_after(self._db, self._numbers, tx, ROOM, point, is_line_head=known)
        stored_state.append_state(tx, place, changes)
        self._head = place
        return place

    async def state_at(self, point: Point) -> dict[int, int]:
        """Return the whole state at a point: key number -> event."""
        return await stored_state.full_state_at(self._db, point)

    async def numbered(self, state: State) -> dict[int, int]:
        """Return a state in numbers."""
        numbers = {key: await self.keys.find(key) for key in state}
        return {
            number: self.nids[state[key]] for key, number in numbers.items() if number is not None
        }
