"""What somebody wrote who asked for erasure is not told to those who come later."""

from __future__ import annotations

from urllib.parse import quote

from yizhan_testing.homeserver import HomeserverInProcess, Person


async def test_who_comes_later_learns_nothing_of_what_was_erased(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    carol = await homeserver.person("carol")
    await bob.put(f"/v3/profile/{quote(bob.user_id)}/displayname", {"displayname": "Robert Real"})
    room = await alice.creates_room(preset="public_chat")
    await bob.joins(room)
    await bob.says(room, "confession")
    password = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}}
    await bob.post(
        "/v3/account/deactivate",
        {"erase": True, "auth": {**password, "password": bob.password}},
    )
    await carol.joins(room)
    path = f"/v3/rooms/{quote(room)}"
    for what in (f"{path}/messages?dir=b&limit=100", f"{path}/state", f"{path}/members",
                 "/v3/sync", "/v3/initialSync"):  # fmt: skip
        seen = str(await carol.get(what))
        assert bob.user_id in seen
        assert "Robert Real" not in seen, what
        assert "confession" not in seen, what
    wish = {"search_term": "confession"}
    for person, count in ((alice, 1), (carol, 0)):
        found = await person.post("/v3/search", {"search_categories": {"room_events": wish}})
        assert len(found["search_categories"]["room_events"]["results"]) == count
        assert found["search_categories"]["room_events"]["count"] == count
