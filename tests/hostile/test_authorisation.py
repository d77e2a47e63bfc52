"""Every endpoint refuses whom it must: a table says whom, and every endpoint has its row.

The columns of `permissions.tsv`:

who        anybody; optional: with a token or without; user; admin; service: an application service;
           server: another homeserver (tests/federation); own: it looks at the token itself
guest      spec: a guest may, as the specification lists; more: we allow it besides; no
suspended  whether a suspended account may
stranger   what somebody hears who names what is another's: their private room, account, device or
           file; -: it names nothing of others

Spec: client-server API, "Guest Access", "Account suspension".
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import Auth, Route, Router
from yizhan_testing.attacks import Answer, Town
from yizhan_testing.homeserver import Person, homeserver_in_process

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = Router(list(ROUTES)).routes


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of an endpoint."""

    who: str
    guest: str
    suspended: str
    stranger: str


def read_table() -> dict[tuple[str, str], Row]:
    with (Path(__file__).parent / "permissions.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    table = {
        (row["method"], row["path"]): Row(
            row["who"], row["guest"], row["suspended"], row["stranger"]
        )
        for row in rows
    }
    assert len(table) == len(rows)
    return table


TABLE = read_table()

WHO = {
    Auth.NONE: {"anybody", "own"},
    Auth.OPTIONAL_APPSERVICE: {"anybody"},
    Auth.OPTIONAL: {"optional"},
    Auth.USER: {"user"},
    Auth.ADMIN: {"admin"},
    Auth.APPSERVICE: {"service"},
    Auth.SERVER: {"server"},
}

BODIES: dict[str, Any] = {
    "/devices/{device_id}": {"display_name": "x"},
    "/directory/list/room/{room_id}": {"visibility": "public"},
    "/profile/{user_id}/{field}": {"displayname": "x"},
    "/presence/{user_id}/status": {"presence": "online"},
    "/typing/{user_id}": {"typing": True, "timeout": 1000},
    "/upgrade": {"new_version": "12"},
    "/report/{event_id}": {"reason": "x"},
}
"""What must be there for an endpoint to look whose things are meant."""


def rows(**wanted: str) -> Iterator[Route]:
    """The endpoints whose rows say this."""
    found = 0
    for route in ALL:
        row = TABLE[route.method, route.path]
        if all(getattr(row, column) in value.split() for column, value in wanted.items()):
            found += 1
            yield route
    assert found, f"no row says {wanted}"


def path_of(route: Route, town: Town, **named: str) -> str:
    values = {
        "room_id": town.room, "room": town.room, "user_id": town.alice.user_id,
        "event_id": town.event, "type": "m.room.message", "server_name": "test.example",
        "field": "displayname", "alias": "#office:test.example",
        "device_id": town.alice.device_id, **named,
    }  # fmt: skip
    if "/receipt/" in route.path:
        values["type"] = "m.read"
    path = "/".join(
        quote(values.get(segment[1:-1], "x"), safe="") if segment.startswith("{") else segment
        for segment in route.path.split("/")
    )
    if path.endswith("/v3/events"):
        # Nobody waits for what may happen.
        return f"{path}?timeout=0&room_id={quote(town.room)}"
    return f"{path}?ts=0&dir=f" if path.endswith("/timestamp_to_event") else path


async def asks(town: Town, route: Route, person: Person, body: Any = None, **named: str) -> Answer:
    """Call an endpoint about alice's things as somebody else."""
    if body is None:
        body = next((b for end, b in BODIES.items() if route.path.endswith(end)), {})
        if route.path.endswith(("/invite", "/kick", "/ban", "/unban")):
            body = {"user_id": town.bob.user_id}
        if route.method == "PUT" and route.path.endswith("/room/{alias}"):
            body = {"room_id": town.room}
    data = None if route.method == "GET" else orjson.dumps(body)
    return await town.calls(route.method, path_of(route, town, **named), data, token=person.token)


def test_every_endpoint_has_a_row_that_says_whom_it_serves() -> None:
    assert {(route.method, route.path) for route in ALL} == set(TABLE)
    for route in ALL:
        assert TABLE[route.method, route.path].who in WHO[route.auth], route.path


async def test_no_endpoint_serves_who_has_no_token_or_a_wrong_one(town: Town) -> None:
    for route in rows(who="user admin service own"):
        path = path_of(route, town)
        missing = await town.attacks(route.method, path, b"{}", token=None)
        assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN"), path
        for token in ("wrong", town.alice.token[:-1], town.alice.token + "x", "词", "%00", "'"):
            wrong = await town.attacks(route.method, path, b"{}", token=token)
            assert (wrong.status, wrong.errcode) == (401, "M_UNKNOWN_TOKEN"), (path, token)
    for route in rows(who="optional"):
        wrong = await town.attacks(route.method, path_of(route, town), b"{}", token="wrong")
        assert (wrong.status, wrong.errcode) == (401, "M_UNKNOWN_TOKEN"), route.path


async def test_a_person_is_no_application_service(town: Town) -> None:
    for route in rows(who="service"):
        answer = await town.attacks(route.method, path_of(route, town), b"{}")
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_who_is_not_an_administrator_is_no_administrator(town: Town) -> None:
    for route in rows(who="admin"):
        answer = await town.attacks(route.method, path_of(route, town), b"{}")
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), route.path


async def test_a_person_is_no_server(town: Town) -> None:
    for route in rows(who="server"):
        answer = await town.attacks(route.method, path_of(route, town), b"{}")
        assert answer.status in (401, 403), route.path


async def test_what_is_anothers_is_out_of_reach(town: Town) -> None:
    mallory = await town.homeserver.person("mallory")
    await town.alice.put(
        f"/v3/directory/room/{quote('#office:test.example', safe='')}", {"room_id": town.room}
    )
    made = await town.alice.post("/_matrix/media/v1/create", {})
    delays = "org.matrix.msc4140.delay=3600000"
    path = f"/v3/rooms/{quote(town.room)}/send/m.room.message/d?{delays}"
    delayed = await town.alice.put(path, {"body": "x"})
    for route in rows(stranger="403 404"):
        before = town.position
        answer = await asks(
            town, route, mallory,
            media_id=made["content_uri"].rpartition("/")[2], delay_id=delayed["delay_id"],
        )  # fmt: skip
        status = int(TABLE[route.method, route.path].stranger)
        assert (answer.status, answer.errcode) == (
            status, "M_FORBIDDEN" if status == 403 else "M_NOT_FOUND"
        ), (route.method, route.path, answer.body)  # fmt: skip
        assert town.position == before, route.path


@pytest.mark.parametrize("whom", ["guest", "suspended"])
async def test_guests_and_the_suspended_do_what_the_table_says(tmp_path: Path, whom: str) -> None:
    async with homeserver_in_process(
        tmp_path, **{"registration.guests": True, "presence.enabled": True}
    ) as server:
        alice, bob = await server.person("alice"), await server.person("bob")
        room = await alice.creates_room(name="局务会")
        town = Town(server, alice, bob, room, await alice.says(room, "你好"))
        if whom == "guest":
            url = f"{server.base_url}/_matrix/client/v3/register?kind=guest"
            async with server.http.post(url, json={}) as response:
                made = await response.json()
            person = Person(
                server.http, server.base_url, made["user_id"], made["device_id"],
                made["access_token"], "",
            )  # fmt: skip
            refusal, refused, allowed = "M_GUEST_ACCESS_FORBIDDEN", "no", "spec more"
        else:
            person = await server.person("eve")
            admin = await server.person("admin", admin=True)
            path = f"/v1/admin/suspend/{quote(person.user_id)}"
            await admin.put(path, {"suspended": True})
            refusal, refused, allowed = "M_USER_SUSPENDED", "no", "yes"
        for route in rows(**{whom: refused}):
            answer = await asks(town, route, person, user_id=person.user_id)
            assert (answer.status, answer.errcode) == (403, refusal), (route.method, route.path)
        for route in rows(**{whom: allowed}):
            answer = await asks(town, route, person, user_id=person.user_id)
            assert answer.errcode != refusal, (route.method, route.path)
            assert answer.status < 500, (route.method, route.path)


async def test_strange_authorization_headers_are_no_token(town: Town) -> None:
    for header in ("", "Bearer", "Bearer ", "Basic YTpi", "Bearer\t", town.alice.token, "bearer  "):
        answer = await town.attacks(
            "GET", "/_matrix/client/v3/account/whoami", token=None,
            headers={"Authorization": header},
        )  # fmt: skip
        assert (answer.status, answer.errcode) == (401, "M_MISSING_TOKEN"), header


async def test_a_token_ends_with_its_logout(town: Town) -> None:
    phone = await town.homeserver.signs_in("bob")
    await phone.post("/v3/logout", {})
    answer = await town.attacks("GET", "/_matrix/client/v3/sync", token=phone.token)
    assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert (await town.bob.get("/v3/account/whoami"))["user_id"] == town.bob.user_id
