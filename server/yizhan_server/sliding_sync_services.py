"""Simplified sliding sync, wired: for `app`, which also has what it shares with the classic one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.sync.sliding.extensions import Extensions
from yizhan_server.sync.sliding.lists import RoomLists
from yizhan_server.sync.sliding.room_filters import RoomFilters
from yizhan_server.sync.sliding.room_state import RoomState
from yizhan_server.sync.sliding.rooms import RoomAnswers
from yizhan_server.sync.sliding.sliding_sync import SlidingSync

if TYPE_CHECKING:
    from yizhan_database import Database
    from yizhan_server.e2ee.device_lists import DeviceLists
    from yizhan_server.e2ee.keys import Keys
    from yizhan_server.e2ee.to_device import ToDevice
    from yizhan_server.ephemeral.counter import EphemeralCounter
    from yizhan_server.ephemeral.presence import Presence
    from yizhan_server.ephemeral.receipts import Receipts
    from yizhan_server.ephemeral.typing import Typing
    from yizhan_server.ephemeral.unread import UnreadCounts
    from yizhan_server.rooms.access import RoomAccess
    from yizhan_server.rooms.registry import Rooms
    from yizhan_server.rooms.rendering import EventRenderer
    from yizhan_server.rooms.state_keys import StateKeys
    from yizhan_server.streams import Stream
    from yizhan_server.sync.account_data import AccountDataChanges
    from yizhan_server.sync.changes import UserChanges
    from yizhan_server.sync.lazy_members import LazyMembers
    from yizhan_server.sync.sliding.connections import Connections
    from yizhan_server.sync.timelines import Timelines


def assemble_sliding_sync(
    db: Database,
    stream: Stream,
    rooms: Rooms,
    keys: StateKeys,
    access: RoomAccess,
    renderer: EventRenderer,
    connections: Connections,
    *,
    changes: UserChanges,
    account_data: AccountDataChanges,
    timelines: Timelines,
    lazy_members: LazyMembers,
    receipts: Receipts,
    unread: UnreadCounts,
    counter: EphemeralCounter,
    typing: Typing,
    presence: Presence,
    to_device: ToDevice,
    device_lists: DeviceLists,
    e2ee_keys: Keys,
) -> SlidingSync:
    """Build the service."""
    return SlidingSync(
        stream,
        changes,
        account_data,
        receipts,
        counter,
        presence,
        connections,
        RoomLists(db, access, rooms, RoomFilters(db, keys, rooms, account_data)),
        RoomAnswers(
            db, rooms, access, changes, RoomState(db, keys), renderer, timelines, unread,
            lazy_members,
        ),
        Extensions(
            stream, rooms, changes, account_data, receipts, typing, to_device, device_lists,
            e2ee_keys,
        ),
    )  # fmt: skip
