"""Suspended, locked and erased accounts, and cryptographic identities that are replaced."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from yizhan_server.user_command import main
from yizhan_testing.account_server import PASSWORD, AccountServer, Person
from yizhan_testing.browser import Browser
from yizhan_testing.crypto_identity import CrossSigningIdentity
from yizhan_testing.homeserver import write_secrets
from yizhan_testing.oauth_client import OAuthClient


async def makes_room(person: Person, **wish: Any) -> str:
    answer = await person.calls("POST", "/v3/createRoom", wish)
    assert answer.status == 200, answer.json
    return quote(str(answer.json["room_id"]), safe="")


async def says(person: Person, room: str, text: str) -> Any:
    path = f"/v3/rooms/{room}/send/m.room.message/{secrets.token_hex(4)}"
    return await person.calls("PUT", path, {"msgtype": "m.text", "body": text})


async def test_administrators_lock_and_suspend_and_see_it(server: AccountServer) -> None:
    boss, other = await server.has("boss", admin=True), await server.has("chief", admin=True)
    alice = await server.has("alice")
    for what, key in (("suspend", "suspended"), ("lock", "locked")):
        path = f"/v1/admin/{what}/"
        assert (await boss.calls("GET", path + alice.user_id)).json == {key: False}
        answer = await boss.calls("PUT", path + alice.user_id, {key: True})
        assert (answer.status, answer.json) == (200, {key: True})
        assert (await boss.calls("GET", path + alice.user_id)).json == {key: True}
        await boss.calls("PUT", path + alice.user_id, {key: False})

        assert (await alice.calls("GET", path + boss.user_id)).errcode == "M_FORBIDDEN"
        assert (await alice.calls("PUT", path + alice.user_id, {key: False})).status == 403
        for subject in (boss.user_id, other.user_id):
            answer = await boss.calls("PUT", path + subject, {key: True})
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        answer = await boss.calls("PUT", path + "@x:elsewhere", {key: True})
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
        answer = await boss.calls("GET", path + "@nobody:home.test")
        assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
        assert (await boss.calls("PUT", path + alice.user_id, {})).errcode == "M_BAD_JSON"
    capabilities = [await person.calls("GET", "/v3/capabilities") for person in (boss, alice)]
    managing = [each.json["capabilities"].get("m.account_management") for each in capabilities]
    assert managing == [{"lock": True, "suspend": True}, None]
    acts = [act["action"] for act in await server.administration.list_acts(10)]
    assert acts == ["unlock", "lock", "unsuspend", "suspend"]


async def test_a_suspended_account_reads_and_leaves_and_writes_nothing(
    server: AccountServer,
) -> None:
    boss, alice = await server.has("boss", admin=True), await server.has("alice")
    bob = await server.has("bob")
    room = await makes_room(bob, preset="public_chat")
    other = await makes_room(bob, preset="public_chat")
    await alice.calls("POST", f"/v3/rooms/{room}/join", {})
    own = (await says(alice, room, "mine")).json["event_id"]
    his = (await says(bob, room, "his")).json["event_id"]
    await boss.calls("PUT", f"/v1/admin/suspend/{alice.user_id}", {"suspended": True})

    refused = [
        await says(alice, room, "again"),
        await alice.calls("PUT", f"/v3/rooms/{room}/state/m.room.topic", {"topic": "x"}),
        await alice.calls("POST", f"/v3/rooms/{other}/join", {}),
        await alice.calls("POST", f"/v3/knock/{other}", {}),
        await alice.calls("POST", f"/v3/rooms/{room}/invite", {"user_id": boss.user_id}),
        await alice.calls("POST", "/v3/createRoom", {}),
        await alice.calls("PUT", f"/v3/profile/{alice.user_id}/displayname", {"displayname": "x"}),
        await alice.calls("PUT", f"/v3/rooms/{room}/redact/{quote(his)}/1", {}),
    ]
    assert [(each.status, each.json["errcode"]) for each in refused] == [
        (403, "M_USER_SUSPENDED")
    ] * len(refused)

    synced = await alice.calls("GET", "/v3/sync")
    assert "his" in str(synced.json)
    assert (await says(bob, room, "later")).status == 200
    again = await server.sign_in("alice")
    assert (await says(again, room, "from another device")).errcode == "M_USER_SUSPENDED"
    allowed: list[tuple[str, str, dict[str, Any]]] = [
        ("PUT", f"/v3/rooms/{room}/redact/{quote(own)}/2", {}),
        ("POST", f"/v3/rooms/{room}/receipt/m.read/{quote(his)}", {}),
        ("POST", "/v3/keys/query", {"device_keys": {}}),
        ("POST", "/unstable/org.matrix.simplified_msc3575/sync", {"lists": {}}),
        ("POST", f"/v3/rooms/{room}/leave", {}),
    ]
    for method, path, body in allowed:
        answer = await alice.calls(method, path, body)
        assert answer.status == 200, (path, answer.json)
    await boss.calls("PUT", f"/v1/admin/suspend/{alice.user_id}", {"suspended": False})
    assert (await alice.calls("POST", f"/v3/rooms/{room}/join", {})).status == 200


async def test_what_an_erased_account_wrote_is_hidden_from_newcomers(
    server: AccountServer,
) -> None:
    alice, bob, carol = [await server.has(name) for name in ("alice", "bob", "carol")]
    room = await makes_room(bob, preset="public_chat")
    await alice.calls("POST", f"/v3/rooms/{room}/join", {})
    await says(bob, room, "kept")
    await says(alice, room, "to be forgotten")
    asked = await alice.confirms("POST", "/v3/account/deactivate", {"erase": True})
    assert asked.status == 200
    await carol.calls("POST", f"/v3/rooms/{room}/join", {})

    path = f"/v3/rooms/{room}/messages?dir=b&limit=50"
    old, new = [await person.calls("GET", path) for person in (bob, carol)]

    assert "to be forgotten" in str(old.json)
    assert "to be forgotten" not in str(new.json)
    assert "kept" in str(new.json)
    synced = await carol.calls("GET", "/v3/sync")
    assert "kept" in str(synced.json)
    assert "to be forgotten" not in str(synced.json)


async def test_without_erasure_messages_stay_as_they_are(server: AccountServer) -> None:
    alice, bob, carol = [await server.has(name) for name in ("alice", "bob", "carol")]
    room = await makes_room(bob, preset="public_chat")
    await alice.calls("POST", f"/v3/rooms/{room}/join", {})
    await says(alice, room, "to be kept")
    await alice.confirms("POST", "/v3/account/deactivate", {})
    await carol.calls("POST", f"/v3/rooms/{room}/join", {})

    answer = await carol.calls("GET", f"/v3/rooms/{room}/messages?dir=b&limit=50")

    assert "to be kept" in str(answer.json)


# region cryptographic identities


async def uploads(server: AccountServer, token: str, user_id: str, auth: Any = None) -> Any:
    body = CrossSigningIdentity(user_id).body()
    if auth is not None:
        body["auth"] = auth
    return await server.call("POST", "/v3/keys/device_signing/upload", body, token=token)


async def test_an_oauth_client_is_sent_to_the_page_that_allows_new_keys(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    client = await OAuthClient.register(server)
    token = (await client.signs_in(browser, "alice")).json["access_token"]
    assert (await uploads(server, token, alice.user_id)).status == 200

    asked = await uploads(server, token, alice.user_id)
    assert asked.status == 401
    assert {"stages": ["m.oauth"]} in asked.json["flows"]
    url = asked.json["params"]["m.oauth"]["url"]
    assert asked.json["params"]["org.matrix.cross_signing_reset"]["url"] == url
    auth = {"session": asked.json["session"]}
    assert (await uploads(server, token, alice.user_id, auth)).status == 401

    page = await browser.opens(url)
    page = await browser.sends(page.form("/reset-identity"))
    assert "The reset is allowed" in page.text
    assert (await uploads(server, token, alice.user_id, auth)).status == 200
    assert (await uploads(server, token, alice.user_id, auth)).status == 401


async def test_the_permission_lasts_ten_minutes(server: AccountServer, browser: Browser) -> None:
    alice = await server.has("alice")
    await uploads(server, alice.token, alice.user_id)
    page = await browser.opens("/_yizhan/account/reset-identity")
    page = await browser.signs_in(page, "alice", PASSWORD)
    await browser.sends(page.form("/reset-identity"))
    server.clock.pass_seconds(601)

    assert (await uploads(server, alice.token, alice.user_id)).status == 401


async def test_an_old_session_in_a_browser_does_not_allow_new_keys(
    server: AccountServer, browser: Browser
) -> None:
    alice = await server.has("alice")
    await uploads(server, alice.token, alice.user_id)
    page = await browser.opens("/_yizhan/account/reset-identity")
    page = await browser.signs_in(page, "alice", PASSWORD)
    server.clock.pass_seconds(601)

    page = await browser.sends(page.form("/reset-identity"))

    assert "Confirm that it is you" in page.text
    assert (await uploads(server, alice.token, alice.user_id)).status == 401


async def test_an_administrator_allows_new_keys_once(server: AccountServer) -> None:
    alice, bob = await server.has("alice"), await server.has("bob")
    for person in (alice, bob):
        await uploads(server, person.token, person.user_id)
    await server.administration.allow_identity_reset("console:test", "alice")

    assert (await uploads(server, bob.token, bob.user_id)).status == 401
    assert (await uploads(server, alice.token, alice.user_id)).status == 200
    assert (await uploads(server, alice.token, alice.user_id)).status == 401
    [act] = await server.administration.list_acts(1)
    assert (act["action"], act["subject"]) == ("reset_identity", alice.user_id)


@pytest.mark.parametrize("flow", ["m.login.password"])
async def test_who_signed_in_by_password_confirms_by_password(
    server: AccountServer, flow: str
) -> None:
    alice = await server.has("alice")
    await uploads(server, alice.token, alice.user_id)

    asked = await uploads(server, alice.token, alice.user_id)

    assert asked.json["flows"] == [{"stages": [flow]}]


def test_the_command_suspends_and_allows_new_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    write_secrets(tmp_path)
    (tmp_path / "yizhan.toml").write_text('server_name = "home.test"\n')

    for words in (
        ["add", "alice"],
        ["suspend", "alice"],
        ["reset-identity", "alice"],
    ):
        assert main(["--data", str(tmp_path), *words]) == 0
    capsys.readouterr()
    assert main(["--data", str(tmp_path), "list", "--json"]) == 0
    [person] = json.loads(capsys.readouterr().out)
    assert person["suspended"] is True
    assert main(["--data", str(tmp_path), "unsuspend", "alice"]) == 0
    assert main(["--data", str(tmp_path), "reset-identity", "nobody"]) == 1
    capsys.readouterr()
    assert main(["--data", str(tmp_path), "log", "--json"]) == 0
    acts = [act["action"] for act in json.loads(capsys.readouterr().out)]
    assert acts == ["unsuspend", "reset_identity", "suspend", "add"]
