"""Presence of people who have just begun to share a room with another server.

Changes of presence are told as they happen, to the servers of that time. What has not changed
since then a server learns here, when somebody of ours comes into a room of its, or its first user
into a room of ours. Nothing of this need arrive, so nothing of it is stored.

Spec: server-server API, "Presence".
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import ServerName, UserID
from yizhan_server.storage import room_servers as storage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yizhan_database import Database
    from yizhan_server.clock import Clock
    from yizhan_server.ephemeral.presence import Presence
    from yizhan_server.federation.ephemeral_edus import EphemeralTelling
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.rooms.room import Room
    from yizhan_server.streams import Stream

ROOMS_AT_ONCE = 100
MAX_EARLY = 1000
EARLY_MS = 60_000


class EarlyPresence:
    """What was said of people of whom it is not known yet that they share a room with us.

    Whoever lets us into a room knows so before we do, and speaks at once.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: OrderedDict[UserID, tuple[int, str, str | None, int]] = OrderedDict()

    def keep(self, user_id: UserID, state: str, status: str | None, ago_ms: int) -> None:
        """Keep the latest of each for a minute; of too many the oldest give way."""
        self._said.pop(user_id, None)
        self._said[user_id] = (self._clock.now_ms(), state, status, ago_ms)
        if len(self._said) > MAX_EARLY:
            self._said.popitem(last=False)

    def users(self) -> list[UserID]:
        """Return of whom something is kept."""
        start = self._clock.now_ms() - EARLY_MS
        while self._said and next(iter(self._said.values()))[0] < start:
            self._said.popitem(last=False)
        return list(self._said)

    def take(self, user_id: UserID, presence: Presence) -> None:
        """Believe what was said of somebody."""
        said = self._said.pop(user_id, None)
        if said is not None:
            presence.receive(user_id, *said[1:])


class NewlyShared:
    """Follows the stream."""

    def __init__(
        self,
        db: Database,
        stream: Stream,
        rooms: Rooms,
        presence: Presence,
        telling: EphemeralTelling,
        early: EarlyPresence,
        server_name: ServerName,
    ) -> None:
        self._db = db
        self._stream = stream
        self._rooms = rooms
        self._presence = presence
        self._telling = telling
        self._early = early
        self._server_name = server_name

    async def run(self) -> None:
        """Tell and hear of those who begin to share a room from now on; in the background."""
        await self._stream.follow_from_now(self._look)

    async def _look(self, after: int, upto: int) -> None:
        nids = await storage.rooms_joined_within(self._db, after, upto)
        iterator = iter(nids)
        while portion := list(islice(iterator, ROOMS_AT_ONCE)):
            for room in (await self._rooms.by_nid(portion)).values():
                await self._tell(room, after)
        if nids:
            for user_id in self._early.users():
                if await storage.is_in_room_with(self._db, self._server_name, user_id):
                    self._early.take(user_id, self._presence)

    async def _tell(self, room: Room, after: int) -> None:
        stays = await storage.stays_now(self._db, room.nid)
        others = {server for server in stays if server != self._server_name}
        if not others:
            return
        here = self._presence.present() & await room.local_users()
        if not here:
            return
        arrived = {server for server in others if stays[server] > after}
        self._tell_of(here, arrived)
        joined = await storage.joined_after(self._db, room.nid, here, after)
        self._tell_of(joined, others - arrived)

    def _tell_of(self, users: Iterable[str], servers: Iterable[str]) -> None:
        names = [ServerName(server) for server in servers]
        for user_id in map(UserID, users):
            self._telling.presence_to(names, user_id, self._presence.get(user_id))
