from __future__ import annotations

import base64
import hmac
from hashlib import sha1
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from yizhan_testing.account_server import AccountServer, StartServer


async def test_anybody_learns_versions_and_the_signed_in_learn_capabilities(
    server: AccountServer,
) -> None:
    versions = await server.call("GET", "/versions")
    assert "v1.11" in versions.json["versions"]
    assert (await server.call("GET", "/v3/capabilities")).status == 401
    alice = await server.has("alice")
    capabilities = (await alice.calls("GET", "/v3/capabilities")).json["capabilities"]
    assert capabilities["m.room_versions"]["default"] == "12"
    assert capabilities["m.room_versions"]["available"]["6"] == "stable"
    assert (await alice.calls("GET", "/v3/thirdparty/protocols")).json == {}


async def test_well_known_tells_the_public_address(start_server: StartServer) -> None:
    server = await start_server(public__client_baseurl="https://im.home.test")
    prefix = "/.well-known/matrix"
    client = await server.call("GET", "/client", prefix=prefix)
    assert client.json == {"m.homeserver": {"base_url": "https://im.home.test"}}
    other = await server.call("GET", "/server", prefix=prefix)
    assert other.json == {"m.server": "im.home.test:443"}
    for optional in ("/support", "/policy_server"):
        missing = await server.call("GET", optional, prefix=prefix)
        assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
    alice = await server.has("alice")
    assert alice.session["well_known"] == client.json


async def test_well_known_tells_whom_to_ask(start_server: StartServer) -> None:
    server = await start_server(
        public__support_contacts=["@li:home.test", "help@home.test"],
        public__support_page="https://home.test/help",
    )
    support = await server.call("GET", "/support", prefix="/.well-known/matrix")
    assert support.json == {
        "contacts": [
            {"matrix_id": "@li:home.test", "role": "m.role.admin"},
            {"email_address": "help@home.test", "role": "m.role.admin"},
        ],
        "support_page": "https://home.test/help",
    }


async def test_well_known_tells_the_key_of_the_policy_server(start_server: StartServer) -> None:
    key = "6yhHGKhCiXTSEN2ksjV7kX/N6rBQZ3Xb+M7LlC6NS+s"
    server = await start_server(public__policy_server_key=key)
    policy = await server.call("GET", "/policy_server", prefix="/.well-known/matrix")
    assert policy.json == {"public_keys": {"ed25519": key}}


async def test_without_turn_the_answer_is_empty(server: AccountServer) -> None:
    alice = await server.has("alice")
    assert (await alice.calls("GET", "/v3/voip/turnServer")).json == {}


async def test_turn_credentials_are_what_the_turn_server_computes(
    start_server: StartServer, tmp_path: Path
) -> None:
    file = tmp_path / "turn.secret"
    file.touch(mode=0o600)
    file.write_text("turn secret\n")
    server = await start_server(
        turn__uris=["turn:turn.home.test:3478?transport=udp"], turn__shared_secret_file=str(file)
    )
    alice = await server.has("alice")
    answer = (await alice.calls("GET", "/v3/voip/turnServer")).json
    expires = server.clock.now_ms() // 1000 + answer["ttl"]
    assert answer["username"] == f"{expires}:{alice.user_id}"
    mac = hmac.new(b"turn secret", answer["username"].encode(), sha1).digest()
    assert base64.b64decode(answer["password"]) == mac
    assert answer["uris"] == ["turn:turn.home.test:3478?transport=udp"]


async def test_unknown_endpoints_and_methods_say_so_to_browsers_too(
    server: AccountServer,
) -> None:
    unknown = await server.call("GET", "/unstable/org.matrix.msc2965/auth_issuer")
    assert (unknown.status, unknown.errcode) == (404, "M_UNRECOGNIZED")
    wrong = await server.call("DELETE", "/v3/login")
    assert (wrong.status, wrong.errcode) == (405, "M_UNRECOGNIZED")
