"""What administrators are told about other servers."""

from __future__ import annotations

from yizhan_testing.homeserver import HomeserverInProcess, Person
from yizhan_testing.peer import Peer
from yizhan_testing.peer_rooms import PeerInRoom
from yizhan_testing.polling import until


async def test_administrators_see_who_does_not_answer_and_is_owed_something(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    admin = await homeserver.person("admin", admin=True)
    path = "/_synapse/admin/v1/federation/destinations"
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    guest.received()

    async def all_is_well() -> None:
        (entry,) = (await admin.get(path))["destinations"]
        assert entry["destination"] == peer.name
        assert entry["failure_ts"] is None
        assert entry["last_successful_stream_ordering"] is None

    await until(alice, all_is_well)
    peer.is_down = True
    await alice.says(room, "is anybody there?")

    async def it_does_not_answer() -> None:
        (entry,) = (await admin.get(path))["destinations"]
        assert (entry["failure_ts"] or 0) > 0
        assert entry["retry_interval"] >= 10_000
        assert (entry["last_successful_stream_ordering"] or 0) > 0

    await until(alice, it_does_not_answer)
