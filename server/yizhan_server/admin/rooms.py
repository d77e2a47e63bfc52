"""Acts of administrators upon rooms. Each is on the record.

Who administers the server has no power in a room by that: what is written into it is written in the
name of somebody who has the power.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from yizhan_database import Database, Transaction
from yizhan_server.admin.gate import Administrator, get_account
from yizhan_server.flows.room_removal import Closing, Explanation
from yizhan_server.protocol.errors import InvalidParam, MatrixError, NotFound
from yizhan_server.protocol.power_levels import CREATOR_LEVEL
from yizhan_server.rooms.join_rules import join_rule_of
from yizhan_server.rooms.power import current_power_levels
from yizhan_server.rooms.room import LATEST, Room
from yizhan_server.rooms.writer import Draft
from yizhan_server.storage import events as stored_events
from yizhan_server.storage import room_blocks as stored_blocks
from yizhan_server.storage import room_list as storage
from yizhan_server.storage import rooms as stored_rooms
from yizhan_server.storage import state as stored_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_server.accounts.accounts import Accounts
    from yizhan_server.admin.record import Record
    from yizhan_server.admin.tasks import Task, Tasks
    from yizhan_server.clock import Clock
    from yizhan_server.flows.room_removal import RoomRemoval
    from yizhan_server.protocol.identifiers import UserID
    from yizhan_server.rooms.aliases import Aliases
    from yizhan_server.rooms.history_purge import HistoryPurge
    from yizhan_server.rooms.members import Members
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.rooms.rendering import EventRenderer
    from yizhan_server.rooms.writer import EventWriter
    from yizhan_server.storage.room_list import ListedRoom

JsonObject = dict[str, Any]

YIELD_EVERY = 20
"""Rooms of a list that are described before other requests get their turn."""

PURGE = "purge"
REMOVAL = "removal"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalWish:
    """How a room is to be removed."""

    explanation: Explanation | None = None
    block: bool = False
    purge: bool = True
    force_purge: bool = False


class RoomAdministration:
    """What an administrator may do to rooms."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        record: Record,
        tasks: Tasks,
        *,
        accounts: Accounts,
        rooms: Rooms,
        members: Members,
        writer: EventWriter,
        renderer: EventRenderer,
        aliases: Aliases,
        history_purge: HistoryPurge,
        removal: RoomRemoval,
    ) -> None:
        self._db = db
        self._clock = clock
        self._record = record
        self._tasks = tasks
        self._accounts = accounts
        self._rooms = rooms
        self._members = members
        self._writer = writer
        self._renderer = renderer
        self._aliases = aliases
        self._history_purge = history_purge
        self._removal = removal

    # region looking

    async def list_rooms(self) -> list[JsonObject]:
        """Return what a list shows of every room."""
        listed = [each async for each in storage.scan_listed_rooms(self._db)]
        described = []
        for index, each in enumerate(listed):
            if index % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            room = await self._rooms.find(each.room_id)
            if room is not None:
                described.append(await _describe(room, each))
        return described

    async def details(self, room_id: str) -> JsonObject:
        """Return everything that is shown of one room."""
        room = await self._rooms.get(room_id)
        listed = await storage.find_listed_room(self._db, room.nid)
        if listed is None:
            raise NotFound("This server does not know the room")
        tombstone = await _content(room, "m.room.tombstone")
        return {
            **await _describe(room, listed),
            "avatar": _text((await _content(room, "m.room.avatar")).get("url")),
            "topic": _text((await _content(room, "m.room.topic")).get("topic")),
            "joined_local_devices": await storage.count_devices(self._db, room.nid),
            "forgotten": await storage.is_forgotten(self._db, room.nid),
            "tombstoned": bool(tombstone),
            "replacement_room": _text(tombstone.get("replacement_room")),
        }

    async def joined_members(self, room_id: str) -> list[str]:
        """Return who is joined to a room."""
        room = await self._rooms.get(room_id)
        return sorted(await stored_rooms.members(self._db, room.nid, "join"))

    async def state(
        self, administrator: Administrator, room_id: str, kind: str | None
    ) -> Sequence[bytes]:
        """Return the current state of a room; that somebody looked goes on the record."""
        room = await self._rooms.get(room_id)
        await self._record.note(administrator.user_id, "read_state", room_id)
        if kind is None:
            nids = list((await stored_state.current_state(self._db, room.nid, LATEST)).values())
        else:
            nids = await stored_state.current_state_of_type(self._db, room.nid, kind)
        events = await stored_events.events_by_nid(self._db, nids)
        return await self._renderer.render_plain(room, list(events.values()))

    async def resolve(self, room_id_or_alias: str) -> str:
        """Return the id of a room that is named either way, or answer M_NOT_FOUND."""
        if room_id_or_alias.startswith("#"):
            return await self._aliases.resolve(room_id_or_alias)
        return room_id_or_alias

    # region members and powers

    async def join(self, administrator: Administrator, user_id: UserID, room_id: str) -> None:
        """Make somebody of this server join: by the rules, or invited by the administrator."""
        await get_account(self._accounts, user_id)
        room = await self._rooms.get(room_id)
        await self._record.note(administrator.user_id, "join", user_id, {"room": room_id})
        if (
            await join_rule_of(room) != "public"
            and await room.membership(user_id) not in ("join", "invite")
            and user_id != administrator.user_id
        ):
            await self._members.invite(room, administrator.user_id, user_id)
        await self._members.join(user_id, room_id, None, {})

    async def make_room_admin(
        self, administrator: Administrator, user_id: UserID, room_id: str
    ) -> None:
        """Give somebody the highest power that anybody of this server has in the room.

        In the name of who has it. Whoever is not in the room, and cannot simply join, is invited.
        """
        await get_account(self._accounts, user_id)
        room = await self._rooms.get(room_id)
        levels = await current_power_levels(room)
        mightiest = max(
            await room.local_users(), key=lambda user: (levels.of_user(user), user), default=None
        )
        needed = levels.to_send("m.room.power_levels", is_state=True)
        if mightiest is None or levels.of_user(mightiest) < needed:
            raise MatrixError(400, "M_UNKNOWN", "Nobody of this server has the power in that room")
        await self._record.note(
            administrator.user_id, "make_room_admin", user_id, {"room": room_id, "by": mightiest}
        )
        if levels.of_user(user_id) < levels.of_user(mightiest):
            content = dict(await _content(room, "m.room.power_levels"))
            level = levels.of_user(mightiest)
            # Creators stand above all levels, and can hand out no such thing.
            level = max(100, needed) if level == CREATOR_LEVEL else level
            users = content.get("users")
            content["users"] = {**(users if isinstance(users, dict) else {}), user_id: level}
            await self._writer.send(room, Draft(mightiest, "m.room.power_levels", content, ""))
        if (
            await room.membership(user_id) not in ("join", "invite")
            and await join_rule_of(room) != "public"
        ):
            await self._members.invite(room, mightiest, user_id)

    # region blocking, purging and removing

    async def find_block(self, room_id: str) -> str | None:
        """Return who blocked a room, or None."""
        return await stored_blocks.find_block(self._db, room_id) or None

    async def set_blocked(
        self, administrator: Administrator, room_id: str, *, is_blocked: bool
    ) -> None:
        """Keep everybody of this server out of a room, known or not, or no longer."""
        entry = await self._record.begin(
            administrator.user_id, "block_room" if is_blocked else "unblock_room"
        )
        tx = Transaction()
        if is_blocked:
            stored_blocks.replace_block(tx, room_id, administrator.user_id, self._clock.now_ms())
        else:
            stored_blocks.delete_block(tx, room_id)
        entry(tx, room_id)
        await self._db.commit(tx)

    async def purge_history(
        self,
        administrator: Administrator,
        room_id: str,
        *,
        event_id: str | None,
        ts_ms: int | None,
        local_too: bool,
    ) -> Task:
        """Begin to remove what precedes an event, or a time."""
        room = await self._rooms.get(room_id)
        if event_id is not None:
            before = await self._history_purge.find_event(room, event_id)
        elif ts_ms is not None:
            before = await self._history_purge.find_first_after(room, ts_ms)
        else:
            raise InvalidParam("'purge_up_to_event_id' or 'purge_up_to_ts' is needed")
        self._tasks.check_idle(room_id)
        await self._record.note(
            administrator.user_id, "purge_history", room_id,
            {"before": before.event_id, "local_too": local_too},
        )  # fmt: skip
        task = self._tasks.begin(PURGE, room_id)
        self._tasks.start(task, self._history_purge.purge(room, before, local_too=local_too))
        return task

    async def begin_removal(
        self, administrator: Administrator, room_id: str, wish: RemovalWish, *, wait: bool
    ) -> Task:
        """Close a room and remove it, in the background unless `wait`."""
        room = await self._rooms.get(room_id)
        if wish.explanation is not None:
            speaker = await get_account(self._accounts, wish.explanation.speaker)
            if speaker.is_deactivated:
                raise NotFound("There is no such user in use")
        self._tasks.check_idle(room_id)
        await self._record.note(
            administrator.user_id, "remove_room", room_id,
            {"block": wish.block, "purge": wish.purge},
        )  # fmt: skip
        task = self._tasks.begin(REMOVAL, room_id, Closing())
        work = self._remove(administrator, room, wish, task)
        if wait:
            await self._tasks.run(task, work)
        else:
            self._tasks.start(task, work)
        return task

    async def _remove(
        self, administrator: Administrator, room: Room, wish: RemovalWish, task: Task
    ) -> None:
        assert task.closing is not None, "a removal has it"
        if wish.block:
            await self.set_blocked(administrator, room.room_id, is_blocked=True)
        await self._removal.close(room, task.closing, wish.explanation)
        if not wish.purge:
            return
        if task.closing.stuck and not wish.force_purge:
            raise MatrixError(400, "M_UNKNOWN", "Some people of this server are still in the room")
        await self._removal.begin(room.room_id)
        await self._removal.remove(room.room_id)

    def find_task(self, task_id: str, kind: str) -> Task:
        """Return a task, or answer M_NOT_FOUND."""
        task = self._tasks.find(task_id, kind)
        if task is None:
            raise NotFound("There is no such task, or it has been forgotten")
        return task

    def tasks_of(self, room_id: str, kind: str) -> list[Task]:
        """Return the tasks of a room, or answer M_NOT_FOUND when there are none."""
        tasks = self._tasks.of_room(room_id, kind)
        if not tasks:
            raise NotFound("There are no such tasks of this room")
        return tasks


_TEXTS = {
    "name": ("m.room.name", "name"),
    "canonical_alias": ("m.room.canonical_alias", "alias"),
    "encryption": ("m.room.encryption", "algorithm"),
    "join_rules": ("m.room.join_rules", "join_rule"),
    "guest_access": ("m.room.guest_access", "guest_access"),
    "history_visibility": ("m.room.history_visibility", "history_visibility"),
    "room_type": ("m.room.create", "type"),
}


async def _describe(room: Room, listed: ListedRoom) -> JsonObject:
    create = await room.state_event("m.room.create")
    shown: JsonObject = {
        "room_id": room.room_id,
        "joined_members": listed.joined,
        "joined_local_members": len(await room.local_users()),
        "version": room.version.identifier,
        "creator": None if create is None else create.pdu.sender,
        "federatable": create is None or create.pdu.content.get("m.federate") is not False,
        "public": listed.is_published,
        "state_events": listed.state_events,
    }
    for name, (kind, key) in _TEXTS.items():
        shown[name] = _text((await _content(room, kind)).get(key))
    return shown


async def _content(room: Room, kind: str) -> JsonObject:
    event = await room.state_event(kind)
    return {} if event is None else event.pdu.content


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
