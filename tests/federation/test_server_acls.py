"""A room shuts servers out: `m.room.server_acl`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio

from yizhan_server.api.all_routes import ROUTES
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.peer import Peer, federating, open_peer
from yizhan_testing.peer_rooms import V1, V2, PeerInRoom, path_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.databases import Dialect

ACL = "m.room.server_acl"
NO_LITERALS = {"allow": ["*"], "allow_ip_literals": False}
"""Shuts out every peer of a test, whose names are addresses, and not the homeserver."""

# Server-server API, "Server Access Control Lists (ACLs)".
PROTECTED = (
    f"{V1}/make_join/", f"{V1}/make_leave/", f"{V1}/send_join/", f"{V2}/send_join/",
    f"{V1}/send_leave/", f"{V2}/send_leave/", f"{V1}/invite/", f"{V2}/invite/",
    f"{V1}/make_knock/", f"{V1}/send_knock/", f"{V1}/state/", f"{V1}/state_ids/",
    f"{V1}/backfill/", f"{V1}/event_auth/", f"{V1}/get_missing_events/",
)  # fmt: skip

Question = tuple[str, str, dict[str, Any] | None]


def questions(guest: PeerInRoom, invited: str) -> list[Question]:
    """Return a request to each of those endpoints that a server in the room may make."""
    room, event_id = guest.room, guest.last[0].event_id
    # A copy builds it, so that nothing follows an invitation that nobody sends.
    inviter = replace(guest, last=guest.last, events={})
    invite = inviter.builds(
        "m.room.member", {"membership": "invite"}, invited, origin=guest.peer.name
    )
    other = f"@other:{guest.peer.name}"
    versions = f"?ver={guest.version.identifier}"
    found: list[Question] = []
    for route in (route for module in ROUTES for route in module.routes):
        if not route.path.startswith(PROTECTED):
            continue
        prefix = "/".join(route.path.split("/")[:5])
        kind = prefix.rpartition("/")[2]
        content: dict[str, Any] | None = None if route.method == "GET" else {}
        match kind:
            case "make_join" | "make_leave":
                path = path_of(prefix, room, guest.user_id) + versions
            case "make_knock":
                path = path_of(prefix, room, other) + versions
            case "invite":
                path = path_of(prefix, room, invite.event_id)
                content = invite.raw
                if prefix.startswith(V2):
                    content = {"event": invite.raw, "room_version": guest.version.identifier}
            case "state" | "state_ids":
                path = path_of(prefix, room) + f"?event_id={quote(event_id)}"
            case "backfill":
                path = path_of(prefix, room) + f"?v={quote(event_id)}"
            case "get_missing_events":
                path = path_of(prefix, room)
                content = {"earliest_events": [], "latest_events": [event_id]}
            case _:
                path = path_of(prefix, room, event_id)
        found.append((route.method, path, content))
    return found


async def test_a_server_that_is_shut_out_is_refused_wherever_the_specification_says(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    await alice.sets(room, "m.room.join_rules", {"join_rule": "knock"})
    asked = questions(guest, bob.user_id)
    assert {path.split("/")[4] for _, path, _ in asked} == {
        prefix.split("/")[4] for prefix in PROTECTED
    }
    for method, path, content in asked:
        answer = await peer.asks(homeserver, method, path, content)
        assert answer.status != 403, (path, answer.content)

    await alice.sets(room, ACL, NO_LITERALS)
    for method, path, content in asked:
        answer = await peer.asks(homeserver, method, path, content)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), path


async def test_a_transaction_is_looked_at_event_by_event(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    closed = await alice.creates_room(preset="public_chat")
    open_room = await alice.creates_room(preset="public_chat")
    here = await PeerInRoom.joins(peer, homeserver, open_room)
    there = await PeerInRoom.joins(peer, homeserver, closed)
    await alice.sets(closed, ACL, NO_LITERALS)

    refused, taken = there.says("let me in"), here.says("hello")
    results = await here.sends(refused, taken)
    assert results[taken.event_id] == {}
    assert "shut out" in results[refused.event_id]["error"]
    assert "let me in" not in str(await messages(alice, closed))
    assert "hello" in str(await messages(alice, open_room))

    # The room opens again, and the same event is taken: what was refused was not remembered.
    await alice.sets(closed, ACL, {"allow": ["*"]})
    assert await here.sends(refused) == {refused.event_id: {}}
    assert "let me in" in str(await messages(alice, closed))


async def messages(person: Person, room: str) -> list[Any]:
    page = await person.get(f"/v3/rooms/{quote(room, safe='')}/messages", dir="b", limit="50")
    found: list[Any] = page["chunk"]
    return found


@pytest_asyncio.fixture
async def other_peer(authority: CertificateAuthority) -> AsyncIterator[Peer]:
    """One of another host: the port does not count in an ACL."""
    async with open_peer(authority, host="127.0.0.2") as server:
        yield server


async def test_what_counts_is_who_sends_and_not_whose_event_it_is(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer, other_peer: Peer
) -> None:
    settings = federating(authority, peer, other_peer) | {
        "federation.private_addresses": ["127.0.0.0/8"]
    }
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        alice = await homeserver.person("alice")
        room = await alice.creates_room(preset="public_chat")
        denied = await PeerInRoom.joins(peer, homeserver, room)
        allowed = await PeerInRoom.joins(other_peer, homeserver, room)
        await alice.sets(room, ACL, {"allow": ["*"], "deny": ["127.0.0.1"]})

        # Said before by the one that is shut out now, and passed on by another server.
        denied.last = allowed.last
        passed_on = denied.says("passed on")
        assert await allowed.sends(passed_on) == {passed_on.event_id: {}}
        assert "passed on" in str(await messages(alice, room))

        said = allowed.says("through the closed door")
        assert "error" in (await denied.sends(said))[said.event_id]
        assert "closed door" not in str(await messages(alice, room))
        assert await allowed.sends(said) == {said.event_id: {}}
