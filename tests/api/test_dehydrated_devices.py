"""Devices that receive for people who are signed in nowhere."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from yizhan_testing.crypto_identity import CryptoDevice
from yizhan_testing.homeserver import Person

PATH = "/unstable/org.matrix.msc3814.v1/dehydrated_device"


def sleeping(person: Person, device_id: str) -> dict[str, Any]:
    return {
        "device_id": device_id,
        "device_data": {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "x"},
        "initial_device_display_name": "Dehydrated device",
        "device_keys": CryptoDevice(person.user_id, device_id).keys(),
    }


async def sends(person: Person, other: Person, device_id: str, text: str) -> None:
    await person.put(
        f"/v3/sendToDevice/m.test/{text}", {"messages": {other.user_id: {device_id: {"t": text}}}}
    )


async def test_a_sleeping_device_receives_until_it_is_ended(alice: Person, bob: Person) -> None:
    assert await alice.put(PATH, sleeping(alice, "SLEEPER")) == {"device_id": "SLEEPER"}
    known = await bob.post("/v3/keys/query", {"device_keys": {alice.user_id: []}})
    assert "SLEEPER" in known["device_keys"][alice.user_id]
    kept = await alice.get(PATH)
    assert kept["device_id"] == "SLEEPER"
    assert kept["device_data"]["device_pickle"] == "x"

    for text in ("1", "2"):
        await sends(bob, alice, "SLEEPER", text)
    events = f"{PATH}/SLEEPER/events"
    first = await alice.post(events, {})
    assert [event["content"]["t"] for event in first["events"]] == ["1", "2"]
    assert await alice.post(events, {}) == first, "nothing is lost before it was received"
    after = await alice.post(events, {"next_batch": first["next_batch"]})
    assert after["events"] == []

    assert (await bob.refused("GET", PATH)).errcode == "M_NOT_FOUND"
    assert (await bob.refused("POST", events, {})).errcode == "M_NOT_FOUND"
    assert (await alice.refused("POST", events, {"next_batch": "x"})).errcode == "M_INVALID_PARAM"
    assert await alice.delete(PATH) == {"device_id": "SLEEPER"}
    assert (await alice.refused("GET", PATH)).errcode == "M_NOT_FOUND"
    known = await bob.post("/v3/keys/query", {"device_keys": {alice.user_id: []}})
    assert "SLEEPER" not in known["device_keys"].get(alice.user_id, {})


async def test_a_new_sleeper_takes_the_place_of_the_one_before(alice: Person) -> None:
    await alice.put(PATH, sleeping(alice, "FIRST"))
    await alice.put(PATH, sleeping(alice, "SECOND"))
    assert (await alice.get(PATH))["device_id"] == "SECOND"
    devices = {each["device_id"] for each in (await alice.get("/v3/devices"))["devices"]}
    assert devices == {alice.device_id, "SECOND"}


async def test_a_sleeper_that_is_not_in_order_changes_nothing(alice: Person, bob: Person) -> None:
    await alice.put(PATH, sleeping(alice, "FIRST"))
    good = sleeping(alice, "OTHER")
    for wrong in (
        {**good, "device_keys": CryptoDevice(bob.user_id, "OTHER").keys()},
        {**good, "device_id": alice.device_id},
        {**good, "device_data": "x"},
        {**good, "device_data": {"x": "x" * 70_000}},
        {"device_id": "OTHER", "device_data": {}},
    ):
        refused = await alice.refused("PUT", PATH, wrong)
        assert refused.status == 400
    assert (await alice.get(PATH))["device_id"] == "FIRST"
    devices = {each["device_id"] for each in (await alice.get("/v3/devices"))["devices"]}
    assert devices == {alice.device_id, "FIRST"}
    await alice.delete(f"{PATH}?user={quote(bob.user_id)}")
    assert (await alice.refused("DELETE", PATH)).errcode == "M_NOT_FOUND"
