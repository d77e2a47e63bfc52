"""Contents of events: everything legal comes back as it was, everything else is refused."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import orjson

from yizhan_testing.attacks import Answer, Town

STRICT = "11"
LENIENT = "5"
"""Room versions whose content may hold floats, and integers of any size."""


async def send(town: Town, room: str, content: bytes, txn: str, kind: str = "m.x") -> Answer:
    path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/send/{kind}/{txn}"
    return await town.attacks("PUT", path, content)


async def content_of(town: Town, room: str, event_id: str) -> Any:
    event = await town.alice.get(
        f"/v3/rooms/{quote(room, safe='')}/event/{quote(event_id, safe='')}"
    )
    return event["content"]


def nested(depth: int, *, lists: bool) -> bytes:
    if lists:
        return b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    return b'{"a":' * depth + b"1" + b"}" * depth


async def test_what_canonical_json_allows_comes_back_as_it_was(town: Town) -> None:
    contents: list[dict[str, Any]] = [
        {}, {"a": 2**53 - 1}, {"a": 1 - 2**53}, {"a": "\0"}, {"": ""}, {"\0": None},
        {"a": "\U0010ffff\ufffe\u202e"}, {"event_id": "mine", "room_id": 1, "unsigned": {}},
        {"m.relates_to": None}, {"m.relates_to": {"rel_type": 1, "event_id": []}},
        {"m.relates_to": {"rel_type": "m.thread", "event_id": "nonsense"}},
        {"m.relates_to": {"rel_type": "\0", "event_id": "\0"}},
        {"m.relates_to": {"rel_type": "m.thread", "event_id": "x" * 5000}},
        {"m.mentions": 1}, {"m.mentions": {"user_ids": 1}}, {"m.mentions": {"user_ids": [1, None]}},
        {"m.mentions": {"room": "yes"}}, {"body": 1, "msgtype": []}, {"body": None},
        {"redacts": 1}, {"membership": "join"}, json.loads(nested(150, lists=False)),
        {"m.new_content": 1, "m.relates_to": {"rel_type": "m.replace", "event_id": town.event}},
    ]  # fmt: skip
    for number, content in enumerate(contents):
        for kind in ("m.x", "m.room.message", "m.room.encrypted", "m.room.redaction", "m.reaction"):
            txn = f"{number}{kind}"
            answer = await send(town, town.room, orjson.dumps(content), txn, kind)
            assert answer.status == 200, (content, kind, answer.body)
            assert await content_of(town, town.room, answer.body["event_id"]) == content, kind
    assert (await town.bob.syncs()).body["rooms"]["join"][town.room]
    page = await town.bob.get(f"/v3/rooms/{quote(town.room)}/messages", dir="b", limit="200")
    assert len(page["chunk"]) > len(contents) * 5


async def test_what_canonical_json_forbids_is_refused_where_it_is_strict(town: Town) -> None:
    for version, expected in ((STRICT, "M_BAD_JSON"), (LENIENT, None)):
        room = await town.alice.creates_room(room_version=version)
        for number, content in enumerate(
            (
                b'{"a":1.5}', b'{"a":1e3}', b'{"a":-0.0}', b'{"a":9007199254740992}',
                b'{"a":-9007199254740992}', b'{"a":123456789012345678901234567890}',
                b'{"a":[[[{"b":0.1}]]]}', b'{"a":1e-400}',
            )
        ):  # fmt: skip
            answer = await send(town, room, content, str(number))
            assert answer.errcode == expected, (version, content)
        assert (await town.alice.syncs()).room(room)["timeline"]["events"]


async def test_numbers_beyond_every_range_are_no_server_error(town: Town) -> None:
    for version in (STRICT, LENIENT, "1"):
        room = await town.alice.creates_room(room_version=version)
        for number, content in enumerate(
            (b'{"a":1e999}', b'{"a":-1e999}', b'{"a":' + b"9" * 5000 + b"}")
        ):
            answer = await send(town, room, content, str(number))
            assert answer.errcode in ("M_BAD_JSON", "M_NOT_JSON", None), (version, answer.body)
        assert (await town.alice.syncs()).room(room)["timeline"]["events"]


async def test_nesting_beyond_reason_is_refused_and_what_is_accepted_is_served(town: Town) -> None:
    for version in (STRICT, LENIENT, "1"):
        room = await town.alice.creates_room(room_version=version)
        path = quote(room, safe="")
        for depth in (
            190,
            198,
            199,
            201,
            230,
            245,
            249,
            250,
            251,
            252,
            253,
            254,
            255,
            300,
            1100,
            30_000,
        ):
            for lists in (False, True):
                body = nested(depth, lists=lists)
                txn = f"{depth}{lists}"
                answer = await send(town, room, body, txn)
                # Within the event it is one level deeper, and there other servers count.
                assert (answer.status == 200) == (depth < 199), (version, depth, answer.body)
                if depth > 198:
                    assert answer.errcode in ("M_BAD_JSON", "M_NOT_JSON"), answer.body
                await town.attacks("PUT", f"/_matrix/client/v3/rooms/{path}/state/m.x/{txn}", body)
                await town.attacks(
                    "PUT",
                    f"/_matrix/client/v3/user/{quote(town.alice.user_id)}/account_data/m.x{txn}",
                    body,
                )
        for what in ("state", "messages?dir=b&limit=100"):
            assert (
                await town.attacks("GET", f"/_matrix/client/v3/rooms/{path}/{what}")
            ).status == 200
    assert (await town.attacks("GET", "/_matrix/client/v3/sync")).status == 200


async def test_events_beyond_64_kib_are_refused_and_those_within_are_not(town: Town) -> None:
    for version in ("12", STRICT, LENIENT, "1"):
        room = await town.alice.creates_room(room_version=version)
        low, high = 60_000, 66_000
        while high - low > 1:
            size = (low + high) // 2
            answer = await send(town, room, b'{"a":"' + b"x" * size + b'"}', str(size))
            if answer.status == 200:
                low = size
            else:
                assert (answer.status, answer.errcode) == (413, "M_TOO_LARGE"), version
                high = size
        assert low > 64_000, version
        text = await content_of(
            town,
            room,
            (await send(town, room, b'{"a":"' + b"y" * low + b'"}', "y")).body["event_id"],
        )
        assert text == {"a": "y" * low}
        # Characters are counted in bytes of UTF-8.
        wide = '{"a":"' + "长" * (low // 3 + 200) + '"}'
        assert (await send(town, room, wide.encode(), "wide")).errcode == "M_TOO_LARGE"
    answer = await town.attacks(
        "POST",
        "/_matrix/client/v3/createRoom",
        json.dumps({"topic": "x" * 70_000}).encode(),
    )
    assert answer.errcode == "M_TOO_LARGE"


async def test_a_state_key_or_type_beyond_255_bytes_is_refused(town: Town) -> None:
    room = f"/_matrix/client/v3/rooms/{quote(town.room, safe='')}"
    for path, fits in (
        (f"/state/m.x/{'k' * 255}", True), (f"/state/m.x/{'k' * 256}", False),
        (f"/state/{'t' * 255}", True), (f"/state/{'t' * 256}", False),
        (f"/state/m.x/{'%E9%95%BF' * 85}", True), (f"/state/m.x/{'%E9%95%BF' * 86}", False),
        (f"/send/{'t' * 256}/1", False),
    ):  # fmt: skip
        answer = await town.attacks("PUT", room + path, b"{}")
        assert (answer.status == 200) == fits, path
        if not fits:
            assert answer.errcode in ("M_INVALID_PARAM", "M_TOO_LARGE")


async def test_state_that_breaks_its_own_rules_is_refused(town: Town) -> None:
    room = f"/_matrix/client/v3/rooms/{quote(town.room, safe='')}/state"
    alice, bob = quote(town.alice.user_id), quote(town.bob.user_id)
    for path, content in (
        (f"/m.room.member/{alice}", {"membership": 1}), (f"/m.room.member/{alice}", {}),
        (f"/m.room.member/{bob}", {"membership": "friend"}),
        ("/m.room.member/", {"membership": "join"}),
        (f"/m.room.member/{bob}", {"membership": "join"}), ("/m.room.create/", {}),
        ("/m.room.power_levels/", {"users": []}), ("/m.room.power_levels/", {"users": {"x": 1}}),
        ("/m.room.power_levels/", {"users": {town.alice.user_id: "100"}}),
        ("/m.room.power_levels/", {"ban": "50"}),
        ("/m.room.power_levels/", {"events": {"x": None}}),
        ("/m.room.canonical_alias/", {"alias": 1}), ("/m.room.canonical_alias/", {"alias": "x"}),
        ("/m.room.canonical_alias/", {"alt_aliases": "x"}),
        ("/m.room.canonical_alias/", {"alt_aliases": ["#\0:test.example"]}),
        ("/m.room.canonical_alias/", {"alias": "#nosuch:test.example"}),
        (f"/m.x/{bob}", {}),
    ):  # fmt: skip
        answer = await town.attacks("PUT", room + path, json.dumps(content).encode())
        assert answer.status in (400, 403), (path, content, answer.body)


async def test_oddities_in_state_that_clients_are_shown_break_no_reader(town: Town) -> None:
    alice, room = town.alice, town.room
    for kind in (
        "m.room.name", "m.room.topic", "m.room.avatar", "m.room.join_rules", "m.room.encryption",
        "m.room.history_visibility", "m.room.guest_access", "m.room.pinned_events", "m.space.child",
    ):  # fmt: skip
        for content in (
            {}, {"name": 1, "topic": [], "url": {}, "join_rule": 1, "history_visibility": []},
            {"name": None, "join_rule": "restricted", "allow": 1},
            {"join_rule": "restricted", "allow": [1, {"type": "m.room_membership", "room_id": 1}]},
            {"history_visibility": "x", "guest_access": 7, "algorithm": 1, "pinned": 1, "via": 1},
        ):  # fmt: skip
            path = f"/_matrix/client/v3/rooms/{quote(room, safe='')}/state/{kind}"
            answer = await town.attacks("PUT", path, json.dumps(content).encode())
            assert answer.status == 200, (kind, content)
            await town.attacks("POST", f"/_matrix/client/v3/join/{quote(room, safe='')}", b"{}")
            carol = await alice.refused("POST", f"/v3/knock/{quote(room, safe='')}", {})
            assert carol.status == 403
    await alice.put(f"/v3/directory/list/room/{quote(room)}", {"visibility": "public"})
    dave = await town.homeserver.person("dave")
    for path in (
        "/sync", "/publicRooms", f"/rooms/{quote(room)}/state", f"/rooms/{quote(room)}/members",
        f"/rooms/{quote(room)}/messages?dir=b", f"/rooms/{quote(room)}/joined_members",
        f"/rooms/{quote(room)}/context/{quote(town.event)}",
    ):  # fmt: skip
        for person in (alice, town.bob, dave):
            answer = await town.attacks("GET", f"/_matrix/client/v3{path}", token=person.token)
            assert (answer.status == 200) == (
                person is not dave or path in ("/sync", "/publicRooms")
            )
    assert (await town.attacks(
        "POST", f"/_matrix/client/v3/join/{quote(room, safe='')}", b"{}", token=dave.token
    )).status == 403  # fmt: skip
