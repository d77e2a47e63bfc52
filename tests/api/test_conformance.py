"""Paths and methods: what is known is served, under its old names too; what is not says so."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from yizhan_testing.conformance import specification
from yizhan_testing.homeserver import HomeserverInProcess, Person

if TYPE_CHECKING:
    from yizhan_testing.databases import Dialect

METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH")

ALSO_SERVED = {
    ("DELETE", "/_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}"),
    # Clients that leave a push rule unnamed hear how it is named.
    ("PUT", "/_matrix/client/v3/pushrules/"),
}
"""What is served at a path of the specification beyond its methods."""

OLD_AND_UNSTABLE = (
    ("GET", "/_matrix/client/r0/capabilities"),
    ("GET", "/_matrix/client/r0/login"),
    ("POST", "/_matrix/client/r0/login"),
    ("POST", "/_matrix/client/unstable/keys/device_signing/upload"),
    ("GET", "/_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"),
    ("PUT", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"),
    ("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"),
    ("POST", "/_matrix/media/r0/upload"),
)
"""What clients in use call outside the specification, beside /r0 for everything in v3."""

PROBED_IN_VAIN = (
    ("GET", "/_matrix/client/unstable/org.matrix.msc2697.v2/dehydrated_device"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer"),
    ("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"),
)
"""What clients look for and do without, if the answer is that it is not known."""


@pytest.fixture
def dialect() -> Dialect:
    """One database is enough: nothing here comes as far as that."""
    return "sqlite"


async def outcome(homeserver: HomeserverInProcess, method: str, path: str) -> tuple[int, str]:
    """Return how a request of a stranger ends."""
    filled = re.sub(r"\{(\w+)\}", r"some-\1", path)
    async with homeserver.http.request(
        method, homeserver.base_url + filled, data=b"{}", allow_redirects=False
    ) as response:
        if response.content_type != "application/json":
            return response.status, ""
        answer = await response.json()
        return response.status, answer.get("errcode", "")


async def test_every_operation_answers_its_methods_and_no_other(
    homeserver: HomeserverInProcess,
) -> None:
    known: dict[str, set[str]] = defaultdict(set)
    for operation in specification().operations:
        known[operation.path].add(operation.method)
    for path, methods in known.items():
        for method in METHODS:
            status, errcode = await outcome(homeserver, method, path)
            if method in methods or (method, path) in ALSO_SERVED:
                assert errcode != "M_UNRECOGNIZED", (method, path, status)
            else:
                assert (status, errcode) == (405, "M_UNRECOGNIZED"), (method, path)


async def test_everything_in_v3_is_served_as_r0_too(homeserver: HomeserverInProcess) -> None:
    for operation in specification().operations:
        if "/v3/" in operation.path:
            path = operation.path.replace("/v3/", "/r0/")
            status, errcode = await outcome(homeserver, operation.method, path)
            assert errcode != "M_UNRECOGNIZED", (operation.method, path, status)


async def test_what_clients_call_by_old_and_unstable_names_is_served(
    homeserver: HomeserverInProcess,
) -> None:
    for method, path in OLD_AND_UNSTABLE:
        status, errcode = await outcome(homeserver, method, path)
        assert errcode != "M_UNRECOGNIZED", (method, path, status)


async def test_what_is_not_known_says_so(homeserver: HomeserverInProcess) -> None:
    for method, path in (
        *PROBED_IN_VAIN,
        ("GET", "/"),
        ("GET", "/_matrix/client/v3/"),
        ("GET", "/_matrix/client/v3/nothing"),
        ("POST", "/_matrix/client/v2/createRoom"),
        ("PUT", "/_matrix/media/v3/nothing/at/all"),
        ("GET", "/.well-known/matrix/nothing"),
    ):
        assert await outcome(homeserver, method, path) == (404, "M_UNRECOGNIZED"), (method, path)


async def test_a_browser_may_ask_first_anywhere(homeserver: HomeserverInProcess) -> None:
    for operation in specification().operations:
        async with homeserver.http.options(homeserver.base_url + operation.path) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert operation.method in response.headers["Access-Control-Allow-Methods"]


async def test_a_conversation_in_the_words_of_r0(alice: Person, bob: Person) -> None:
    # What Hydrogen and libQuotient call, which know no v3.
    assert (await alice.get("/r0/capabilities"))["capabilities"]
    room = (await alice.post("/r0/createRoom", {"preset": "private_chat"}))["room_id"]
    path = f"/r0/rooms/{quote(room)}"
    await alice.post(f"{path}/invite", {"user_id": bob.user_id})
    await bob.post(f"{path}/join", {})
    wish = {"room": {"timeline": {"limit": 5}}}
    filter_id = (await bob.post(f"/r0/user/{bob.user_id}/filter", wish))["filter_id"]
    picture = await alice.call("POST", "/_matrix/media/r0/upload", data=b"GIF89a")
    sent = await alice.put(f"{path}/send/m.room.message/1", {"msgtype": "m.text", "body": "你好"})
    keys = {bob.user_id: {"*": {"algorithm": "m.megolm.v1.aes-sha2"}}}
    await alice.put("/r0/sendToDevice/m.room.encrypted/1", {"messages": keys})

    synced = await bob.get("/r0/sync", filter=filter_id)
    timeline = synced["rooms"]["join"][room]["timeline"]
    assert timeline["events"][-1]["event_id"] == sent["event_id"]
    assert [event["sender"] for event in synced["to_device"]["events"]] == [alice.user_id]
    await bob.post(f"{path}/receipt/m.read/{quote(sent['event_id'])}", {})
    assert len((await bob.get(f"{path}/members"))["chunk"]) == 2
    page = await bob.get(f"{path}/messages", dir="b", limit="1")
    assert page["chunk"][0]["content"]["body"] == "你好"
    assert (await bob.get(f"/r0/profile/{alice.user_id}"))["displayname"] == "alice"
    uploaded = await bob.post("/r0/keys/query", {"device_keys": {alice.user_id: []}})
    assert uploaded["device_keys"] == {alice.user_id: {}}
    assert picture["content_uri"].startswith("mxc://")
