"""What a listed server is told about people, rooms, devices and files here."""

from __future__ import annotations

import email
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from yizhan_server.app import MIGRATIONS
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.crypto_identity import CrossSigningIdentity, CryptoDevice
from yizhan_testing.databases import StatementRecorder, fresh_database
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.media import encoded, gradient, stored_files, uploads
from yizhan_testing.peer import Answered, Peer, federating, open_peer

V1 = "/_matrix/federation/v1"

JsonObject = dict[str, Any]


def uri(path: str, **query: str) -> str:
    return f"{V1}{path}?{urlencode(query, quote_via=quote)}" if query else V1 + path


async def get(peer: Peer, homeserver: HomeserverInProcess, path: str, **query: str) -> JsonObject:
    answer = await peer.asks(homeserver, "GET", uri(path, **query))
    assert answer.status == 200, answer.content
    found: JsonObject = answer.json
    return found


async def post(
    peer: Peer, homeserver: HomeserverInProcess, path: str, content: JsonObject
) -> JsonObject:
    answer = await peer.asks(homeserver, "POST", uri(path), content)
    assert answer.status == 200, answer.content
    found: JsonObject = answer.json
    return found


# region people


async def test_a_profile_is_told_whole_or_by_field(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    await alice.put(f"/v3/profile/{quote(alice.user_id)}/m.tz", {"m.tz": "Asia/Shanghai"})
    whole = await get(peer, homeserver, "/query/profile", user_id=alice.user_id)
    assert whole == {"displayname": "alice", "m.tz": "Asia/Shanghai"}
    one = await get(peer, homeserver, "/query/profile", user_id=alice.user_id, field="displayname")
    assert one == {"displayname": "alice"}


async def test_a_profile_that_is_not_here_is_not_found(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person, bob: Person
) -> None:
    body = {"auth": {"type": "m.login.password", "password": bob.password,
                     "identifier": {"type": "m.id.user", "user": "bob"}}}  # fmt: skip
    await bob.post("/v3/account/deactivate", body)
    for query, status in (
        ({"user_id": "@nobody:test.example"}, 404),
        ({"user_id": bob.user_id}, 404),
        ({"user_id": "@alice:other.test"}, 404),
        ({"user_id": alice.user_id, "field": "avatar_url"}, 404),
        ({"user_id": alice.user_id, "field": "a b"}, 400),
        ({"user_id": "alice"}, 400),
        ({}, 400),
    ):
        answer = await peer.asks(homeserver, "GET", uri("/query/profile", **query))
        assert answer.status == status, query


async def test_devices_are_told_with_their_keys_and_without_their_names(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    device = CryptoDevice(alice.user_id, alice.device_id)
    identity = CrossSigningIdentity(alice.user_id)
    before = await get(peer, homeserver, f"/user/devices/{quote(alice.user_id)}")
    assert before["devices"] == []
    await alice.put(f"/v3/devices/{alice.device_id}", {"display_name": "Alice's telephone"})
    await alice.post("/v3/keys/upload", {"device_keys": device.keys()})
    await alice.post("/v3/keys/device_signing/upload", identity.body())

    answer = await get(peer, homeserver, f"/user/devices/{quote(alice.user_id)}")
    assert answer["stream_id"] > before["stream_id"]
    assert answer["user_id"] == alice.user_id
    assert answer["devices"] == [{"device_id": alice.device_id, "keys": device.keys()}]
    assert answer["master_key"] == identity.body()["master_key"]
    assert answer["self_signing_key"] == identity.body()["self_signing_key"]

    found = await post(peer, homeserver, "/user/keys/query", {"device_keys": {alice.user_id: []}})
    assert set(found) == {"device_keys", "master_keys", "self_signing_keys"}
    told = found["device_keys"][alice.user_id][alice.device_id]
    assert {k: v for k, v in told.items() if k != "unsigned"} == device.keys()
    assert "telephone" not in str(found)
    assert found["master_keys"] == {alice.user_id: identity.body()["master_key"]}
    again = await get(peer, homeserver, f"/user/devices/{quote(alice.user_id)}")
    assert again["stream_id"] == answer["stream_id"]


async def test_a_one_time_key_is_given_to_one_server_once(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    device = CryptoDevice(alice.user_id, alice.device_id)
    keys = device.one_time_keys("A", "B")
    await alice.post("/v3/keys/upload", {"device_keys": device.keys(), "one_time_keys": keys})
    wanted = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
    given: JsonObject = {}
    for _ in range(2):
        answer = await post(peer, homeserver, "/user/keys/claim", wanted)
        given |= answer["one_time_keys"][alice.user_id][alice.device_id]
    assert given == keys
    assert await post(peer, homeserver, "/user/keys/claim", wanted) == {"one_time_keys": {}}


async def test_nobody_elses_keys_are_asked_for_here(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    stranger = "@a:other.test"
    for method, path, content in (
        ("GET", f"/user/devices/{stranger}", None),
        ("POST", "/user/keys/query", {"device_keys": {stranger: []}}),
        ("POST", "/user/keys/claim", {"one_time_keys": {stranger: {"D": "x"}}}),
    ):
        answer = await peer.asks(homeserver, method, uri(path), content)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), path
    many: JsonObject = {"device_keys": {f"@u{n}:test.example": [] for n in range(1001)}}
    answer = await peer.asks(homeserver, "POST", uri("/user/keys/query"), many)
    assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")


# endregion
# region rooms


async def test_an_alias_leads_to_its_room(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    room = await alice.creates_room(room_alias_name="机关")
    answer = await get(peer, homeserver, "/query/directory", room_alias="#机关:test.example")
    assert answer == {"room_id": room, "servers": ["test.example"]}
    for alias, status in (("#x:test.example", 404), ("#x:other.test", 404), ("x", 400)):
        refused = await peer.asks(homeserver, "GET", uri("/query/directory", room_alias=alias))
        assert refused.status == status, alias


async def test_published_rooms_are_listed_in_pages_and_searched(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    await alice.creates_room(name="secret")
    rooms = {
        name: await alice.creates_room(name=name, visibility="public", preset="public_chat")
        for name in ("one", "two")
    }
    listed = await get(peer, homeserver, "/publicRooms")
    assert {entry["room_id"] for entry in listed["chunk"]} == set(rooms.values())
    first = await get(peer, homeserver, "/publicRooms", limit="1")
    second = await get(peer, homeserver, "/publicRooms", limit="1", since=first["next_batch"])
    assert {first["chunk"][0]["name"], second["chunk"][0]["name"]} == {"one", "two"}
    found = await post(peer, homeserver, "/publicRooms", {"filter": {"generic_search_term": "TW"}})
    assert [entry["name"] for entry in found["chunk"]] == ["two"]


async def test_a_space_shows_a_server_what_its_users_could_enter(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    public: JsonObject = {"preset": "public_chat"}
    space = await alice.creates_room(name="space", creation_content={"type": "m.space"}, **public)
    children = {
        "public": await alice.creates_room(name="public", **public),
        "private": await alice.creates_room(name="private"),
        "knock": await alice.creates_room(name="knock", initial_state=[_join_rule("knock")]),
        "readable": await alice.creates_room(
            name="readable",
            initial_state=[
                {"type": "m.room.history_visibility",
                 "content": {"history_visibility": "world_readable"}}
            ],
        ),
        "own": await alice.creates_room(
            name="own", creation_content={"m.federate": False}, **public
        ),
    }  # fmt: skip
    for room in children.values():
        await alice.sets(space, "m.space.child", {"via": ["test.example"]}, room)
    await alice.sets(space, "m.space.child", {"via": ["x"]}, "!elsewhere:other.test")

    answer = await get(peer, homeserver, f"/hierarchy/{quote(space)}")
    assert answer["room"]["name"] == "space"
    assert {child["state_key"] for child in answer["room"]["children_state"]} == {
        *children.values(), "!elsewhere:other.test",
    }  # fmt: skip
    assert {child["name"] for child in answer["children"]} == {"public", "knock", "readable"}
    assert set(answer["inaccessible_children"]) == {children["private"], children["own"]}

    suggested = await get(peer, homeserver, f"/hierarchy/{quote(space)}", suggested_only="true")
    assert suggested["children"] == []
    for room in (children["private"], children["own"], "!elsewhere:other.test"):
        refused = await peer.asks(homeserver, "GET", uri(f"/hierarchy/{quote(room)}"))
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")


def _join_rule(rule: str) -> JsonObject:
    return {"type": "m.room.join_rules", "content": {"join_rule": rule}}


# endregion
# region files


def parts(answer: Answered) -> list[tuple[dict[str, str], bytes]]:
    """Return headers and content of each part."""
    assert answer.status == 200, answer.content
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.content)
    assert message.get_content_type() == "multipart/mixed"
    found = []
    for part in message.get_payload():
        assert not isinstance(part, str)
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((dict(part.items()), content))
    return found


async def test_a_file_is_sent_as_it_was_uploaded_after_its_metadata(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    data = random.Random(1).randbytes(700_000).replace(b"\n", b"x").replace(b"\r", b"x")
    for content, kind, disposition in (
        (data, "application/pdf", 'attachment; filename="a.pdf"'),
        (b"", "text/plain", 'inline; filename="a.pdf"'),
    ):
        mxc = await uploads(alice, content, kind, filename="a.pdf")
        media_id = mxc.rpartition("/")[2]
        answer = await peer.asks(homeserver, "GET", uri(f"/media/download/{media_id}"))
        metadata, (headers, sent) = parts(answer)
        assert metadata == ({"Content-Type": "application/json"}, b"{}")
        assert headers == {"Content-Type": kind, "Content-Disposition": disposition}
        assert sent == content


async def test_a_file_that_is_lost_is_not_found_and_its_length_can_be_asked_for(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    mxc = await uploads(alice, b"abc", "text/plain")
    path = uri(f"/media/download/{mxc.rpartition('/')[2]}")
    whole = await peer.asks(homeserver, "GET", path)
    head = await peer.asks(homeserver, "HEAD", path)
    assert (head.status, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(whole.content))
    for file in stored_files(homeserver):
        file.unlink()
    gone = await peer.asks(homeserver, "GET", path)
    assert (gone.status, gone.errcode) == (404, "M_NOT_FOUND")


async def test_a_thumbnail_is_made_for_another_server(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    mxc = await uploads(alice, encoded(gradient(800, 600)), "image/png")
    path = f"/media/thumbnail/{mxc.rpartition('/')[2]}"
    answer = await peer.asks(homeserver, "GET", uri(path, width="96", height="96", method="crop"))
    _, (headers, sent) = parts(answer)
    assert headers["Content-Type"] in ("image/png", "image/jpeg", "image/webp")
    assert 0 < len(sent) < 100_000
    assert (await peer.asks(homeserver, "GET", uri(path))).errcode == "M_MISSING_PARAM"


async def test_a_file_that_is_not_here_is_not_found(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    reserved = (await alice.call("POST", "/_matrix/media/v1/create", {}))["content_uri"]
    for media_id, status, errcode in (
        ("unknown", 404, "M_NOT_FOUND"),
        ("..%2F..%2Fsecrets", 404, "M_NOT_FOUND"),
        (reserved.rpartition("/")[2], 504, "M_NOT_YET_UPLOADED"),
    ):
        answer = await peer.asks(
            homeserver, "GET", uri(f"/media/download/{media_id}", timeout_ms="0")
        )
        assert (answer.status, answer.errcode) == (status, errcode)


# endregion


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_no_question_reads_a_whole_table(
    tmp_path: Path, authority: CertificateAuthority, dialect: str
) -> None:
    await fresh_database("sqlite", MIGRATIONS, tmp_path / "first")
    async with open_peer(authority) as peer:
        with StatementRecorder() as recorder:
            async with homeserver_in_process(
                tmp_path, "sqlite", **federating(authority, peer)
            ) as homeserver:
                alice = await homeserver.person("alice")
                device = CryptoDevice(alice.user_id, alice.device_id)
                await alice.post("/v3/keys/upload", {"device_keys": device.keys()})
                room = await alice.creates_room(room_alias_name="a", preset="public_chat")
                user = quote(alice.user_id)
                await get(peer, homeserver, "/query/profile", user_id=alice.user_id)
                await get(peer, homeserver, "/query/directory", room_alias="#a:test.example")
                await get(peer, homeserver, f"/user/devices/{user}")
                await get(peer, homeserver, f"/hierarchy/{quote(room)}")
                wanted: JsonObject = {alice.user_id: []}
                await post(peer, homeserver, "/user/keys/query", {"device_keys": wanted})
                url = f"{homeserver.base_url}/_matrix/key/v2/query/{quote(peer.name)}"
                async with homeserver.http.get(url) as response:
                    assert len((await response.json())["server_keys"]) == 1
    [file] = tmp_path.glob("test*.db")
    assert recorder.full_scans(file) == []
    assert any("FROM server_key " in sql for sql in recorder.statements)
