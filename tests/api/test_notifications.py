"""GET /notifications, and OpenID tokens for other services."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from yizhan_server.accounts.openid import OpenidTokens
from yizhan_server.clock import SystemClock
from yizhan_server.protocol.identifiers import UserID

if TYPE_CHECKING:
    import pytest

    from yizhan_testing.homeserver import HomeserverInProcess, JsonObject, Person

USERINFO = "/_matrix/federation/v1/openid/userinfo"


def bodies(page: JsonObject) -> list[str]:
    return [each["event"]["content"].get("body") for each in page["notifications"]]


async def test_notifications_are_listed_newest_first_with_what_was_read(
    alice: Person, bob: Person
) -> None:
    room = await alice.creates_room(preset="private_chat")
    await alice.says(room, "before bob")
    await alice.invites(room, bob)
    (invite,) = (await bob.get("/v3/notifications"))["notifications"]
    assert (invite["room_id"], invite["event"]["type"]) == (room, "m.room.member")
    await bob.joins(room)
    first = await alice.says(room, "一")
    await bob.says(room, "mine")
    await alice.says(room, "二", **{"m.mentions": {"user_ids": [bob.user_id]}})
    await bob.post(f"/v3/rooms/{quote(room)}/receipt/m.read/{quote(first)}", {})

    page = await bob.get("/v3/notifications", limit="2")
    assert bodies(page) == ["二", "一"]
    assert [each["read"] for each in page["notifications"]] == [False, True]
    assert "notify" in page["notifications"][0]["actions"]
    assert page["notifications"][0]["event"]["event_id"].startswith("$")
    rest = await bob.get("/v3/notifications", limit="2", **{"from": page["next_token"]})
    assert [each["event"]["event_id"] for each in rest["notifications"]] == [
        invite["event"]["event_id"]
    ]
    last = await bob.get("/v3/notifications", limit="2", **{"from": rest["next_token"]})
    assert last == {"notifications": []}
    assert bodies(await bob.get("/v3/notifications", only="highlight")) == ["二"]
    assert (await bob.refused("GET", "/v3/notifications?from=x")).errcode == "M_INVALID_PARAM"
    assert (await bob.refused("GET", "/v3/notifications?limit=0")).status == 400


async def test_a_service_learns_whose_token_it_was_shown(
    alice: Person, bob: Person, homeserver: HomeserverInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/v3/user/{alice.user_id}/openid/request_token"
    assert (await bob.refused("POST", path, {})).errcode == "M_FORBIDDEN"
    given = await alice.post(path, {})
    token = given.pop("access_token")
    assert given == {
        "token_type": "Bearer",
        "matrix_server_name": homeserver.server_name,
        "expires_in": 3600,
    }

    async def asks(shown: str | None) -> tuple[int, JsonObject]:
        params = {} if shown is None else {"access_token": shown}
        url = homeserver.base_url + USERINFO
        async with homeserver.http.get(url, params=params) as response:
            return response.status, await response.json()

    assert await asks(token) == (200, {"sub": alice.user_id})
    assert (await asks(None))[1]["errcode"] == "M_MISSING_TOKEN"
    assert (await asks("another"))[1]["errcode"] == "M_UNKNOWN_TOKEN"
    # It opens nothing else, and no access token opens this.
    assert (await asks(alice.token))[0] == 401
    headers = {"Authorization": f"Bearer {token}"}
    url = f"{homeserver.base_url}/_matrix/client/v3/account/whoami"
    async with homeserver.http.get(url, headers=headers) as response:
        assert response.status == 401

    now = SystemClock().now_ms()
    monkeypatch.setattr(SystemClock, "now_ms", lambda _: now + 3601 * 1000)
    tokens: OpenidTokens = homeserver.parts.services.openid_tokens
    assert (await asks(token))[0] == 401
    assert await tokens.find_user(await tokens.make(UserID(bob.user_id))) == bob.user_id
