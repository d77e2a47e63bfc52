"""Quarantine and deletion of files."""

from __future__ import annotations

import asyncio
import hashlib
from urllib.parse import quote

from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person
from yizhan_testing.media import downloads, encoded, gradient, stored_files, thumbnail, uploads

ADMIN = "/_synapse/admin"


def of(name: str) -> str:
    return quote(name, safe="")


async def acts_of(admin: Person) -> list[tuple[str, str, JsonObject]]:
    acts = (await admin.get("/_yizhan/admin/v1/record"))["record"]
    return [
        (act["action"], act["subject"], act["details"])
        for act in reversed(acts)
        if act["actor"] == admin.user_id
    ]


async def shows(person: Person, room: str, mxc: str, **info: str) -> None:
    content = {"msgtype": "m.image", "body": "x", "url": f"mxc://{mxc}", "info": info}
    await person.sends(room, "m.room.message", content)


async def test_what_a_room_shows_is_put_into_quarantine(
    admin: Person, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat")
    picture = await uploads(alice, encoded(gradient(400, 300)), "image/png")
    small = await uploads(alice, b"small")
    safe = await uploads(alice, b"safe")
    other = await uploads(bob, b"of nobody's room")
    await shows(alice, room, picture, thumbnail_url=f"mxc://{small}")
    await shows(alice, room, safe)
    await shows(alice, room, "elsewhere.example/abc")
    await alice.sends(room, "m.room.message", {"body": "mxc://", "url": 1, "info": [1]})
    assert (await thumbnail(bob, picture, 32, 32)).status == 200
    listed = await admin.get(f"{ADMIN}/v1/room/{of(room)}/media")
    assert set(listed["local"]) == {f"mxc://{each}" for each in (picture, small, safe)}
    assert listed["remote"] == ["mxc://elsewhere.example/abc"]

    await admin.post(f"{ADMIN}/v1/media/protect/{safe.partition('/')[2]}", {})
    path = f"{ADMIN}/v1/room/{of(room)}/media/quarantine"
    assert await admin.post(path, {}) == {"num_quarantined": 2}
    assert await admin.post(f"{ADMIN}/v1/quarantine_media/{of(room)}", {}) == {"num_quarantined": 0}
    for mxc, status in ((picture, 404), (small, 404), (safe, 200), (other, 200)):
        assert (await downloads(bob, mxc)).status == status
    assert (await thumbnail(bob, picture, 32, 32)).status == 404
    # Neither is it served under another id, nor to its owner.
    again = await uploads(bob, b"small")
    assert (await downloads(bob, again)).status == 404
    assert (await downloads(alice, small)).status == 404
    info = (await admin.get(f"{ADMIN}/v1/media/{small}"))["media_info"]
    assert (info["quarantined_by"], info["user_id"]) == (admin.user_id, alice.user_id)
    assert info["sha256"] == hashlib.sha256(b"small").hexdigest()

    await admin.post(f"{ADMIN}/v1/media/unquarantine/{small}", {})
    assert (await downloads(bob, again)).data == b"small"
    acts = await acts_of(admin)
    assert [(act, subject) for act, subject, _ in acts] == [
        ("protect_media", safe.partition("/")[2]), ("quarantine", room), ("quarantine", room),
        ("unquarantine", small.partition("/")[2]),
    ]  # fmt: skip
    assert acts[1][2] == {"by": "room", "count": 2}


async def test_files_are_put_into_quarantine_one_by_one_or_by_their_owner(
    admin: Person, alice: Person, bob: Person
) -> None:
    first, second = await uploads(alice, b"1"), await uploads(alice, b"2")
    same = await uploads(bob, b"2")
    await admin.post(f"{ADMIN}/v1/media/quarantine/{first}", {})
    assert (await downloads(bob, first)).status == 404
    assert (await downloads(bob, second)).status == 200
    path = f"{ADMIN}/v1/user/{of(alice.user_id)}/media/quarantine"
    assert await admin.post(path, {}) == {"num_quarantined": 1}
    assert (await downloads(bob, second)).status == 404
    # The same bytes are the same file, whoever sent them, unless this id is protected.
    assert (await downloads(bob, same)).status == 404
    await admin.post(f"{ADMIN}/v1/media/protect/{same.partition('/')[2]}", {})
    assert (await downloads(bob, same)).status == 200
    await admin.post(f"{ADMIN}/v1/media/unprotect/{same.partition('/')[2]}", {})
    assert (await downloads(bob, same)).status == 404
    for where in ("quarantine/elsewhere.example/x", "unquarantine/test.example/none", "protect/no"):
        refused = await admin.refused("POST", f"{ADMIN}/v1/media/{where}", {})
        assert (refused.status, refused.errcode) == (404, "M_NOT_FOUND")


async def test_what_somebody_uploaded_is_listed_and_deleted(
    homeserver: HomeserverInProcess, admin: Person, alice: Person, bob: Person
) -> None:
    names = ["甲", "乙", "丙"]
    sent = [
        await uploads(alice, name.encode() * (5 - number), "text/plain", filename=name)
        for number, name in enumerate(names)
    ]
    kept = await uploads(bob, "甲".encode() * 5)
    path = f"{ADMIN}/v1/users/{of(alice.user_id)}/media"
    listed = await admin.get(path, order_by="media_length")
    assert [each["upload_name"] for each in listed["media"]] == names[::-1]
    assert listed["total"] == 3
    page = await admin.get(path, limit="2", order_by="upload_name")
    assert (len(page["media"]), page["next_token"]) == (2, 2)
    rest = await admin.get(path, limit="2", order_by="upload_name", **{"from": "2"})
    assert "next_token" not in rest
    assert len(stored_files(homeserver)) == 3

    deleted = await admin.delete(f"{ADMIN}/v1/media/{sent[2]}")
    assert deleted == {"deleted_media": [sent[2].partition("/")[2]], "total": 1}
    assert (await downloads(alice, sent[2])).status == 404
    assert len(stored_files(homeserver)) == 2
    everything = await admin.delete(path)
    assert everything["total"] == 2
    # Of the same bytes somebody else's id is left, and so are they.
    assert len(stored_files(homeserver)) == 1
    assert (await downloads(bob, kept)).data == "甲".encode() * 5
    assert (await admin.refused("DELETE", f"{ADMIN}/v1/media/{sent[2]}")).errcode == "M_NOT_FOUND"
    assert [act[:2] for act in await acts_of(admin)] == [
        ("delete_media", sent[2].partition("/")[2]), ("delete_media", alice.user_id)
    ]  # fmt: skip


async def test_bytes_that_are_uploaded_while_they_are_deleted_are_not_lost(
    admin: Person, alice: Person, bob: Person
) -> None:
    for _ in range(10):
        doomed = await uploads(alice, b"the same bytes")
        _, *others = await asyncio.gather(
            admin.delete(f"{ADMIN}/v1/media/{doomed}"),
            *(uploads(bob, b"the same bytes") for _ in range(4)),
        )
        for mxc in others:
            assert (await downloads(bob, str(mxc))).data == b"the same bytes"
            await admin.delete(f"{ADMIN}/v1/media/{mxc}")
