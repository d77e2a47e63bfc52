"""Inviting somebody of whom only an e-mail address is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from yizhan_server.protocol.signing import SigningKey
from yizhan_testing.identity_server import TOKEN

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.identity_server import IdentityServer

ADDRESS = "bob@work.example"


def by_address(directory: IdentityServer, address: str = ADDRESS) -> dict[str, Any]:
    return {
        "id_server": directory.name,
        "id_access_token": TOKEN,
        "medium": "email",
        "address": address,
    }


async def membership(person: Person, room: str, user_id: str) -> str | None:
    """Return what the room says of somebody; None when it says nothing."""
    state: Any = await person.call("GET", f"/v3/rooms/{room}/state")
    members = (event for event in state if event["type"] == "m.room.member")
    return next((e["content"]["membership"] for e in members if e["state_key"] == user_id), None)


@pytest.mark.parametrize("algorithms", [["none", "sha256"], ["none"]])
async def test_whoever_is_bound_to_the_address_is_invited(
    directory: IdentityServer, alice: Person, bob: Person, algorithms: list[str]
) -> None:
    directory.algorithms = algorithms
    directory.bound[ADDRESS] = bob.user_id
    room = await alice.creates_room()
    await alice.post(f"/v3/rooms/{room}/invite", by_address(directory, " Bob@Work.example "))
    assert await membership(alice, room, bob.user_id) == "invite"

    second = await alice.creates_room(invite_3pid=[by_address(directory)])
    assert await membership(alice, second, bob.user_id) == "invite"
    assert directory.kept == []


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_an_invitation_waits_for_whoever_proves_to_have_the_address(
    homeserver: HomeserverInProcess,
    directory: IdentityServer,
    alice: Person,
    bob: Person,
    method: str,
) -> None:
    room = await alice.creates_room(name="预算")
    await alice.post(f"/v3/rooms/{room}/invite", by_address(directory))
    (kept,) = directory.kept
    assert (kept["sender"], kept["room_id"], kept["room_name"]) == (alice.user_id, room, "预算")
    announced = await alice.get(f"/v3/rooms/{room}/state/m.room.third_party_invite/{kept['token']}")
    assert announced["display_name"] == "a...@b..."
    assert ADDRESS not in str(announced)

    await alice.leaves(room)
    status = await directory.tells_of_binding(
        homeserver.base_url, ADDRESS, bob.user_id, method=method
    )
    assert status == 200
    assert room in (await bob.syncs()).body["rooms"]["invite"]
    await bob.joins(room)
    assert await membership(bob, room, bob.user_id) == "join"


async def test_a_kept_invitation_is_nobody_elses(
    homeserver: HomeserverInProcess, directory: IdentityServer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room()
    await alice.post(f"/v3/rooms/{room}/invite", by_address(directory))
    true_key = directory.key

    directory.key = SigningKey.generate("0")
    assert await directory.tells_of_binding(homeserver.base_url, ADDRESS, bob.user_id) == 403
    directory.key, directory.stands_by_key = true_key, False
    assert await directory.tells_of_binding(homeserver.base_url, ADDRESS, bob.user_id) == 403
    directory.stands_by_key = True
    directory.kept[0]["room_id"] = "!elsewhere:test.example"
    assert await directory.tells_of_binding(homeserver.base_url, ADDRESS, bob.user_id) == 403
    assert await membership(alice, room, bob.user_id) is None


async def test_only_who_may_invite_has_anybody_written_to(
    directory: IdentityServer, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(invite=[bob], power_level_content_override={"invite": 50})
    await bob.joins(room)
    refused = await bob.refused("POST", f"/v3/rooms/{room}/invite", by_address(directory))
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert directory.kept == []


async def test_an_identity_server_that_is_not_listed_is_never_asked(
    directory: IdentityServer, alice: Person
) -> None:
    room = await alice.creates_room()
    other = {**by_address(directory), "id_server": "elsewhere.example"}
    for refused in (
        await alice.refused("POST", f"/v3/rooms/{room}/invite", other),
        await alice.refused("POST", "/v3/createRoom", {"invite_3pid": [other]}),
    ):
        assert (refused.status, refused.errcode) == (400, "M_SERVER_NOT_TRUSTED")
    wrong = {**by_address(directory), "id_access_token": "wrong"}
    refused = await alice.refused("POST", f"/v3/rooms/{room}/invite", wrong)
    assert (refused.status, refused.errcode) == (403, "M_UNAUTHORIZED")
    del wrong["id_access_token"]
    refused = await alice.refused("POST", f"/v3/rooms/{room}/invite", wrong)
    assert (refused.status, refused.errcode) == (400, "M_MISSING_PARAM")
