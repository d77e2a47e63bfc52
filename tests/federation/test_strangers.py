"""A server that is not listed: nothing is asked of it or sent to it, whatever people here do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from yizhan_server.clock import SystemClock
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect
from yizhan_testing.departments import department, free_sockets
from yizhan_testing.homeserver import HomeserverInProcess, Person
from yizhan_testing.peer import Peer
from yizhan_testing.peer_rooms import PeerInRoom
from yizhan_testing.polling import until

JsonObject = dict[str, Any]


async def texts(person: Person, room: str) -> list[str]:
    page = await person.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="100")
    return [event["content"].get("body", "") for event in page["chunk"]]


async def test_what_people_here_wish_of_a_stranger_is_refused_before_anything_is_sent(
    homeserver: HomeserverInProcess, stranger: Peer, alice: Person
) -> None:
    there = stranger.name
    room = await alice.creates_room(preset="public_chat")
    elsewhere, user, alias = f"!room:{there}", f"@user:{there}", f"#alias:{there}"
    via = f"?via={quote(there)}"
    refused: list[tuple[str, str, JsonObject | None]] = [
        ("POST", f"/v3/join/{quote(elsewhere)}", {}),
        ("POST", f"/v3/join/{quote('!room')}{via}", {}),
        ("POST", f"/v3/join/{quote(alias)}", {}),
        ("POST", f"/v3/rooms/{quote(elsewhere)}/join", {}),
        ("POST", f"/v3/knock/{quote(elsewhere)}{via}", {}),
        ("POST", f"/v3/rooms/{quote(room)}/invite", {"user_id": user}),
        ("POST", "/v3/createRoom", {"invite": [user]}),
        ("GET", f"/v3/profile/{quote(user)}", None),
        ("GET", f"/v3/directory/room/{quote(alias)}", None),
        ("GET", f"/v3/publicRooms?server={quote(there)}", None),
        ("POST", f"/v3/publicRooms?server={quote(there)}", {}),
        ("GET", f"/v1/rooms/{quote(elsewhere)}/hierarchy", None),
        ("GET", f"/v1/room_summary/{quote(elsewhere)}{via}", None),
        ("GET", f"/v1/media/download/{there}/file", None),
        ("GET", f"/v1/media/thumbnail/{there}/file?width=32&height=32", None),
    ]
    for method, path, content in refused:
        answer = await alice.refused(method, path, content)
        assert answer.status in (403, 404), (path, answer.status)

    for path, content in (
        ("/v3/keys/query", {"device_keys": {user: []}}),
        ("/v3/keys/claim", {"one_time_keys": {user: {"DEVICE": "signed_curve25519"}}}),
    ):
        found = await alice.post(path, content)
        assert not found.get("device_keys")
        assert not found.get("one_time_keys")
    message = {"messages": {user: {"DEVICE": {"secret": 1}}}}
    await alice.put("/v3/sendToDevice/m.test/1", message)
    await asyncio.sleep(0)
    assert stranger.asked == []


@asynccontextmanager
async def two_departments(
    folder: Path, dialect: Dialect, authority: CertificateAuthority, guest: str
) -> AsyncIterator[tuple[HomeserverInProcess, HomeserverInProcess]]:
    """Run two that believe each other about keys; only the first lists the guest."""
    here, there = free_sockets(2)
    names = [f"127.0.0.1:{bound.getsockname()[1]}" for bound in (here, there)]
    vouching: dict[str, object] = {"federation.trusted_key_servers": names}
    folders = [folder / name for name in ("here", "there")]
    for each in folders:
        each.mkdir()
    async with (
        department(
            folders[0], dialect, names[0], here, authority, [*names, guest], SystemClock(), vouching
        ) as a,
        department(
            folders[1], dialect, names[1], there, authority, names, SystemClock(), vouching
        ) as b,
    ):
        yield a, b


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_department_sends_nothing_to_a_server_that_only_another_one_lists(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    async with two_departments(tmp_path, dialect, authority, peer.name) as (a, b):
        alice, bob = await a.person("alice"), await b.person("bob")
        room = await alice.creates_room(preset="public_chat")
        await bob.call("POST", f"/v3/join/{quote(room)}", {}, params={"via": a.server_name})
        guest = await PeerInRoom.joins(peer, a, room)
        received = guest.received()

        await bob.says(room, "from the second department")

        async def alice_reads() -> None:
            assert "from the second department" in await texts(alice, room)

        await until(alice, alice_reads)
        await alice.says(room, "from the first department")

        async def the_guest_gets_it() -> None:
            assert any("from the first department" in str(event) for event in received)

        await until(alice, the_guest_gets_it)

        async def bob_reads() -> None:
            assert "from the first department" in await texts(bob, room)

        await until(bob, bob_reads)
        # Its own events are what a server sends; the first one passes on nothing of the second.
        assert bob.user_id not in {event["sender"] for event in received}
        # The key came from the first one, which vouches for it: it was asked for by nobody else.
        assert peer.count("/_matrix/key/v2/server") == 1
