"""Only a server that is let in, and that signed the very request, is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import Auth
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.request_signing import sign_request
from yizhan_server.protocol.signing import sign_json
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.peer import Answered, Peer, federating
from yizhan_testing.peer_rooms import PeerInRoom

KEYS = "/_matrix/key/v2/server"

ENDPOINTS = [
    (route.method, route.path)
    for module in ROUTES
    for route in module.routes
    if route.path.startswith("/_matrix/federation/")
]
UNSIGNED = {
    ("GET", "/_matrix/federation/v1/version"),
    ("GET", "/_matrix/federation/v1/openid/userinfo"),
    # Called by identity servers, which have no name among servers; what they bring is signed.
    ("PUT", "/_matrix/federation/v1/3pid/onbind"),
    ("POST", "/_matrix/federation/v1/3pid/onbind"),
}
"""What the specification leaves open to everybody."""

GUARDED = sorted(set(ENDPOINTS) - UNSIGNED)


def profile(person: Person) -> str:
    return f"/_matrix/federation/v1/query/profile?user_id={quote(person.user_id)}"


def refusal(answer: Answered) -> tuple[int, str]:
    return answer.status, answer.errcode


def filled(path: str) -> str:
    """Return a path whose parameters have some value."""
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))


def test_every_endpoint_for_servers_demands_a_signature() -> None:
    open_to_all = {
        (route.method, route.path)
        for module in ROUTES
        for route in module.routes
        if route.path.startswith("/_matrix/federation/") and route.auth is not Auth.SERVER
    }
    assert open_to_all == UNSIGNED
    assert len(GUARDED) >= 9


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_server_that_is_not_listed_is_refused_everywhere(
    homeserver: HomeserverInProcess, stranger: Peer
) -> None:
    for method, path in GUARDED:
        content: dict[str, Any] | None = None if method == "GET" else {}
        answer = await stranger.asks(homeserver, method, filled(path), content)
        assert refusal(answer) == (403, "M_FORBIDDEN"), path
    assert stranger.asked == []  # not even its key was looked for


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_nobody_without_a_signature_is_answered_anywhere(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    for method, path in GUARDED:
        answer = await peer.asks(homeserver, method, filled(path), authorization="")
        assert refusal(answer) == (401, "M_UNAUTHORIZED"), path
    assert peer.asked == []


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_what_a_user_may_do_is_no_right_of_a_server_nor_the_other_way_round(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    for method, path in GUARDED:
        refused = await alice.refused(method, filled(path))
        assert (refused.status, refused.errcode) == (401, "M_UNAUTHORIZED"), path
    answer = await peer.asks(homeserver, "GET", "/_matrix/client/v3/account/whoami")
    assert answer.status == 401


async def test_a_closed_server_lets_nobody_in(
    tmp_path: Path, authority: CertificateAuthority, dialect: Dialect, peer: Peer
) -> None:
    async with homeserver_in_process(tmp_path, dialect, **federating(authority)) as homeserver:
        alice = await homeserver.person("alice")
        answer = await peer.asks(homeserver, "GET", profile(alice))
        assert refusal(answer) == (403, "M_FORBIDDEN")


async def test_an_open_server_lets_everybody_in(
    tmp_path: Path, authority: CertificateAuthority, dialect: Dialect, peer: Peer
) -> None:
    settings = federating(authority) | {"federation.allow": ["*"]}
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        alice = await homeserver.person("alice")
        assert (await peer.asks(homeserver, "GET", profile(alice))).status == 200
        answer = await peer.asks(homeserver, "GET", "/_matrix/federation/v1/publicRooms")
        assert refusal(answer) == (403, "M_FORBIDDEN")


async def test_a_listed_server_is_answered_and_its_key_is_fetched_once(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    for _ in range(3):
        answer = await peer.asks(homeserver, "GET", profile(alice))
        assert (answer.status, answer.json) == (200, {"displayname": "alice"})
    assert peer.count(KEYS) == 1


async def test_what_differs_from_what_was_signed_is_refused(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    query = "/_matrix/federation/v1/user/keys/query"
    claim: dict[str, Any] = {"device_keys": {alice.user_id: []}}
    name = homeserver.server_name
    right = peer.authorization(name, "POST", query, claim)
    assert (await peer.asks(homeserver, "POST", query, claim)).status == 200
    for authorization, uri, content in (
        (right, query + "?x", claim),
        (right, "/_matrix/federation/v1/user/keys/claim", claim),
        (right, query, {"device_keys": {}}),
        (right, query, None),
        (peer.authorization("other.test", "POST", query, claim), query, claim),
        (peer.authorization(name, "PUT", query, claim), query, claim),
        (right.replace(peer.key.key_id, "ed25519:unknown"), query, claim),
        (right.replace("sig=", "not="), query, claim),
        ("Bearer " + alice.token, query, claim),
    ):
        answer = await peer.asks(homeserver, "POST", uri, content, authorization=authorization)
        assert refusal(answer) == (401, "M_UNAUTHORIZED"), (authorization, uri, content)


async def test_a_large_body_is_signed_like_a_small_one(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    query = "/_matrix/federation/v1/user/keys/query"
    devices = [f"D{n}" for n in range(20_000)]
    large: dict[str, Any] = {"device_keys": {"@nobody:test.example": devices}}
    answer = await peer.asks(homeserver, "POST", query, large)
    assert (answer.status, answer.json["device_keys"]) == (200, {"@nobody:test.example": {}})
    altered = json.dumps(large).replace("D19999", "D20000").encode()
    refused = await peer.asks(homeserver, "POST", query, large, body=altered)
    assert refusal(refused) == (401, "M_UNAUTHORIZED")
    broken = await peer.asks(homeserver, "POST", query, large, body=altered[:-1])
    assert refusal(broken) == (400, "M_NOT_JSON")


async def test_one_server_cannot_speak_for_another(
    homeserver: HomeserverInProcess, peer: Peer, stranger: Peer, alice: Person
) -> None:
    here = ServerName(homeserver.server_name)
    for origin in (peer.name, here):
        authorization = sign_request(
            method="GET", uri=profile(alice), origin=origin, destination=here,
            content=None, key=stranger.key,
        )  # fmt: skip
        answer = await stranger.asks(homeserver, "GET", profile(alice), authorization=authorization)
        assert answer.status in (401, 403)


async def test_the_target_counts_as_it_is_spelt(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    encoded = profile(alice).replace("alice", "%61lice")
    assert (await peer.asks(homeserver, "GET", encoded)).status == 200
    answer = await peer.asks(
        homeserver, "GET", encoded,
        authorization=peer.authorization(homeserver.server_name, "GET", profile(alice)),
    )  # fmt: skip
    assert answer.status == 401


async def test_a_server_that_names_no_destination_is_answered(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    # As servers did before v1.3 of the specification.
    signed = sign_json(
        {"method": "GET", "uri": profile(alice), "origin": peer.name}, peer.name, peer.key
    )
    signature = signed["signatures"][peer.name][peer.key.key_id]
    header = f'X-Matrix origin="{peer.name}",key={peer.key.key_id},sig="{signature}"'
    answer = await peer.asks(homeserver, "GET", profile(alice), authorization=header)
    assert answer.status == 200


async def test_a_body_that_cannot_be_read_is_no_fault_of_ours(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    query = "/_matrix/federation/v1/user/keys/query"
    for body, status, errcode in (
        (b"{", 400, "M_NOT_JSON"),
        (b"[]", 400, "M_BAD_JSON"),
        (b"\xff", 400, "M_NOT_JSON"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, 400, "M_NOT_JSON"),
        (b"x" * 1_048_577, 413, "M_TOO_LARGE"),
        # Many times its size in memory, before anybody's signature is looked at.
        (b'{"device_keys":[' + b"[]," * 200_000 + b"[]]}", 413, "M_TOO_LARGE"),
    ):
        answer = await peer.asks(homeserver, "POST", query, {}, body=body)
        assert refusal(answer) == (status, errcode), body[:20]
    malformed: list[dict[str, Any]] = [
        {}, {"device_keys": []}, {"device_keys": {"x": []}}, {"device_keys": {"@a:x": 1}}
    ]  # fmt: skip
    for content in malformed:
        answer = await peer.asks(homeserver, "POST", query, content)
        assert answer.status == 400, content
    public = "/_matrix/federation/v1/publicRooms"
    for wrong in ({"limit": "x"}, {"since": "\0"}, {"limit": 1.5}):
        answer = await peer.asks(homeserver, "POST", public, wrong, body=_exactly(wrong))
        assert refusal(answer) == (400, "M_BAD_JSON"), wrong


def _exactly(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


async def test_events_of_tiny_values_are_taken_from_whoever_signs_what_it_sends(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    # Else any user of an honest server could have its transactions refused for good.
    room = await alice.creates_room(preset="public_chat")
    guest = await PeerInRoom.joins(peer, homeserver, room)
    pdus = [guest.builds("m.room.message", {"n": [number % 10] * 25_000}) for number in range(15)]
    content = {
        "origin": peer.name, "origin_server_ts": 1, "edus": [], "pdus": [pdu.raw for pdu in pdus],
    }  # fmt: skip
    uri = "/_matrix/federation/v1/send/1"
    altered = encode_canonical({**content, "origin_server_ts": 2})
    for body in (_exactly(content), altered):
        refused = await peer.asks(homeserver, "PUT", uri, content, body=body)
        assert refusal(refused) == (413, "M_TOO_LARGE")
    answer = await peer.asks(homeserver, "PUT", uri, content, body=encode_canonical(content))
    assert answer.json["pdus"] == {pdu.event_id: {} for pdu in pdus}


async def test_a_server_that_is_too_fast_is_slowed_down(
    tmp_path: Path, authority: CertificateAuthority, dialect: Dialect, peer: Peer
) -> None:
    settings = federating(
        authority, peer, **{
            "rate_limits.enabled": True, "rate_limits.federation.per_second": 0.001,
            "rate_limits.federation.burst": 2,
        },
    )  # fmt: skip
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        uri = "/_matrix/federation/v1/query/directory?room_alias=%23x%3Atest.example"
        answers = [await peer.asks(homeserver, "GET", uri) for _ in range(3)]
        assert [answer.status for answer in answers] == [404, 404, 429]
        assert answers[2].errcode == "M_LIMIT_EXCEEDED"
        assert int(answers[2].headers["Retry-After"]) > 0


async def test_a_server_that_the_administrator_names_has_a_rate_of_its_own(
    tmp_path: Path,
    authority: CertificateAuthority,
    dialect: Dialect,
    peer: Peer,
    stranger: Peer,
) -> None:
    def rate(burst: int) -> dict[str, object]:
        return {"per_second": 0.001, "burst": burst}

    async def statuses(server: HomeserverInProcess, asking: Peer, number: int) -> list[int]:
        uri = "/_matrix/federation/v1/query/directory?room_alias=%23x%3Atest.example"
        return [(await asking.asks(server, "GET", uri)).status for _ in range(number)]

    settings = federating(
        authority, peer, stranger, **{
            "rate_limits.enabled": True, "rate_limits.federation": rate(2),
            "federation.peers": {peer.name: rate(5)},
        },
    )  # fmt: skip
    async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
        assert await statuses(homeserver, peer, 4) == [404] * 4
        # An address has five in all too, whoever comes from it.
        assert await statuses(homeserver, stranger, 2) == [404, 429]
    settings["rate_limits.federation"] = rate(9)
    settings["federation.peers"] = {peer.name: rate(2)}
    async with homeserver_in_process(tmp_path / "slow", dialect, **settings) as homeserver:
        assert await statuses(homeserver, peer, 3) == [404, 404, 429]
        assert await statuses(homeserver, stranger, 3) == [404, 404, 404]


async def test_what_is_not_there_is_said_to_be_unknown(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    nowhere = await peer.asks(homeserver, "GET", "/_matrix/federation/v1/nothing")
    assert refusal(nowhere) == (404, "M_UNRECOGNIZED")
    wrong = await peer.asks(homeserver, "PUT", "/_matrix/federation/v1/publicRooms", {})
    assert refusal(wrong) == (405, "M_UNRECOGNIZED")
    version = await peer.asks(homeserver, "GET", "/_matrix/federation/v1/version", authorization="")
    assert version.json["server"]["name"] == "Yizhan"


async def test_a_server_that_asks_is_no_longer_left_alone(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    destinations = homeserver.parts.federation_client.destinations
    await peer.asks(homeserver, "GET", profile(alice))  # its keys are known from here on
    await destinations.note_failure(peer.name)

    forged = peer.authorization(homeserver.server_name, "GET", "/another")
    await peer.asks(homeserver, "GET", profile(alice), authorization=forged)
    assert destinations.failing_since_ms(peer.name) is not None

    await peer.asks(homeserver, "GET", profile(alice))
    assert destinations.failing_since_ms(peer.name) is None
