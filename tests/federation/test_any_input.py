"""Any input of a server that is let in, and any header of one that is not: never a 5xx."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import Auth, Route
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.request_signing import (
    MalformedAuthorization,
    parse_authorization,
    parse_content,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Answered, Peer

FOR_SERVERS = [route for module in ROUTES for route in module.routes if route.auth is Auth.SERVER]
KEY_ROUTES = [
    route for module in ROUTES for route in module.routes if route.path.startswith("/_matrix/key/")
]
NAMES = """
    user_id room_alias field limit since timeout_ms width height method suggested_only ver v
    device_keys one_time_keys filter generic_search_term room_types include_all_networks
    third_party_instance_id server_keys minimum_valid_until_ts
    pdus edus origin origin_server_ts content type state_key sender room_id event_id
    @alice:test.example @x:test.example ed25519:a a.test membership min_depth latest_events
    earliest_events edu_type depth auth_events prev_events hashes signatures event room_version
    invite_room_state knock_room_state
""".split()  # noqa: SIM905 - fifty quoted strings read no easier

texts = st.one_of(
    st.sampled_from(
        ["", "x", "\0", "..", "@alice:test.example", "#x:test.example", "!x:test.example", "$x",
         "true", "0", "-1", "9" * 30, "a.test", "é" * 300, "\u202e", "scale", "displayname", "join",
         "m.room.member", "m.typing"]
    ),
    st.text(max_size=20),
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | texts | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-3, 3) | st.sampled_from([2**31, 2**53, 2**63 - 1]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(NAMES) | texts, inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
SETTINGS = settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn, routes: list[Route]) -> tuple[str, str, bytes | None]:
    """Return method, target and body of a request."""
    route = draw(st.sampled_from(routes))
    segments = [
        _encoded(draw(texts)) if part.startswith("{") else part for part in route.path.split("/")
    ]
    pairs = draw(st.lists(st.tuples(st.sampled_from(NAMES), texts), max_size=4))
    query = "&".join(["timeout_ms=0", *(f"{name}={_encoded(value)}" for name, value in pairs)])
    if route.method == "GET":
        return route.method, f"{'/'.join(segments)}?{query}", None
    objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=5).map(orjson.dumps)
    body = draw(objects | objects | objects | st.binary(max_size=20))
    return route.method, f"{'/'.join(segments)}?{query}", body


def _encoded(value: str) -> str:
    return quote_from_bytes(value.encode("utf-8", "surrogatepass"), safe="")


def check(answer: Answered, *what: object) -> None:
    # 504 is what the specification has for a file that is yet to come.
    assert answer.status < 500 or answer.status == 504, (what, answer.content)
    if answer.status >= 400:
        assert answer.errcode.startswith("M_"), what


async def in_thread(run: Callable[[], None]) -> None:
    await asyncio.to_thread(run)


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_a_server_that_is_let_in_can_send_anything(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    loop = asyncio.get_running_loop()

    async def send(method: str, uri: str, body: bytes | None) -> None:
        content: dict[str, Any] | None = None
        try:
            content = parse_content(body or b"")
        except MatrixError:
            content = {}
        authorization = peer.authorization(homeserver.server_name, method, uri, content)
        answer = await peer.asks(homeserver, method, uri, authorization=authorization, body=body)
        check(answer, method, uri, body)

    @SETTINGS
    @given(requests(FOR_SERVERS))
    def run(request: tuple[str, str, bytes | None]) -> None:
        asyncio.run_coroutine_threadsafe(send(*request), loop).result(20)

    await in_thread(run)
    uri = f"/_matrix/federation/v1/query/profile?user_id={_encoded(alice.user_id)}"
    assert (await peer.asks(homeserver, "GET", uri)).status == 200


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_anybody_can_ask_for_keys_in_any_way(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    loop = asyncio.get_running_loop()

    async def send(method: str, uri: str, body: bytes | None) -> None:
        check(
            await peer.asks(homeserver, method, uri, authorization="", body=body),
            method, uri, body,
        )  # fmt: skip

    @SETTINGS
    @given(requests(KEY_ROUTES))
    def run(request: tuple[str, str, bytes | None]) -> None:
        asyncio.run_coroutine_threadsafe(send(*request), loop).result(20)

    await in_thread(run)
    assert len((await peer.asks(homeserver, "GET", "/_matrix/key/v2/server")).json) == 5


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_no_header_that_is_not_a_signature_lets_anybody_in(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    loop = asyncio.get_running_loop()
    uri = "/_matrix/federation/v1/publicRooms"
    right = peer.authorization(homeserver.server_name, "GET", uri)

    async def send(header: str) -> None:
        answer = await peer.asks(homeserver, "GET", uri, authorization=header)
        assert (answer.status == 200) is says_the_same(header), header
        check(answer, header)

    def says_the_same(header: str) -> bool:
        try:
            return parse_authorization(header) == parse_authorization(right)
        except MalformedAuthorization:
            return False

    printable = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
    broken = st.builds(
        lambda at, text, length: right[:at] + text + right[at + length :],
        st.integers(9, len(right)),
        st.text(printable, max_size=3),
        st.integers(0, 5),
    )

    @SETTINGS
    @given(broken | st.text(printable, min_size=1, max_size=40).map("X-Matrix {}".format))
    def run(header: str) -> None:
        asyncio.run_coroutine_threadsafe(send(header), loop).result(20)

    await in_thread(run)
    assert (await peer.asks(homeserver, "GET", uri, authorization=right)).status == 200
