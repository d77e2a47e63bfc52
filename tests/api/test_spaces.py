"""Spaces, summaries, and who may join restricted rooms."""

from __future__ import annotations

from urllib.parse import quote

from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person

SPACE = {"type": "m.space"}


def restricted_to(*rooms: str, knock: bool = False) -> list[JsonObject]:
    allow = [{"type": "m.room_membership", "room_id": room} for room in rooms]
    rule = "knock_restricted" if knock else "restricted"
    return [{"type": "m.room.join_rules", "content": {"join_rule": rule, "allow": allow}}]


async def adds(person: Person, space: str, room: str, **content: object) -> None:
    await person.sets(space, "m.space.child", {"via": ["test.example"], **content}, room)


async def tree(person: Person, space: str, **params: str) -> list[str]:
    """The names of all pages."""
    names = []
    while True:
        page = await person.get(f"/v1/rooms/{quote(space)}/hierarchy", **params)
        names += [room.get("name", "?") for room in page["rooms"]]
        if "next_batch" not in page:
            return names
        params["from"] = page["next_batch"]


async def test_a_tree_is_walked_depth_first_in_its_order(alice: Person) -> None:
    root = await alice.creates_room(name="机关", creation_content=SPACE)
    office = await alice.creates_room(name="办公室", creation_content=SPACE)
    duty = await alice.creates_room(name="值班")
    typing = await alice.creates_room(name="文印")
    last = await alice.creates_room(name="食堂")
    await adds(alice, root, last)
    await adds(alice, root, office, order="a", suggested=True)
    await adds(alice, office, duty, suggested=True)
    await adds(alice, office, typing)
    # A loop, a room of nobody, and a child that was taken out again.
    await adds(alice, office, root)
    await adds(alice, root, "!nowhere:elsewhere.example")
    removed = await alice.creates_room(name="撤销")
    await adds(alice, root, removed)
    await alice.sets(root, "m.space.child", {}, removed)

    everything = ["机关", "办公室", "值班", "文印", "食堂"]
    assert await tree(alice, root) == everything
    assert await tree(alice, root, limit="2") == everything
    assert await tree(alice, root, max_depth="1") == ["机关", "办公室", "食堂"]
    assert await tree(alice, root, suggested_only="true") == ["机关", "办公室", "值班"]

    first = (await alice.get(f"/v1/rooms/{quote(root)}/hierarchy", limit="1"))["rooms"][0]
    assert first["room_type"] == "m.space"
    assert [child["state_key"] for child in first["children_state"]] == [
        office, last, "!nowhere:elsewhere.example",
    ]  # fmt: skip
    assert first["children_state"][0]["origin_server_ts"] > 0


async def test_a_token_belongs_to_its_question(alice: Person) -> None:
    space = await alice.creates_room(creation_content=SPACE)
    await adds(alice, space, await alice.creates_room())
    path = f"/v1/rooms/{quote(space)}/hierarchy"
    token = (await alice.get(path, limit="1"))["next_batch"]

    for wrong in (
        f"?from={token}&max_depth=1", f"?from={token}&suggested_only=true", "?from=x", "?limit=0",
    ):  # fmt: skip
        assert (await alice.refused("GET", path + wrong)).errcode == "M_INVALID_PARAM", wrong


async def test_a_tree_shows_strangers_only_what_they_could_enter(
    alice: Person, bob: Person
) -> None:
    space = await alice.creates_room(name="社区", creation_content=SPACE, preset="public_chat")
    rooms: dict[str, JsonObject] = {
        "公开": {"preset": "public_chat"},
        "私密": {"preset": "private_chat"},
        "可申请": {
            "initial_state": [{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        },
        "成员可入": {"initial_state": restricted_to(space)},
        "可读": {
            "initial_state": [
                {
                    "type": "m.room.history_visibility",
                    "content": {"history_visibility": "world_readable"},
                }
            ]
        },
    }
    ids = {name: await alice.creates_room(name=name, **wish) for name, wish in rooms.items()}
    for room in ids.values():
        await adds(alice, space, room)

    assert sorted(await tree(bob, space)) == sorted(["社区", "公开", "可申请", "可读"])
    await bob.joins(space)
    assert sorted(await tree(bob, space)) == sorted(["社区", "公开", "可申请", "可读", "成员可入"])
    await alice.invites(ids["私密"], bob)
    assert "私密" in await tree(bob, space)

    refused = await bob.refused("GET", f"/v1/rooms/{quote(await alice.creates_room())}/hierarchy")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    await alice.post(f"/v3/rooms/{quote(space)}/ban", {"user_id": bob.user_id})
    refused = await bob.refused("GET", f"/v1/rooms/{quote(space)}/hierarchy")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


async def test_nobody_says_who_lets_them_in(alice: Person, bob: Person) -> None:
    team = await alice.creates_room()
    room = await alice.creates_room(initial_state=restricted_to(team))
    path = f"/v3/rooms/{quote(room)}/state/m.room.member/{bob.user_id}"
    content = {"membership": "join", "join_authorised_via_users_server": alice.user_id}
    assert (await bob.refused("PUT", path, content)).status == 403


async def test_a_restricted_room_admits_the_members_of_another(alice: Person, bob: Person) -> None:
    team = await alice.creates_room(preset="public_chat")
    for version in ("8", "10", "12"):
        room = await alice.creates_room(room_version=version, initial_state=restricted_to(team))
        assert (await bob.refused("POST", f"/v3/join/{quote(room)}", {})).status == 403
        await bob.joins(team)
        await bob.joins(room)
        member = await alice.get(f"/v3/rooms/{quote(room)}/state/m.room.member/{bob.user_id}")
        assert member["join_authorised_via_users_server"] == alice.user_id
        await bob.leaves(team)
        # What was allowed stays.
        await bob.says(room, "还在")


async def test_who_knocks_is_let_in_or_sent_away(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(initial_state=restricted_to(knock=True))
    await alice.syncs()
    await bob.post(f"/v3/knock/{quote(room)}", {"reason": "请批准"})

    knock = next(
        e for e in (await alice.syncs()).timeline(room) if e.get("state_key") == bob.user_id
    )
    assert knock["content"]["membership"] == "knock"
    assert knock["content"]["reason"] == "请批准"
    assert (await bob.syncs()).room(room, "knock")["knock_state"]["events"]
    assert (await bob.refused("POST", f"/v3/join/{quote(room)}", {})).status == 403
    await alice.invites(room, bob)
    await bob.joins(room)

    closed = await alice.creates_room()
    assert (await bob.refused("POST", f"/v3/knock/{quote(closed)}", {})).errcode == "M_FORBIDDEN"


async def test_a_summary_says_what_a_room_is(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    team = await alice.creates_room(preset="public_chat")
    room = await alice.creates_room(
        name="公告", topic="全局", preset="public_chat", room_alias_name="news",
        initial_state=[
            *restricted_to(team, knock=True),
            {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}},
        ],
    )  # fmt: skip
    expected = {
        "room_id": room,
        "name": "公告",
        "topic": "全局",
        "canonical_alias": "#news:test.example",
        "num_joined_members": 1,
        "join_rule": "knock_restricted",
        "allowed_room_ids": [team],
        "encryption": "m.megolm.v1.aes-sha2",
        "room_version": "12",
        "world_readable": False,
        "guest_can_join": False,
    }
    alias = quote("#news:test.example", safe="")

    assert await bob.get(f"/v1/room_summary/{alias}") == {**expected, "membership": "leave"}
    assert await alice.get(f"/v1/room_summary/{quote(room)}") == {**expected, "membership": "join"}
    unstable = await bob.get(f"/unstable/im.nheko.summary/rooms/{alias}/summary")
    assert unstable["im.nheko.summary.room_version"] == "12"
    url = f"{homeserver.base_url}/_matrix/client/v1/room_summary/{quote(room)}"
    async with homeserver.http.get(url) as response:
        assert (response.status, await response.json()) == (200, expected)

    private = await alice.creates_room()
    for unknown in (private, "!none:test.example", "#none:test.example"):
        refused = await bob.refused("GET", f"/v1/room_summary/{quote(unknown, safe='')}")
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")
    assert (await bob.refused("GET", "/v1/room_summary/news")).errcode == "M_INVALID_PARAM"
