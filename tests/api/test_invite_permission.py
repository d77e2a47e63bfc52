"""People who take no invitations."""

from __future__ import annotations

from urllib.parse import quote

from yizhan_testing.homeserver import Person


async def sets_permission(person: Person, **content: str) -> None:
    path = f"/v3/user/{quote(person.user_id)}/account_data/m.invite_permission_config"
    await person.put(path, content)


async def test_who_blocks_invitations_cannot_be_invited(alice: Person, bob: Person) -> None:
    room = await alice.creates_room()
    waiting = await alice.creates_room(invite=[bob])
    await sets_permission(bob, default_action="block")

    member = {"membership": "invite"}
    for method, path, body in (
        ("POST", f"/v3/rooms/{quote(room)}/invite", {"user_id": bob.user_id}),
        ("PUT", f"/v3/rooms/{quote(room)}/state/m.room.member/{bob.user_id}", member),
        ("POST", "/v3/createRoom", {"invite": [bob.user_id]}),
    ):
        refused = await alice.refused(method, path, body)
        assert (refused.status, refused.errcode) == (403, "M_INVITE_BLOCKED"), path

    # What was there before is not shown by either sync, but can be found otherwise.
    assert (await bob.syncs()).body.get("rooms", {}).get("invite") is None
    sliding = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}}
    answer = await bob.post("/unstable/org.matrix.simplified_msc3575/sync", sliding)
    assert answer["rooms"] == {}
    state = await alice.get(f"/v3/rooms/{quote(waiting)}/state/m.room.member/{bob.user_id}")
    assert state["membership"] == "invite"
    await bob.joins(waiting)

    await sets_permission(bob)
    await alice.invites(room, bob)
    assert (await bob.syncs()).room(room, "invite") != {}


async def test_nobody_is_invited_by_the_first_state_of_a_room(alice: Person, bob: Person) -> None:
    await sets_permission(bob, default_action="block")
    member = {
        "type": "m.room.member", "state_key": bob.user_id, "content": {"membership": "invite"},
    }  # fmt: skip
    refused = await alice.refused("POST", "/v3/createRoom", {"initial_state": [member]})
    assert (refused.status, refused.errcode) == (403, "M_INVITE_BLOCKED")
    await sets_permission(bob)
    assert "rooms" not in (await bob.syncs()).body
    room = await alice.creates_room(initial_state=[member])
    assert (await bob.syncs()).room(room, "invite")
