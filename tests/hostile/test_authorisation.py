"""Every endpoint that demands an account refuses whoever has none. Made from the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import Auth, Route, Router

if TYPE_CHECKING:
    from yizhan_testing.attacks import Town

ALL = Router(list(ROUTES)).routes

OPEN = {
    # What a client asks before it has an account, and what other people's servers may read.
    ("GET", "/_matrix/client/versions"),
    ("GET", "/_matrix/client/v3/login"),
    ("POST", "/_matrix/client/v3/login"),
    ("POST", "/_matrix/client/v3/refresh"),
    ("GET", "/_matrix/client/v3/login/sso/redirect"),
    ("GET", "/_matrix/client/v3/login/sso/redirect/{idp_id}"),
    ("GET", "/_matrix/client/v1/auth_metadata"),
    # Two devices of somebody who is not signed in yet meet here: MSC4108.
    ("POST", "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc4108/rendezvous/{name}"),
    ("PUT", "/_matrix/client/unstable/org.matrix.msc4108/rendezvous/{name}"),
    ("DELETE", "/_matrix/client/unstable/org.matrix.msc4108/rendezvous/{name}"),
    ("POST", "/_matrix/client/v3/register"),
    ("GET", "/_matrix/client/v3/register/available"),
    ("GET", "/_matrix/client/v1/register/m.login.registration_token/validity"),
    # Addresses, of which nothing is known here.
    ("POST", "/_matrix/client/v3/register/email/requestToken"),
    ("POST", "/_matrix/client/v3/register/msisdn/requestToken"),
    ("POST", "/_matrix/client/v3/account/3pid/email/requestToken"),
    ("POST", "/_matrix/client/v3/account/3pid/msisdn/requestToken"),
    ("POST", "/_matrix/client/v3/account/password/email/requestToken"),
    ("POST", "/_matrix/client/v3/account/password/msisdn/requestToken"),
    ("GET", "/_matrix/client/v3/profile/{user_id}"),
    ("GET", "/_matrix/client/v3/profile/{user_id}/{field}"),
    ("GET", "/_matrix/client/v3/directory/room/{alias}"),
    ("GET", "/_matrix/client/v3/directory/list/room/{room_id}"),
    # The media endpoints from before authentication: they answer for old media only.
    ("GET", "/_matrix/media/v3/download/{server_name}/{media_id}"),
    ("GET", "/_matrix/media/v3/download/{server_name}/{media_id}/{file_name}"),
    ("GET", "/_matrix/media/v3/thumbnail/{server_name}/{media_id}"),
    # Authenticated by the OpenID token that it is asked about.
    ("GET", "/_matrix/federation/v1/openid/userinfo"),
    # Their own check: an expired token may still be logged out.
    ("POST", "/_matrix/client/v3/logout"),
    ("POST", "/_matrix/client/v3/logout/all"),
}


def path_of(route: Route, town: Town) -> str:
    values = {
        "room_id": town.room, "room": town.room, "user_id": town.alice.user_id,
        "event_id": town.event, "type": "m.room.message", "server_name": "test.example",
    }  # fmt: skip
    return "/".join(
        quote(values.get(segment[1:-1], "x"), safe="") if segment.startswith("{") else segment
        for segment in route.path.split("/")
    )


def test_only_the_listed_endpoints_are_open() -> None:
    found = {
        (route.method, route.path)
        for route in ALL
        if route.auth in (Auth.NONE, Auth.OPTIONAL_APPSERVICE)
    }
    assert {each for each in found if each[1].startswith("/_matrix/")} <= OPEN


async def test_no_endpoint_serves_who_has_no_token_or_a_wrong_one(town: Town) -> None:
    closed = [route for route in ALL if route.auth in (Auth.USER, Auth.ADMIN, Auth.APPSERVICE)]
    closed += [route for route in ALL if route.path.startswith("/_matrix/client/v3/logout")]
    assert len(closed) > 100
    for route in closed:
        path = path_of(route, town)
        missing = await town.attacks(route.method, path, b"{}", token=None)
        assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN"), path
        for token in ("wrong", town.alice.token[:-1], town.alice.token + "x", "词", "%00", "'"):
            wrong = await town.attacks(route.method, path, b"{}", token=token)
            assert (wrong.status, wrong.errcode) == (401, "M_UNKNOWN_TOKEN"), (path, token)


async def test_a_person_is_no_application_service(town: Town) -> None:
    only_theirs = [route for route in ALL if route.auth is Auth.APPSERVICE]
    assert only_theirs
    for route in only_theirs:
        answer = await town.attacks(route.method, path_of(route, town), b"{}")
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


async def test_who_is_not_an_administrator_is_no_administrator(town: Town) -> None:
    for route in ALL:
        if route.auth is Auth.ADMIN:
            answer = await town.attacks(route.method, path_of(route, town), b"{}")
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")


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
