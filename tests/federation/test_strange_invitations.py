"""Invitations whose content is JSON that others can hardly spell: nobody's sync fails for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from yizhan_server.protocol.canonical_json import MAX_NESTING, encode_any
from yizhan_server.protocol.hashes import event_id_of
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.protocol.signing import hash_and_sign_event
from yizhan_testing.peer_rooms import V2, path_of
from yizhan_testing.sliding_client import SlidingClient, room_list

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Answered, Peer

JsonObject = dict[str, Any]


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


async def invites(
    peer: Peer,
    homeserver: HomeserverInProcess,
    person: Person,
    version: str,
    content: JsonObject,
    told: JsonObject,
) -> Answered:
    room_id = f"!strange:{peer.name}"
    sender = f"@owner:{peer.name}"
    event = {
        "type": "m.room.member", "sender": sender, "state_key": person.user_id,
        "content": {"membership": "invite", **content}, "room_id": room_id, "depth": 9,
        "origin": peer.name, "origin_server_ts": 1, "prev_events": [], "auth_events": [],
    }  # fmt: skip
    raw = hash_and_sign_event(event, ROOM_VERSIONS[version], peer.name, peer.key)
    event_id = event_id_of(raw, ROOM_VERSIONS[version])
    name = {"type": "m.room.name", "sender": sender, "state_key": "", "content": told}
    body = {"event": raw, "room_version": version, "invite_room_state": [name]}
    path = path_of(f"{V2}/invite", room_id, event_id)
    return await peer.asks(homeserver, "PUT", path, body, body=encode_any(body))


@pytest.mark.parametrize(
    ("version", "content", "told", "status"),
    [
        ("5", {"n": 2**70, "x": 0.5}, {"n": -(10**400), "x": 0.5}, 200),
        ("11", {}, {"n": 2**70}, 200),
        ("11", {}, {"n": nested(245)}, 200),
        ("11", {"n": nested(MAX_NESTING - 2)}, {"n": nested(MAX_NESTING - 1)}, 200),
        ("5", {"n": nested(300)}, {}, 400),
    ],
)
async def test_nobody_is_kept_from_syncing_by_an_invitation(
    peer: Peer,
    homeserver: HomeserverInProcess,
    bob: Person,
    version: str,
    content: JsonObject,
    told: JsonObject,
    status: int,
) -> None:
    await bob.syncs()
    answer = await invites(peer, homeserver, bob, version, content, told)
    assert answer.status == status, answer.content
    room = f"!strange:{peer.name}"
    client = SlidingClient(bob, {"lists": {"all": room_list()}})
    await bob.get("/v3/initialSync")
    shown = await client.syncs()
    assert (room in shown.rooms) == (status == 200)
    for _ in range(2):
        sync = await bob.syncs()
        if status == 200:
            assert sync.room(room, "invite")["invite_state"]["events"]
        bob.since = None
