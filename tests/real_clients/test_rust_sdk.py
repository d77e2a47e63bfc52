"""matrix-rust-sdk's SyncService and RoomListService, which Element X runs, beside matrix-js-sdk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from yizhan_testing import chromium
from yizhan_testing.browser_sign_in import AT_HOME, open_homeserver, open_way_back, signs_in
from yizhan_testing.chromium import open_chromium
from yizhan_testing.rust_client import RustClient, cargo
from yizhan_testing.town import PASSWORD, open_town

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.js_client import JsClient, Verification
    from yizhan_testing.town import Town

pytestmark = [
    pytest.mark.long,  # the client is compiled first
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(3600),
    pytest.mark.skipif(cargo() is None, reason="needs cargo, to compile matrix-rust-sdk"),
]

TWO_POLLS_S = 70
"""The SDK sends its automatic answers when its sync of the encryption comes back, on any server.

A verification in a room comes by the other sync, so that it waits for the end of a poll of 30 s.
"""


async def rust(town: Town, user_id: str, folder: Path) -> RustClient:
    store = folder / user_id.removeprefix("@").partition(":")[0]
    client = await RustClient.start(town.homeserver.base_url, user_id, PASSWORD, store)
    town.open.push_async_callback(client.close)
    return client


async def agree(ours: Verification, theirs: Verification) -> None:
    """Go from accepted to verified: both see the same emojis, and say so."""
    await ours.starts_sas()
    shown, seen = await asyncio.gather(ours.emojis(TWO_POLLS_S), theirs.emojis(TWO_POLLS_S))
    assert len(shown.emojis) == 7
    assert shown == seen
    await asyncio.gather(ours.confirms(), theirs.confirms())
    await asyncio.gather(ours.is_done(TWO_POLLS_S), theirs.is_done(TWO_POLLS_S))


async def pair(town: Town, folder: Path) -> tuple[JsClient, RustClient, str]:
    """Alice on matrix-js-sdk and Bob on matrix-rust-sdk, in an encrypted room."""
    alice = await town.js(await town.person("alice"))
    await alice.sets_up_identity()
    bob = await rust(town, await town.person("bob"), folder)
    room = await alice.creates_room(name="档案室", invite=[bob.user_id], direct=True)
    await bob.accepts_invitation(room)
    await alice.sees_member(room, bob.user_id)
    return alice, bob, room


async def test_an_encrypted_conversation_and_a_verification_that_the_other_asks_for(
    town: Town, tmp_path: Path
) -> None:
    alice, bob, room = await pair(town, tmp_path)
    [listed] = await bob.rooms()
    assert (listed["room_id"], listed["name"], listed["membership"]) == (room, "档案室", "join")

    sent = await alice.says(room, "你好，小鲍")
    read = await bob.reads("你好，小鲍", room)
    assert read == {"event_id": sent, "sender": alice.user_id, "encrypted": True}
    answer = await bob.says(room, "你好！")
    heard = await alice.reads("你好！", room=room)
    assert (heard.event_id, heard.encrypted) == (answer, True)

    ours = await alice.requests_verification(bob.user_id, room=room)
    theirs = await bob.accepts_verification(alice.user_id)
    await agree(ours, theirs)
    await bob.sees_verified(alice.user_id)
    await alice.sees_trust(bob.user_id, verified=True)


async def test_a_verification_that_it_asks_for(town: Town, tmp_path: Path) -> None:
    alice, bob, room = await pair(town, tmp_path)
    await alice.says(room, "ask me")
    await bob.reads("ask me", room)

    ours = await bob.requests_verification(alice.user_id)
    theirs = await alice.accepts_verification(bob.user_id)
    await agree(ours, theirs)
    await bob.sees_verified(alice.user_id)
    await alice.sees_trust(bob.user_id, verified=True)


async def test_the_list_shows_what_is_unread_and_the_latest_room_first(
    town: Town, tmp_path: Path
) -> None:
    alice = await town.js(await town.person("alice"))
    bob = await rust(town, await town.person("bob"), tmp_path)
    rooms = {}
    for name in ("one", "two", "three"):
        rooms[name] = await alice.creates_room(name=name, invite=[bob.user_id], encrypted=False)
    assert {each["membership"] for each in await bob.rooms()} <= {"invite"}
    for room in rooms.values():
        await bob.accepts_invitation(room)

    await alice.says(rooms["two"], "for all")
    await alice.says(rooms["two"], "for you", mentions=[bob.user_id])
    await bob.sees_unread(rooms["two"], 2, 1)
    await bob.lists_first(rooms["two"])
    assert {each["name"] for each in await bob.rooms()} == {"one", "two", "three"}

    await bob.reads("for you", rooms["two"])
    await bob.marks_read(rooms["two"])
    await bob.sees_unread(rooms["two"], 0, 0)


async def test_a_restarted_client_goes_on_where_it_was(town: Town, tmp_path: Path) -> None:
    alice, bob, room = await pair(town, tmp_path)
    await alice.says(room, "before")
    await bob.reads("before", room)
    await bob.close()
    for number in range(30):
        await alice.says(room, f"meanwhile {number}")

    await bob.restarts()
    await bob.reads("meanwhile 29", room)
    await bob.scrolls_back(room)
    for number in range(30):
        await bob.reads(f"meanwhile {number}", room)
    again = await bob.says(room, "I am back")
    assert (await alice.reads("I am back", room=room)).event_id == again


async def test_a_room_that_it_makes_is_encrypted(town: Town, tmp_path: Path) -> None:
    alice = await town.js(await town.person("alice"))
    bob = await rust(town, await town.person("bob"), tmp_path)
    room = await bob.creates_room(invite=[alice.user_id])
    await alice.accepts_invitation(room, by=bob.user_id)

    sent = await bob.says(room, "in my room")
    read = await alice.reads("in my room", room=room)
    assert (read.event_id, read.encrypted) == (sent, True)


async def test_a_further_device_reads_on_by_the_recovery_key(town: Town, tmp_path: Path) -> None:
    alice = await town.js(await town.person("alice"))
    key = await alice.sets_up_identity()
    room = await alice.creates_room(name="档案室")
    old = await alice.says(room, "before there was a telephone")
    await alice.awaits_complete_backup()

    phone = await rust(town, alice.user_id, tmp_path)
    await phone.recovers(key)
    read = await phone.reads("before there was a telephone", room)
    assert (read["event_id"], read["encrypted"]) == (old, True)
    await alice.sees_device(alice.user_id, phone.device_id, signed=True, trusted=True)


@pytest.mark.skipif(
    bool(chromium.missing()),
    reason=f"needs {', '.join(chromium.missing())}: see debian-packages.txt",
)
async def test_it_signs_in_through_the_consent_page(tmp_path: Path) -> None:
    async with (
        open_homeserver(tmp_path / "server") as server,
        open_town(server, tmp_path) as town,
        open_way_back() as way_back,
        open_chromium(tmp_path / "chromium") as browser,
    ):
        bob_id = await town.person("bob")
        bob = await RustClient.launch(server.base_url, tmp_path / "bob")
        town.open.push_async_callback(bob.close)
        await browser.opens(await bob.begins_oauth(way_back.redirect_uri))
        await signs_in(browser, bob_id.removeprefix("@").partition(":")[0])
        await browser.shows("Letterbox")
        await browser.presses("button[value=allow]")
        await browser.shows(AT_HOME)
        await bob.completes_oauth(await way_back.address)
        assert bob.user_id == bob_id

        alice = await town.js(await town.person("alice"))
        room = await alice.creates_room(invite=[bob_id])
        await bob.accepts_invitation(room)
        await bob.renews_its_token()
        sent = await bob.says(room, "signed in by a browser")
        read = await alice.reads("signed in by a browser", room=room)
        assert (read.event_id, read.encrypted) == (sent, True)
        # Its first device made and signed the identity, without a password.
        await alice.sees_device(bob_id, bob.device_id, signed=True)
