"""Any input at any endpoint: hypothesis makes requests from the routes and from what we know.

A refusal changes nothing, nothing is a 5xx, and in the end the server still works.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_from_bytes

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.routing import Route, Router

if TYPE_CHECKING:
    from yizhan_testing.attacks import Town

ENDING = ("/logout", "/logout/all", "/account/deactivate", "/account/password")
"""What would take the attacker's own account away; the stories of accounts try these."""

ALL = [
    route
    for route in Router(list(ROUTES)).routes
    if route.method in ("GET", "PUT", "POST", "DELETE") and not route.path.endswith(ENDING)
]

KEYS = """
    content type state_key membership reason user_id room_id event_id messages body msgtype
    m.relates_to rel_type m.mentions user_ids room users events ban invite name topic visibility
    preset initial_state creation_content room_version room_alias_name invite_3pid is_direct timeout
    typing thread_id m.read m.fully_read m.read.private presence status_msg limit since filter types
    timeline state lazy_load_members search_term device_keys one_time_keys fallback_keys
    device_id algorithms keys signatures auth session identifier password token master_key
    self_signing_key user_signing_key usage algorithm auth_data rooms sessions first_message_index
    forwarded_count is_verified session_data version pushkey kind app_id data url lang append
    actions conditions pattern rule_id enabled order tags displayname avatar_url username
    refresh_token
    @bob:test.example @alice:test.example * signed_curve25519 ed25519 devices
""".split()  # noqa: SIM905 - eighty quoted strings read no easier

PARAMETERS = """
    since from to dir limit filter at membership not_membership full_state set_presence version
    server include recurse format username token width height method use_state_after
""".split()  # noqa: SIM905

texts = st.one_of(
    st.sampled_from(
        [
            "", "x", "\0", "a\0b", "..", "/", "%", "@bob:test.example", "@alice:test.example",
            "m.room.message", "m.room.member", "m.room.create", "m.room.power_levels", "join",
            "leave", "invite", "ban", "true", "0", "-1", "1", "9" * 30, "*", "public", "online",
            "!x:test.example", "#x:test.example", "$x", "é" * 300, "😀", "\u202e", "12", "m.read",
            "room", "override", "content", "mxc://test.example/x", "http", "m.login.password",
            "s.1.x-1", "t1.1", "t1.1.1", "{}", "[]", '{"limit":0}', '{"types":["*a*"]}', "\ufeff",
        ]
    ),
    st.text(max_size=20),
)  # fmt: skip
numbers = st.one_of(
    st.integers(-3, 3), st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**63), 10**40]),
    st.sampled_from([0.5, 1e300, -1.5]),
)  # fmt: skip
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), texts), inner, max_size=4),
    ),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Route, list[str], list[tuple[str, str]], Any]:
    """Return an endpoint, a value for each parameter of its path, a query and a body."""
    route = draw(st.sampled_from(ALL))
    count = route.path.count("{")
    path = draw(
        st.lists(st.one_of(st.just("good"), st.just("good"), texts), min_size=count, max_size=count)
    )
    query = draw(
        st.lists(
            st.tuples(
                st.sampled_from(PARAMETERS),
                texts,
            ),
            max_size=4,
        )
    )
    body = draw(st.one_of(bodies, bodies, bodies, values, st.binary(max_size=20)))
    return route, path, query, body


async def test_no_request_is_a_server_error_and_no_refusal_changes_anything(town: Town) -> None:
    loop = asyncio.get_running_loop()
    good = {
        "room_id": town.room, "room": town.room, "user_id": town.alice.user_id, "dir": "b",
        "event_id": town.event, "type": "m.room.message", "server_name": "test.example",
        "device_id": town.alice.device_id, "kind": "override", "version": "1", "state_key": "",
        "txn_id": "t", "alias": "#x:test.example", "field": "displayname", "filter_id": "0",
    }  # fmt: skip

    async def attack(
        route: Route, path: list[str], query: list[tuple[str, str]], body: Any
    ) -> None:
        chosen = iter(path)
        segments = []
        for segment in route.path.split("/"):
            value = segment
            if segment.startswith("{"):
                value = next(chosen)
                value = good.get(segment[1:-1], "x") if value == "good" else value
                value = _encoded(value)
            segments.append(value)
        target = "/".join(segments)
        pairs = [f"{name}={_encoded(value)}" for name, value in query]
        if route.path.endswith("/events"):
            # It waits for half a minute where nobody says how long.
            pairs.insert(0, "timeout=0")
        if pairs:
            target += "?" + "&".join(pairs)
        data = None
        if route.method != "GET":
            data = body if isinstance(body, bytes) else _json(body)
        await town.attacks(route.method, target, data)

    @settings(
        max_examples=500, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(requests())
    def run(request: tuple[Route, list[str], list[tuple[str, str]], Any]) -> None:
        asyncio.run_coroutine_threadsafe(attack(*request), loop).result(20)

    await asyncio.to_thread(run)

    room = await town.bob.creates_room()
    said = await town.bob.says(room, "还在")
    assert said in [event["event_id"] for event in (await town.bob.syncs()).timeline(room)]


def _encoded(value: str) -> str:
    return quote_from_bytes(value.encode("utf-8", "surrogatepass"), safe="") if value else quote("")


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits
        return json.dumps(value).encode()
