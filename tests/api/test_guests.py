"""Guests: people without a password, in rooms that admit them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import pytest_asyncio

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import Auth
from yizhan_testing.homeserver import (
    HomeserverInProcess,
    JsonObject,
    Person,
    Refused,
    homeserver_in_process,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.databases import Dialect

OPEN = [{"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}]
CLOSED = {"guest_access": "forbidden"}


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path, dialect: Dialect) -> AsyncIterator[HomeserverInProcess]:
    settings: JsonObject = {
        "registration.guests": True,
        "registration.enabled": True,
        "registration.require_token": False,
    }
    async with homeserver_in_process(tmp_path, dialect, **settings) as server:
        yield server


async def test_a_guest_has_a_name_and_follows_one_room_at_a_time(
    homeserver: HomeserverInProcess,
) -> None:
    alice = await homeserver.person("alice")
    room = await alice.creates_room(preset="public_chat")
    world = {"history_visibility": "world_readable"}
    await alice.sets(room, "m.room.history_visibility", world)
    guest = await visits(homeserver)
    name = await guest.get(f"/v3/profile/{guest.user_id}/displayname")
    assert name == {"displayname": guest.user_id[1:].partition(":")[0]}
    refused = await guest.refused("GET", "/v3/events?timeout=0")
    assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    assert (await guest.get("/v3/events", timeout="0", room_id=room))["chunk"] == []


async def registers(
    homeserver: HomeserverInProcess, body: JsonObject, query: str = ""
) -> JsonObject:
    url = f"{homeserver.base_url}/_matrix/client/v3/register{query}"
    async with homeserver.http.post(url, json=body) as response:
        answer: JsonObject = await response.json()
        if response.status >= 400:
            raise Refused(response.status, answer)
        return answer


async def visits(homeserver: HomeserverInProcess) -> Person:
    answer = await registers(homeserver, {}, "?kind=guest")
    return Person(
        homeserver.http, homeserver.base_url, answer["user_id"], answer["device_id"],
        answer["access_token"], "",
    )  # fmt: skip


async def test_a_guest_talks_where_guests_are_admitted(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", initial_state=OPEN)
    closed = await alice.creates_room(preset="public_chat")
    guest = await visits(homeserver)
    assert (await guest.get("/v3/account/whoami"))["is_guest"] is True

    await guest.joins(room)
    await guest.says(room, "我来看看")
    assert (await alice.syncs()).texts(room) == ["我来看看"]
    await guest.put(f"/v3/profile/{quote(guest.user_id)}/displayname", {"displayname": "访客"})
    member = await guest.get(f"/v3/rooms/{quote(room)}/state/m.room.member/{guest.user_id}")
    assert member["displayname"] == "访客"

    refused = await guest.refused("POST", f"/v3/join/{quote(closed)}", {})
    assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")
    refused = await guest.refused(
        "PUT", f"/v3/rooms/{quote(closed)}/state/m.room.member/{guest.user_id}",
        {"membership": "join"},
    )  # fmt: skip
    assert refused.errcode == "M_GUEST_ACCESS_FORBIDDEN"
    refused = await guest.refused("PUT", f"/v3/profile/{quote(guest.user_id)}/x.y", {"x.y": 1})
    assert refused.errcode == "M_GUEST_ACCESS_FORBIDDEN"


async def test_guests_leave_when_they_are_no_longer_admitted(
    homeserver: HomeserverInProcess, alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="public_chat", initial_state=OPEN)
    guest = await visits(homeserver)
    await guest.joins(room)
    await bob.joins(room)
    await alice.sets(room, "m.room.guest_access", CLOSED)
    joined = (await alice.get(f"/v3/rooms/{quote(room)}/joined_members"))["joined"]
    assert set(joined) == {alice.user_id, bob.user_id}


async def test_what_is_not_meant_for_guests_is_closed_to_them(
    homeserver: HomeserverInProcess, alice: Person
) -> None:
    guest = await visits(homeserver)
    closed = [
        route
        for routes in ROUTES
        for route in routes.routes
        if not route.open_to_guests and route.auth is Auth.USER
    ]
    assert len(closed) > 60
    for route in closed:
        refused = await guest.refused(route.method, route.path.replace("{", "").replace("}", ""))
        assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN"), route.path


async def test_a_guest_becomes_a_user(homeserver: HomeserverInProcess, alice: Person) -> None:
    closed = await alice.creates_room(preset="public_chat")
    guest, other = await visits(homeserver), await visits(homeserver)
    wish = {
        "username": guest.user_id[1:].partition(":")[0],
        "password": "correct horse battery",
        "guest_access_token": guest.token,
        "auth": {"type": "m.login.dummy"},
    }
    for wrong in (
        {**wish, "guest_access_token": other.token},
        {**wish, "guest_access_token": alice.token, "username": "alice"},
        {**wish, "username": "somebody"},
    ):
        with pytest.raises(Refused) as caught:
            await registers(homeserver, wrong)
        assert caught.value.errcode == "M_FORBIDDEN", wrong

    answer = await registers(homeserver, wish)
    assert answer["user_id"] == guest.user_id
    assert (await guest.refused("GET", "/v3/account/whoami")).errcode == "M_UNKNOWN_TOKEN"
    guest.token = answer["access_token"]
    assert (await guest.get("/v3/account/whoami"))["is_guest"] is False
    await guest.joins(closed)
    await homeserver.signs_in(guest.user_id, "correct horse battery")


async def test_guests_are_admitted_only_where_that_is_switched_on(
    tmp_path: Path, dialect: Dialect
) -> None:
    async with homeserver_in_process(tmp_path, dialect) as homeserver:
        with pytest.raises(Refused) as caught:
            await registers(homeserver, {}, "?kind=guest")
        assert caught.value.errcode == "M_GUEST_ACCESS_FORBIDDEN"
