"""What left the specification, and clients in use still do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from yizhan_testing.homeserver import Person, homeserver_in_process

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_message_may_be_sent_without_a_transaction_id(alice: Person, bob: Person) -> None:
    room = await alice.creates_room()
    path = f"/v3/rooms/{quote(room)}/send/m.room.message"
    sent = [await alice.post(path, {"msgtype": "m.text", "body": "一"}) for _ in range(2)]
    assert sent[0]["event_id"] != sent[1]["event_id"]
    assert (await bob.refused("POST", path, {})).errcode == "M_FORBIDDEN"


async def test_a_redaction_may_be_sent_without_a_transaction_id(alice: Person) -> None:
    room = await alice.creates_room()
    said = await alice.says(room, "typo")
    await alice.post(f"/v3/rooms/{quote(room)}/redact/{quote(said)}", {"reason": "typo"})
    event = await alice.get(f"/v3/rooms/{quote(room)}/event/{quote(said)}")
    assert event["content"] == {}


async def test_a_join_may_carry_more_into_the_member_event(alice: Person, bob: Person) -> None:
    room = await alice.creates_room(preset="public_chat")
    body = {"org.example.badge": 7, "membership": "ban", "join_authorised_via_users_server": "@x:y"}
    await bob.post(f"/v3/rooms/{quote(room)}/join", body)
    member = await alice.get(f"/v3/rooms/{quote(room)}/state/m.room.member/{bob.user_id}")
    assert member == {"membership": "join", "displayname": "bob", "org.example.badge": 7}
    refused = await alice.refused("POST", f"/v3/join/{quote(room)}", {"reason": 1})
    assert refused.errcode == "M_BAD_JSON"


async def test_a_token_in_the_query_string_is_a_setting(tmp_path: Path) -> None:
    for allowed in (False, True):
        async with homeserver_in_process(
            tmp_path / str(allowed), **{"sessions.query_string_tokens": allowed}
        ) as homeserver:
            alice = await homeserver.person("alice")
            url = f"{homeserver.base_url}/_matrix/client/v3/logout"
            query = {"access_token": alice.token}
            async with homeserver.http.post(url, params=query) as response:
                assert response.status == (200 if allowed else 401)
            async with homeserver.http.get(
                f"{homeserver.base_url}/_matrix/client/v3/account/whoami",
                headers={"Authorization": f"Bearer {alice.token}"},
            ) as response:
                assert response.status == (401 if allowed else 200)


async def test_the_state_after_a_timeline_stands_where_the_client_looks(alice: Person) -> None:
    room = await alice.creates_room(name="经营部")
    await alice.says(room, "你好")
    wanted = json.dumps({"room": {"timeline": {"limit": 1}}})
    names = {"state", "state_after", "org.matrix.msc4222.state_after"}

    for asked, found in (
        ({}, "state"),
        ({"use_state_after": "true"}, "state_after"),
        ({"org.matrix.msc4222.use_state_after": "true"}, "org.matrix.msc4222.state_after"),
    ):
        section = (await alice.get("/v3/sync", filter=wanted, **asked))["rooms"]["join"][room]
        assert names & section.keys() == {found}
        contents = [event["content"] for event in section[found]["events"]]
        assert {"name": "经营部"} in contents

    since = (await alice.syncs()).next_batch
    await alice.leaves(room)
    body = await alice.get(
        "/v3/sync", since=since, **{"org.matrix.msc4222.use_state_after": "true"}
    )
    assert "org.matrix.msc4222.state_after" in body["rooms"]["leave"][room]
