from __future__ import annotations

from typing import TYPE_CHECKING

from yizhan_server.protocol.identifiers import UserID
from yizhan_server.storage.devices import find_devices
from yizhan_testing.account_server import PASSWORD

if TYPE_CHECKING:
    from yizhan_testing.account_server import AccountServer


async def test_devices_are_listed_shown_and_renamed(server: AccountServer) -> None:
    alice = await server.has("alice")
    tablet = await server.sign_in("alice", device_id="TABLET", initial_device_display_name="Tablet")
    listed = await alice.calls("GET", "/v3/devices")
    assert {device["device_id"] for device in listed.json["devices"]} == {
        alice.device_id,
        "TABLET",
    }
    assert (await alice.calls("GET", "/v3/devices/TABLET")).json["display_name"] == "Tablet"

    renamed = await alice.calls("PUT", "/v3/devices/TABLET", {"display_name": "平板"})
    assert renamed.json == {}
    assert (await tablet.calls("GET", "/v3/devices/TABLET")).json["display_name"] == "平板"
    await alice.calls("PUT", "/v3/devices/TABLET", {})
    assert (await alice.calls("GET", "/v3/devices/TABLET")).json["display_name"] == "平板"


async def test_a_device_that_signs_in_again_keeps_its_name(server: AccountServer) -> None:
    await server.has("alice")
    await server.sign_in("alice", device_id="TABLET", initial_device_display_name="Tablet")
    again = await server.sign_in("alice", device_id="TABLET", initial_device_display_name="Other")
    assert (await again.calls("GET", "/v3/devices/TABLET")).json["display_name"] == "Tablet"


async def test_other_peoples_devices_are_not_there(server: AccountServer) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    path = f"/v3/devices/{bob.device_id}"
    assert (await alice.calls("GET", path)).errcode == "M_NOT_FOUND"
    assert (await alice.calls("PUT", path, {"display_name": "mine"})).errcode == "M_NOT_FOUND"
    await alice.confirms("DELETE", path, {})
    await alice.confirms("POST", "/v3/delete_devices", {"devices": [bob.device_id]})
    assert await bob.is_signed_in()
    assert await bob.device_ids() == [bob.device_id]


async def test_deleting_a_device_needs_the_password_and_ends_its_session(
    server: AccountServer,
) -> None:
    phone, laptop = await server.has("alice"), await server.sign_in("alice")
    path = f"/v3/devices/{laptop.device_id}"
    wrong = await phone.confirms("DELETE", path, {}, password="guess")
    assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
    assert await laptop.is_signed_in()

    assert (await phone.confirms("DELETE", path, {})).json == {}
    assert not await laptop.is_signed_in()
    assert await phone.device_ids() == [phone.device_id]
    assert (await phone.confirms("DELETE", path, {})).status == 200  # gone already: no harm


async def test_several_devices_end_at_once(server: AccountServer) -> None:
    phone = await server.has("alice")
    others = [await server.sign_in("alice") for _ in range(3)]
    ids = [other.device_id for other in others] + ["UNKNOWN"] + ["X"] * 40_000
    answer = await phone.confirms("POST", "/v3/delete_devices", {"devices": ids})
    assert answer.status == 200
    assert [await other.is_signed_in() for other in others] == [False] * 3
    assert await phone.is_signed_in()


async def test_odd_device_names_and_ids_are_refused_or_cut(server: AccountServer) -> None:
    alice = await server.has("alice")
    mine = f"/v3/devices/{alice.device_id}"
    for body in ({"display_name": "x" * 300}, {"display_name": "a\x00"}, {"display_name": 5}):
        assert (await alice.calls("PUT", mine, body)).status == 400
    assert (await alice.calls("GET", "/v3/devices/a%00b")).errcode == "M_INVALID_PARAM"
    assert (await alice.calls("GET", "/v3/devices/%ff")).errcode == "M_INVALID_PARAM"
    long = await server.sign_in("alice", initial_device_display_name="驿" * 200)
    shown = await long.calls("GET", f"/v3/devices/{long.device_id}")
    assert shown.json["display_name"] == "驿" * 85


async def test_when_and_where_a_device_was_last_seen_is_shown_and_kept(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    server.clock.pass_seconds(60)
    await alice.calls("GET", "/v3/account/whoami")
    seen_ms = server.clock.now_ms()
    path = f"/v3/devices/{alice.device_id}"
    before = (await alice.calls("GET", path)).json
    await server.services.sessions.tidy()
    [stored] = await find_devices(server.db, UserID(alice.user_id))
    for at, address in (
        (before["last_seen_ts"], before["last_seen_ip"]),
        (stored.last_seen_ms, stored.last_seen_ip),
    ):
        assert (at, address) == (seen_ms, "127.0.0.1")


async def test_a_confirmation_begun_for_one_device_is_refused_for_another(
    server: AccountServer,
) -> None:
    alice = await server.has("alice")
    asked = await alice.calls("DELETE", "/v3/devices/ONE", {})
    assert asked.status == 401
    auth = {"type": "m.login.password", "password": PASSWORD, "session": asked.json["session"]}
    other = await alice.calls("DELETE", "/v3/devices/TWO", {"auth": auth})
    assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
    assert (await alice.calls("DELETE", "/v3/devices/ONE", {"auth": auth})).status == 200
