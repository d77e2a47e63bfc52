"""Whatever an administrator changes is on the record: every endpoint is tried."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest_asyncio

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import Auth, Router
from yizhan_testing.homeserver import HomeserverInProcess, homeserver_in_process
from yizhan_testing.media import uploads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ACTS: dict[str, tuple[Any, str]] = {
    "PUT /_matrix/client/v1/admin/lock/{user_id}": ({"locked": False}, "unlock"),
    "PUT /_matrix/client/v1/admin/suspend/{user_id}": ({"suspended": False}, "unsuspend"),
    "PUT /_synapse/admin/v1/suspend/{user_id}": ({"suspend": False}, "unsuspend"),
    "PUT /_synapse/admin/v1/users/{user_id}/admin": ({"admin": False}, "admin_revoke"),
    "POST /_synapse/admin/v1/reset_password/{user_id}": (
        {"new_password": "a new password", "logout_devices": False},
        "password",
    ),
    "PUT /_synapse/admin/v2/users/{user_id}": ({"displayname": "x"}, "profile"),
    "PUT /_synapse/admin/v2/users/{user_id}/devices/{device_id}": (
        {"display_name": "x"},
        "rename_device",
    ),
    "DELETE /_synapse/admin/v2/users/{user_id}/devices/{device_id}": (None, "end_devices"),
    "POST /_synapse/admin/v2/users/{user_id}/delete_devices": (
        {"devices": "DEVICES"},
        "end_devices",
    ),
    "POST /_synapse/admin/v1/send_server_notice": (
        {"user_id": "USER", "content": {"body": "x"}},
        "server_notice",
    ),
    "PUT /_synapse/admin/v1/send_server_notice/{txn_id}": (
        {"user_id": "USER", "content": {"body": "x"}},
        "server_notice",
    ),
    "POST /_synapse/admin/v1/join/{room}": ({"user_id": "USER"}, "join"),
    "POST /_synapse/admin/v1/rooms/{room}/make_room_admin": (
        {"user_id": "USER"},
        "make_room_admin",
    ),
    "POST /_synapse/admin/v1/media/protect/{media_id}": ({}, "protect_media"),
    "POST /_synapse/admin/v1/media/unprotect/{media_id}": ({}, "unprotect_media"),
    "POST /_synapse/admin/v1/media/quarantine/{server_name}/{media_id}": ({}, "quarantine"),
    "POST /_synapse/admin/v1/media/unquarantine/{server_name}/{media_id}": ({}, "unquarantine"),
    "POST /_synapse/admin/v1/room/{room_id}/media/quarantine": ({}, "quarantine"),
    "POST /_synapse/admin/v1/user/{user_id}/media/quarantine": ({}, "quarantine"),
    "DELETE /_synapse/admin/v1/media/{server_name}/{media_id}": (None, "delete_media"),
    "POST /_synapse/admin/v1/purge_media_cache": (None, "purge_remote_media"),
    "DELETE /_synapse/admin/v1/users/{user_id}/media": (None, "delete_media"),
    "POST /_synapse/admin/v1/purge_history/{room_id}/{event_id}": ({}, "purge_history"),
    "POST /_synapse/admin/v1/purge_history/{room_id}": ({"purge_up_to_ts": 1}, "purge_history"),
    "PUT /_synapse/admin/v1/rooms/{room_id}/block": ({"block": False}, "unblock_room"),
    "DELETE /_synapse/admin/v1/rooms/{room_id}": ({"purge": False}, "remove_room"),
    "DELETE /_synapse/admin/v2/rooms/{room_id}": ({}, "remove_room"),
    "POST /_synapse/admin/v1/registration_tokens/new": ({"token": "spring"}, "token"),
    "PUT /_synapse/admin/v1/registration_tokens/{token}": ({"uses_allowed": 1}, "change_token"),
    "DELETE /_synapse/admin/v1/registration_tokens/{token}": (None, "delete_token"),
    "POST /_synapse/admin/v1/deactivate/{user_id}": ({}, "deactivate"),
}
"""In this order, the harmless first: what is asked, and what the record calls it."""

QUERIES = {"POST /_synapse/admin/v1/purge_media_cache": {"before_ts": "1"}}


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path) -> AsyncIterator[HomeserverInProcess]:
    settings = {"server_notices.localpart": "notices"}
    async with homeserver_in_process(tmp_path, **settings) as server:
        yield server


async def test_every_act_is_on_the_record(homeserver: HomeserverInProcess) -> None:
    admin, alice = await homeserver.person("admin", admin=True), await homeserver.person("alice")
    room = await alice.creates_room(preset="public_chat")
    event = await alice.says(room, "x")
    media_id = (await uploads(alice, b"x")).partition("/")[2]
    values = {
        "user_id": alice.user_id, "device_id": alice.device_id, "room": room, "room_id": room,
        "event_id": event, "media_id": media_id, "server_name": "test.example", "txn_id": "1",
        "token": "spring",
    }  # fmt: skip
    changing = {
        f"{route.method} {route.path}"
        for route in Router(list(ROUTES)).routes
        if route.auth is Auth.ADMIN and route.method != "GET"
    }
    assert changing == set(ACTS)
    for endpoint, (body, action) in ACTS.items():
        method, _, pattern = endpoint.partition(" ")
        if action == "end_devices":
            phone = await homeserver.signs_in("alice", "a new password")
            values["device_id"] = phone.device_id
        path = "/".join(
            quote(values[part[1:-1]], safe="") if part.startswith("{") else part
            for part in pattern.split("/")
        )
        names = {"USER": alice.user_id, "DEVICES": [values["device_id"]]}
        asked = body and {key: names.get(str(value), value) for key, value in body.items()}
        answer = await admin.call(method, path, asked, params=QUERIES.get(endpoint))
        latest = (await admin.get("/_yizhan/admin/v1/record", limit="3"))["record"]
        acts = [(act["actor"], act["action"]) for act in latest]
        assert (admin.user_id, action) in acts, endpoint
        if "purge_id" in answer:
            status = f"/_synapse/admin/v1/purge_history_status/{answer['purge_id']}"
            async with asyncio.timeout(20):
                while (await admin.get(status))["status"] == "active":
                    pass
