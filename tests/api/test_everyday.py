"""What every room knows: members, bans, aliases, relations, markers, presence."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from yizhan_testing.homeserver import Person


async def test_members_are_listed_by_their_membership(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob], name="例会")
    path = f"/v3/rooms/{quote(room)}"

    async def members(**wanted: str) -> dict[str, str]:
        chunk = (await alice.get(f"{path}/members", **wanted))["chunk"]
        return {event["state_key"]: event["content"]["membership"] for event in chunk}

    both = {alice.user_id: "join", bob.user_id: "invite"}
    assert await members() == both
    assert await members(membership="invite") == {bob.user_id: "invite"}
    assert await members(not_membership="invite") == {alice.user_id: "join"}
    before = (await alice.syncs()).next_batch
    await bob.joins(room)
    assert await members(membership="join") == dict.fromkeys(both, "join")
    assert await members(at=before) == both

    await bob.put(f"/v3/profile/{bob.user_id}/avatar_url", {"avatar_url": "mxc://test.example/b"})
    joined = (await alice.get(f"{path}/joined_members"))["joined"]
    assert joined == {
        alice.user_id: {"display_name": "alice"},
        bob.user_id: {"display_name": "bob", "avatar_url": "mxc://test.example/b"},
    }
    assert (await bob.get("/v3/joined_rooms"))["joined_rooms"] == [room]
    await bob.leaves(room)
    assert (await bob.get("/v3/joined_rooms"))["joined_rooms"] == []
    assert (await bob.refused("GET", f"{path}/joined_members")).errcode == "M_FORBIDDEN"


async def test_a_ban_keeps_out_until_it_is_lifted(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat")
    path = f"/v3/rooms/{quote(room)}"
    await bob.joins(room)
    await alice.post(f"{path}/ban", {"user_id": bob.user_id, "reason": "广告"})
    member = await alice.get(f"{path}/state/m.room.member/{bob.user_id}")
    assert member == {"membership": "ban", "reason": "广告"}
    assert (await bob.refused("POST", f"/v3/join/{quote(room)}", {})).errcode == "M_FORBIDDEN"
    refused = await bob.refused("POST", f"{path}/unban", {"user_id": bob.user_id})
    assert refused.errcode == "M_FORBIDDEN"
    await alice.post(f"{path}/unban", {"user_id": bob.user_id})
    await bob.joins(room)


async def test_a_room_has_aliases_and_may_be_listed(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(room_alias_name="hall")
    alias, listing = "#hall:test.example", f"/v3/directory/list/room/{quote(room)}"
    assert (await alice.get(f"/v3/rooms/{quote(room)}/aliases"))["aliases"] == [alias]
    refused = await bob.refused("GET", f"/v3/rooms/{quote(room)}/aliases")
    assert refused.errcode == "M_FORBIDDEN"
    found = await bob.get(f"/v3/directory/room/{quote(alias)}")
    assert found == {"room_id": room, "servers": ["test.example"]}

    assert await alice.get(listing) == {"visibility": "private"}
    assert (await bob.refused("PUT", listing, {"visibility": "public"})).errcode == "M_FORBIDDEN"
    await alice.put(listing, {"visibility": "public"})
    assert await bob.get(listing) == {"visibility": "public"}
    rooms = (await bob.get("/v3/publicRooms"))["chunk"]
    assert [each["room_id"] for each in rooms] == [room]


async def test_related_events_are_found_by_kind_and_type(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    said = await alice.says(room, "周五聚餐？")
    liked = await bob.sends(
        room,
        "m.reaction",
        {"m.relates_to": {"rel_type": "m.annotation", "event_id": said, "key": "👍"}},
    )
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": said}}
    answers = [await bob.says(room, text, **thread) for text in ("好", "几点？")]
    path = f"/v1/rooms/{quote(room)}/relations/{quote(said)}"

    async def found(more: str = "", **params: str) -> list[str]:
        page = await alice.get(path + more, **params)
        return [event["event_id"] for event in page["chunk"]]

    assert await found() == [*reversed(answers), liked]
    assert await found(dir="f") == [liked, *answers]
    assert await found("/m.thread") == list(reversed(answers))
    assert await found("/m.annotation/m.reaction") == [liked]
    assert await found("/m.annotation/m.room.message") == []
    page = await alice.get(path, limit="2")
    assert await found(**{"from": page["next_batch"]}) == [liked]


async def test_how_far_somebody_has_read_is_marked(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    first, second = [await alice.says(room, text) for text in ("一", "二")]
    await alice.syncs()
    await bob.post(
        f"/v3/rooms/{quote(room)}/read_markers", {"m.fully_read": first, "m.read": second}
    )
    marker = f"/v3/user/{bob.user_id}/rooms/{quote(room)}/account_data/m.fully_read"
    assert await bob.get(marker) == {"event_id": first}
    (receipt,) = (await alice.syncs()).room(room)["ephemeral"]["events"]
    assert list(receipt["content"]) == [second]
    counts = (await bob.syncs()).room(room)["unread_notifications"]
    assert counts["notification_count"] == 0


async def test_presence_is_seen_by_those_who_share_a_room(alice: Person, bob: Person) -> None:
    path = f"/v3/presence/{alice.user_id}/status"
    await alice.put(path, {"presence": "unavailable", "status_msg": "开会"})
    assert (await bob.refused("GET", path)).errcode == "M_FORBIDDEN"
    room = await alice.creates_room(invite=[bob])
    await bob.joins(room)
    shown = await bob.get(path)
    assert (shown["presence"], shown["status_msg"]) == ("unavailable", "开会")
    assert (await bob.refused("PUT", path, {"presence": "online"})).errcode == "M_FORBIDDEN"
