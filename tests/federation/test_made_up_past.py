"""Events that somebody has made up just now, and that are said to be of the past."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from yizhan_testing.peer_rooms import V1, PeerInRoom, path_of
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer


@pytest.mark.parametrize("way", ["live", "behind a gap"])
async def test_who_is_no_moderator_any_more_redacts_nothing_out_of_the_past(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, way: str
) -> None:
    room = await alice.creates_room(preset="public_chat", room_version="11")
    guest_id = f"@guest:{peer.name}"
    powers = {alice.user_id: 100, guest_id: 60}
    await alice.sets(room, "m.room.power_levels", {"users": powers})
    said = await alice.says(room, "stays")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    sent = guest.received()
    await alice.sets(room, "m.room.power_levels", {"users": {alice.user_id: 100}})

    async def is_told() -> None:
        assert [event for event in sent if event["type"] == "m.room.power_levels"]

    await until(alice, is_told)
    before = guest.last
    redaction = guest.builds("m.room.redaction", {"redacts": said})
    if way == "live":
        await guest.sends(redaction)
    else:
        guest.gives_state()
        after = guest.says("look", after=[*before, redaction])
        await guest.sends(after)
        await alice.get(path_of("/v3/rooms", room, "messages"), dir="b")
    shown = await alice.get(path_of("/v3/rooms", room, "event", said))
    assert shown["content"]["body"] == "stays"
