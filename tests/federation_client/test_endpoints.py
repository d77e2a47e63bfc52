"""Each endpoint is asked with the method, path and body of the specification."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import orjson
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yizhan_server.federation_client.answers import read_pdu
from yizhan_server.federation_client.client import FederationClient
from yizhan_server.federation_client.errors import RemoteFailure, RemoteMisbehaved
from yizhan_server.protocol.canonical_json import encode_canonical
from yizhan_server.protocol.event import InvalidPdu
from yizhan_server.protocol.identifiers import EventID, RoomAlias, RoomID, ServerName, UserID
from yizhan_server.protocol.request_signing import (
    check_request_signature,
    parse_authorization,
    parse_content,
)
from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_testing.remote_servers import OWN, Network, RemoteServer

A = ServerName("a.test:7400")
ROOM, EVENT, LI = RoomID("!r:a.test"), EventID("$e/+:a.test"), UserID("@li:a.test")
V1, V2, KEY = "/_matrix/federation/v1", "/_matrix/federation/v2", "/_matrix/key/v2"
R, E, U = "%21r%3Aa.test", "%24e%2F%2B%3Aa.test", "%40li%3Aa.test"
NO_EVENT = "no event"
PDU = {"type": "m.x", "content": {"大": 1}}
Call = Callable[[FederationClient], Awaitable[Any]]

CASES: list[tuple[str, str, Any, Call, Any, Any]] = [
    # method, target, body, what is called, what is answered, what comes out
    (
        "GET", f"{V1}/event/{E}", None,
        lambda c: c.events.event(A, EVENT),
        {"origin": "a.test", "origin_server_ts": 1, "pdus": [PDU]}, PDU,
    ),
    (
        "GET", f"{V1}/event_auth/{R}/{E}", None,
        lambda c: c.events.event_auth(A, ROOM, EVENT),
        {"auth_chain": [PDU]}, [PDU],
    ),
    (
        "GET", f"{V1}/state_ids/{R}?event_id={E}", None,
        lambda c: c.events.state_ids(A, ROOM, EVENT),
        {"pdu_ids": ["$1"], "auth_chain_ids": ["$2"]},
        {"pdu_ids": ["$1"], "auth_chain_ids": ["$2"]},
    ),
    (
        "GET", f"{V1}/state/{R}?event_id={E}", None,
        lambda c: c.events.state(A, ROOM, EVENT),
        {"pdus": [PDU], "auth_chain": []}, {"pdus": [PDU], "auth_chain": []},
    ),
    (
        "GET", f"{V1}/backfill/{R}?v={E}&v=%24f&limit=7", None,
        lambda c: c.events.backfill(A, ROOM, [EVENT, EventID("$f")], 7),
        {"pdus": [PDU]}, [PDU],
    ),
    (
        "POST", f"{V1}/get_missing_events/{R}",
        {"earliest_events": ["$1"], "latest_events": ["$2"], "limit": 9, "min_depth": 3},
        lambda c: c.events.missing_events(
            A, ROOM, earliest=[EventID("$1")], latest=[EventID("$2")], limit=9, min_depth=3
        ),
        {"events": [PDU]}, [PDU],
    ),
    (
        "GET", f"{V1}/timestamp_to_event/{R}?ts=17&dir=b", None,
        lambda c: c.events.event_by_time(A, ROOM, 17, "b"),
        {"event_id": "$x", "origin_server_ts": 16}, {"event_id": "$x", "origin_server_ts": 16},
    ),
    (
        "GET", f"{V1}/make_join/{R}/{U}?ver=1&ver=12", None,
        lambda c: c.rooms.make_join(A, ROOM, LI, ["1", "12"]),
        {"event": PDU, "room_version": "12"}, {"event": PDU, "room_version": "12"},
    ),
    (
        "GET", f"{V1}/make_leave/{R}/{U}", None,
        lambda c: c.rooms.make_leave(A, ROOM, LI),
        {"event": PDU}, {"event": PDU, "room_version": "1"},
    ),
    (
        "GET", f"{V1}/make_knock/{R}/{U}?ver=7", None,
        lambda c: c.rooms.make_knock(A, ROOM, LI, ["7"]),
        {"event": PDU, "room_version": "7"}, {"event": PDU, "room_version": "7"},
    ),
    (
        "PUT", f"{V2}/send_join/{R}/{E}", PDU,
        lambda c: c.rooms.send_join(A, ROOM, EVENT, PDU),
        {"state": [PDU], "auth_chain": [PDU], "event": PDU, "origin": "a.test"},
        {
            "state": [PDU], "auth_chain": [PDU], "event": PDU,
            "members_omitted": False, "servers_in_room": None,
        },
    ),
    (
        "PUT", f"{V2}/send_join/{R}/{E}?omit_members=true", PDU,
        lambda c: c.rooms.send_join(A, ROOM, EVENT, PDU, omit_members=True),
        {"state": [], "auth_chain": [], "members_omitted": True, "servers_in_room": ["a.test"]},
        {
            "state": [], "auth_chain": [], "event": NO_EVENT,
            "members_omitted": True, "servers_in_room": ["a.test"],
        },
    ),
    (
        "PUT", f"{V2}/send_leave/{R}/{E}", PDU,
        lambda c: c.rooms.send_leave(A, ROOM, EVENT, PDU), {}, None,
    ),
    (
        "PUT", f"{V1}/send_knock/{R}/{E}", PDU,
        lambda c: c.rooms.send_knock(A, ROOM, EVENT, PDU),
        {"knock_room_state": [PDU]}, [PDU],
    ),
    (
        "PUT", f"{V2}/invite/{R}/{E}",
        {"event": PDU, "room_version": "12", "invite_room_state": [PDU]},
        lambda c: c.rooms.invite(A, ROOM, EVENT, PDU, room_version="12", room_state=[PDU]),
        {"event": PDU}, PDU,
    ),
    (
        "PUT", f"{V1}/invite/{R}/{E}", {**PDU, "unsigned": {"invite_room_state": [PDU]}},
        lambda c: c.rooms.invite_v1(A, ROOM, EVENT, PDU, room_state=[PDU]),
        [200, {"event": PDU}], PDU,
    ),
    (
        "PUT", f"{V1}/exchange_third_party_invite/{R}", PDU,
        lambda c: c.rooms.exchange_third_party_invite(A, ROOM, PDU), {}, None,
    ),
    (
        "POST", "/_matrix/policy/v1/sign", PDU,
        lambda c: c.rooms.policy_signature(A, PDU, timeout_seconds=5),
        {"a.test": {"ed25519:policy_server": "s"}}, {"a.test": {"ed25519:policy_server": "s"}},
    ),
    (
        "GET", f"{V1}/query/directory?room_alias=%23r%3Aa.test", None,
        lambda c: c.queries.directory(A, RoomAlias("#r:a.test")),
        {"room_id": ROOM, "servers": ["a.test"]}, {"room_id": ROOM, "servers": ["a.test"]},
    ),
    (
        "GET", f"{V1}/query/profile?user_id={U}&field=m.tz", None,
        lambda c: c.queries.profile(A, LI, "m.tz"),
        {"m.tz": "Asia/Shanghai"}, {"m.tz": "Asia/Shanghai"},
    ),
    (
        "POST", f"{V1}/publicRooms", {"limit": 5},
        lambda c: c.queries.public_rooms(A, {"limit": 5}), {"chunk": []}, {"chunk": []},
    ),
    (
        "GET", f"{V1}/hierarchy/{R}?suggested_only=true", None,
        lambda c: c.queries.hierarchy(A, ROOM, suggested_only=True),
        {"room": {}, "children": []}, {"room": {}, "children": []},
    ),
    (
        "GET", f"{V1}/user/devices/{U}", None,
        lambda c: c.queries.user_devices(A, LI),
        {"user_id": LI, "stream_id": 5, "devices": [{"device_id": "D", "keys": {}}]},
        {
            "user_id": LI, "stream_id": 5, "devices": [{"device_id": "D", "keys": {}}],
            "master_key": None, "self_signing_key": None,
        },
    ),
    (
        "POST", f"{V1}/user/keys/query", {"device_keys": {LI: ["D"]}},
        lambda c: c.queries.device_keys(A, {LI: ["D"]}),
        {"device_keys": {LI: {"D": {}}}, "master_keys": {LI: {}}},
        {"device_keys": {LI: {"D": {}}}, "master_keys": {LI: {}}, "self_signing_keys": {}},
    ),
    (
        "POST", f"{V1}/user/keys/claim", {"one_time_keys": {LI: {"D": "signed_curve25519"}}},
        lambda c: c.queries.claim_keys(A, {LI: {"D": "signed_curve25519"}}),
        {"one_time_keys": {LI: {"D": {"signed_curve25519:1": {"key": "k"}}}}},
        {"one_time_keys": {LI: {"D": {"signed_curve25519:1": {"key": "k"}}}}},
    ),
    (
        "GET", f"{V1}/openid/userinfo?access_token=a%2Fb", None,
        lambda c: c.queries.openid_userinfo(A, "a/b"), {"sub": LI}, LI,
    ),
    (
        "GET", f"{V1}/version", None,
        lambda c: c.queries.version(A), {"server": {"name": "x"}}, {"server": {"name": "x"}},
    ),
    (
        "GET", f"{KEY}/server", None,
        lambda c: c.keys.server_keys(A), {"server_name": "a"}, {"server_name": "a"},
    ),
    (
        "POST", f"{KEY}/query",
        {"server_keys": {"b.test": {"ed25519:1": {"minimum_valid_until_ts": 9}}, "c.test": {}}},
        lambda c: c.keys.notary_keys(
            A, {ServerName("b.test"): {"ed25519:1": 9}, ServerName("c.test"): {}}
        ),
        {"server_keys": [{"server_name": "b.test"}]}, [{"server_name": "b.test"}],
    ),
]  # fmt: skip
UNSIGNED = ("/version", "/userinfo", KEY)


def names_in(value: Any) -> set[str]:
    """Every key of an object within a JSON value."""
    inner = (
        value
        if isinstance(value, list)
        else list(value.values())
        if isinstance(value, dict)
        else []
    )
    own = set(value) if isinstance(value, dict) else set()
    return own.union(*map(names_in, inner))


FREE_FORM = {
    ("POST", "/_matrix/policy/v1/sign"),
    ("GET", f"{V1}/query/profile?user_id={U}&field=m.tz"),
    ("POST", f"{V1}/publicRooms"),
    ("GET", f"{V1}/hierarchy/{R}?suggested_only=true"),
    ("GET", f"{V1}/version"),
    ("GET", f"{KEY}/server"),
}


def plain(value: Any) -> Any:
    """What an answer amounts to, events that are still bytes included."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, msgspec.Raw):
        return orjson.loads(bytes(value)) if value else NO_EVENT
    return value


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]} {case[1]}" for case in CASES])
async def test_an_endpoint_is_asked_and_its_answer_understood(
    network: Network, case: tuple[str, str, Any, Call, Any, Any]
) -> None:
    method, uri, body, call, answer, result = case
    there = await network.serves("a.test", port=7400)
    there.answers(method, uri.partition("?")[0], answer)

    assert plain(await call(network.client)) == result

    (seen,) = there.seen
    assert (seen.method, seen.uri) == (method, uri)
    assert (orjson.loads(seen.body) if seen.body else None) == body
    if any(part in uri for part in UNSIGNED):
        assert seen.authorization == ""
    else:
        check_request_signature(
            parse_authorization(seen.authorization),
            method=method,
            uri=uri,
            destination=A,
            content=parse_content(seen.body),
            keys={network.key.key_id: network.key.verify_key},
        )


ANSWERS_WITHOUT_CONTENT = [case for case in CASES if case[5] is None]
ANSWERS_OF_ANY_OBJECT = [case for case in CASES if case[0:2] in FREE_FORM]
OTHERS = [case for case in CASES if case not in ANSWERS_WITHOUT_CONTENT + ANSWERS_OF_ANY_OBJECT]
WRONG = [(case, b"5") for case in ANSWERS_OF_ANY_OBJECT + OTHERS]
WRONG += [(case, b'{"pdus": 1, "events": {}, "sub": null}') for case in OTHERS]


@pytest.mark.parametrize(("case", "answer"), WRONG, ids=[f"{c[0]} {c[1]} {a!r}" for c, a in WRONG])
async def test_another_answer_is_refused(
    network: Network, case: tuple[str, str, Any, Call, Any, Any], answer: bytes
) -> None:
    there = await network.serves("a.test", port=7400)
    there.answers(case[0], case[1].partition("?")[0], answer)
    with pytest.raises(RemoteMisbehaved):
        await case[3](network.client)


async def test_a_transaction_is_sent_to_the_letter_and_its_failures_returned(
    network: Network,
) -> None:
    there = await network.serves("a.test", port=7400)
    results = {"$1": {}, "$2": {"error": "no"}, "$3": {"error": ""}}
    there.answers("PUT", f"{V1}/send/t%2F1", {"pdus": results})
    # Neither canonical nor strict: a retry must not differ from the first attempt.
    transaction = (
        b'{ "pdus": [{"depth": 1.5, "big": 123456789012345678901234567890}],"a":"\\u5f20"}'
    )

    assert await network.client.events.send_transaction(A, "t/1", transaction) == {"$2": "no"}
    (seen,) = there.seen
    assert seen.body == transaction
    claimed = parse_authorization(seen.authorization)
    assert (claimed.origin, claimed.destination) == (OWN, A)
    check_request_signature(
        claimed,
        method="PUT",
        uri=seen.uri,
        destination=A,
        content=parse_content(transaction),
        keys={network.key.key_id: network.key.verify_key},
    )


@pytest.mark.parametrize("answer", [b"", b"ok", b"{}", b'{"pdus": [1.5]}'])
async def test_a_transaction_is_taken_whatever_else_is_said(
    network: Network, answer: bytes
) -> None:
    there = await network.serves("a.test", port=7400)
    there.answers("PUT", f"{V1}/send/1", answer)
    assert await network.client.events.send_transaction(A, "1", b"{}") == {}


async def test_a_join_of_a_large_room_is_read_beside_other_work(network: Network) -> None:
    there = await network.serves("a.test", port=7400)
    event = {"type": "m.room.member", "content": {"membership": "join", "displayname": "张" * 60}}
    large = {"state": [event] * 10_000, "auth_chain": [event]}
    there.answers("PUT", f"{V2}/send_join/{R}/{E}", large)

    joined = await network.client.rooms.send_join(A, ROOM, EVENT, PDU)
    assert len(joined.state) == 10_000
    assert read_pdu(joined.state[9_999], ROOM_VERSIONS["12"]) == event


async def test_a_large_list_of_tiny_values_is_no_state(network: Network) -> None:
    there = await network.serves("a.test", port=7400)
    body = b'{"auth_chain":[],"state":[' + b"0," * 2_000_000 + b"0]}"
    there.answers("PUT", f"{V2}/send_join/{R}/{E}", body)
    with pytest.raises(RemoteMisbehaved, match="list of events"):
        await network.client.rooms.send_join(A, ROOM, EVENT, PDU)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (b'{"a": 1}', {"a": 1}, {"a": 1}),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}, None),
        (b"[]", InvalidPdu, InvalidPdu),
        (b"5", InvalidPdu, InvalidPdu),
    ],
)
async def test_numbers_of_an_event_are_read_as_its_room_version_has_it(
    network: Network, text: bytes, old: Any, new: Any
) -> None:
    there = await network.serves("a.test", port=7400)
    there.answers("GET", f"{V1}/event/{E}", b'{"pdus": [' + text + b"]}")
    raw = await network.client.events.event(A, EVENT)
    for version, expected in (("5", old), ("12", new)):
        if expected is InvalidPdu:
            with pytest.raises(InvalidPdu):
                read_pdu(raw, ROOM_VERSIONS[version])
        elif expected is not None:
            assert read_pdu(raw, ROOM_VERSIONS[version]) == expected


async def test_more_or_less_than_one_event_is_none(network: Network) -> None:
    there = await network.serves("a.test", port=7400)
    for pdus in ([], [PDU, PDU]):
        there.answers("GET", f"{V1}/event/{E}", encode_canonical({"pdus": pdus}))
        with pytest.raises(RemoteMisbehaved):
            await network.client.events.event(A, EVENT)


@pytest_asyncio.fixture
async def there(network: Network) -> RemoteServer:
    return await network.serves("a.test", port=7400)


NAMES = st.sampled_from(sorted({name for case in CASES for name in names_in(case[4])}))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    case=st.sampled_from(CASES),
    body=JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40),
    status=st.sampled_from([200, 200, 200, 201, 204, 300, 401, 404, 429, 500, 599]),
)
async def test_whatever_is_answered_is_an_answer_or_a_failure_of_that_server(
    network: Network,
    there: RemoteServer,
    case: tuple[str, str, Any, Call, Any, Any],
    body: bytes,
    status: int,
) -> None:
    network.client.destinations.note_alive(A)
    there.answers(case[0], case[1].partition("?")[0], body, status=status)
    with suppress(RemoteFailure):
        await case[3](network.client)
