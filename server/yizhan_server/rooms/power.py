"""The power levels of a room's state, as far as it is known where it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from yizhan_server.protocol.power_levels import PowerLevels
from yizhan_server.protocol.room_version import RoomVersion
from yizhan_server.rooms.room import Room, StateEvent
from yizhan_server.storage.state import StateKey

StateSource = Callable[[StateKey], Awaitable[StateEvent | None]]
"""Gives state events: of the committed state, or of a tail that is being built."""


async def power_levels_in(state: StateSource, version: RoomVersion) -> PowerLevels:
    """Return the levels of a state."""
    create = await state(("m.room.create", ""))
    levels = await state(("m.room.power_levels", ""))
    return PowerLevels(
        None if create is None else create.pdu, None if levels is None else levels.pdu, version
    )


async def current_power_levels(room: Room) -> PowerLevels:
    """Return the levels of the committed current state."""
    return await power_levels_in(lambda key: room.state_event(*key), room.version)
