"""Keys between servers: published, kept, fetched when needed, vouched for, and replaced."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp import web

from yizhan_server.app import MIGRATIONS
from yizhan_server.clock import SystemClock
from yizhan_server.federation_client.key_ring import MAX_STRANGERS
from yizhan_server.federation_client.own_keys import rotate
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.server_keys import OldKey, check_server_keys
from yizhan_server.protocol.signing import SigningKey, VerifyKey, verify_signed_json
from yizhan_server.storage.server_keys import find_keys
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect, opened_fresh
from yizhan_testing.homeserver import (
    HomeserverInProcess,
    homeserver_in_process,
    served,
    settings_for,
)
from yizhan_testing.later_clock import LaterClock
from yizhan_testing.peer import Peer, federating, open_peer

KEYS = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"
HOUR_MS = 3_600_000
ASKED = "/_matrix/federation/v1/publicRooms"

JsonObject = dict[str, Any]


async def get(homeserver: HomeserverInProcess, path: str) -> JsonObject:
    async with homeserver.http.get(homeserver.base_url + path) as response:
        assert response.status == 200
        answer: JsonObject = await response.json()
        return answer


async def query(homeserver: HomeserverInProcess, wanted: JsonObject) -> list[JsonObject]:
    url = homeserver.base_url + QUERY
    async with homeserver.http.post(url, json={"server_keys": wanted}) as response:
        assert response.status == 200, await response.text()
        found: list[JsonObject] = (await response.json())["server_keys"]
        return found


def own_keys(published: JsonObject) -> dict[str, VerifyKey]:
    return {
        key_id: VerifyKey.from_base64(key_id, fields["key"])
        for key_id, fields in published["verify_keys"].items()
    }


# region this server's own


async def test_the_server_publishes_its_key_signed_and_for_a_day(
    homeserver: HomeserverInProcess,
) -> None:
    published = await get(homeserver, KEYS)
    now_ms = homeserver.parts.services.notary.publish()["valid_until_ts"] - 24 * 3600 * 1000
    check_server_keys(published, ServerName(homeserver.server_name), now_ms)
    assert now_ms + 3_600_000 < published["valid_until_ts"] <= now_ms + 24 * 3_600_000
    assert published["old_verify_keys"] == {}
    of_one = await get(homeserver, f"{KEYS}/ed25519:test")
    assert of_one["verify_keys"] == published["verify_keys"]


async def test_after_a_rotation_the_new_key_signs_and_the_old_one_stays_published(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    settings = settings_for(tmp_path, **federating(authority, peer))
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as db:
        async with served(settings, db) as homeserver:
            before = await get(homeserver, KEYS)
        new, old = rotate(settings, 1_800_000_000_000)
        again, second = rotate(settings, 1_800_000_000_001)
        async with served(settings, db) as homeserver:
            after = await get(homeserver, KEYS)
            # It still answers those who ask, with the new key.
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
    (before_id,) = before["verify_keys"]
    assert (old.key.key_id, second.key.key_id) == (before_id, new.key_id)
    assert list(after["verify_keys"]) == [again.key_id]
    assert after["old_verify_keys"] == {
        before_id: before["verify_keys"][before_id] | {"expired_ts": 1_800_000_000_000},
        new.key_id: {"key": new.verify_key.to_base64(), "expired_ts": 1_800_000_000_001},
    }
    assert settings.signing_key_file.stat().st_mode & 0o777 == 0o600


# endregion
# region others' keys


async def test_a_key_is_remembered_over_a_restart_and_while_its_server_is_away(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    settings = settings_for(tmp_path, **federating(authority, peer))
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as db:
        async with served(settings, db) as homeserver:
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
        peer.is_down = True
        async with served(settings, db) as homeserver:
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
    assert peer.count(KEYS) == 1


async def test_many_requests_at_once_fetch_the_key_once(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    answers = await asyncio.gather(*(peer.asks(homeserver, "GET", ASKED) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert peer.count(KEYS) == 1


async def test_a_server_that_gives_no_key_is_not_asked_for_each_request(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    peer.is_down = True
    for _ in range(3):
        assert (await peer.asks(homeserver, "GET", ASKED)).status == 401
    assert peer.count(KEYS) == 1


@pytest.mark.parametrize("fault", ["name", "signature", "expired", "huge", "empty", "text"])
async def test_keys_that_are_not_what_they_should_be_prove_nothing(
    homeserver: HomeserverInProcess, peer: Peer, fault: str
) -> None:
    answer = peer.published()
    if fault == "name":
        answer["server_name"] = "other.test"
    elif fault == "signature":
        answer["valid_until_ts"] += 1
    elif fault == "expired":
        answer = peer.published(now_ms=1_700_000_000_000)
    elif fault == "huge":
        answer["more"] = "x" * 20_000
    elif fault == "empty":
        answer = {}

    async def text(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="nothing")

    peer.answers["GET", KEYS] = text if fault == "text" else answer
    assert (await peer.asks(homeserver, "GET", ASKED)).status == 401


async def test_a_peer_that_changed_its_key_is_believed_with_the_new_one_only(
    homeserver: HomeserverInProcess, peer: Peer, clock: LaterClock
) -> None:
    assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
    before = peer.key
    peer.rotates(clock.now_ms())
    peer.answers["GET", KEYS] = peer.published(now_ms=clock.now_ms())
    assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
    peer.key, after = before, peer.key
    assert (await peer.asks(homeserver, "GET", ASKED)).status == 401
    peer.key = after
    # After a day they are asked for again.
    count = peer.count(KEYS)
    clock.later_ms += 25 * 3600 * 1000
    peer.answers["GET", KEYS] = peer.published(now_ms=clock.now_ms())
    assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
    assert peer.count(KEYS) == count + 1


async def test_a_server_is_asked_a_few_times_in_a_row_and_then_once_a_minute(
    homeserver: HomeserverInProcess, peer: Peer, clock: LaterClock
) -> None:
    published = peer.published()
    peer.answers["GET", KEYS] = published
    peer.key = SigningKey.generate("unpublished")
    for _ in range(15):
        assert (await peer.asks(homeserver, "GET", ASKED)).status == 401
    assert peer.count(KEYS) == 10
    for _ in range(2):
        clock.later_ms += 61_000
        for _ in range(3):
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 401
    assert peer.count(KEYS) == 12


async def test_a_peer_with_a_new_key_is_believed_while_strangers_let_the_server_wait(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    waiting: list[asyncio.StreamWriter] = []
    enough = asyncio.Event()

    def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting.append(writer)
        if len(waiting) == MAX_STRANGERS:
            enough.set()

    settings = federating(authority, peer) | {
        "federation.allow": ["*"], "federation.private_addresses": ["127.0.0.0/8"],
    }  # fmt: skip
    silent = await asyncio.start_server(say_nothing, "0.0.0.0", 0, backlog=500)
    port = silent.sockets[0].getsockname()[1]
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        homeserver_in_process(tmp_path, dialect, **settings) as homeserver,
    ):

        async def asks(number: int) -> None:
            origin = f'X-Matrix origin="127.0.1.{number}:{port}",key="ed25519:a",sig="AAAA"'
            async with http.get(homeserver.base_url + ASKED, headers={"Authorization": origin}):
                pass

        assert (await peer.asks(homeserver, "GET", ASKED)).status == 403  # whose keys are known
        async with asyncio.TaskGroup() as group:
            for number in range(1, 251):
                group.create_task(asks(number))
            await enough.wait()
            peer.rotates(0)
            answer = await peer.asks(homeserver, "GET", ASKED)
            silent.close()
            for writer in waiting:
                writer.close()
    assert answer.status == 403


# endregion
# region notaries


async def test_a_notary_helps_where_a_server_cannot_be_reached(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    async with open_peer(authority) as notary:
        settings = federating(
            authority, peer, notary, **{"federation.trusted_key_servers": [notary.name]}
        )
        async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
            peer.is_down = True
            notary.answers["POST", QUERY] = {"server_keys": [notary.vouches(peer.published())]}
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
    assert (peer.count(KEYS), notary.count(QUERY), notary.count(KEYS)) == (1, 1, 1)


async def test_a_notary_is_believed_only_with_both_signatures(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    async with open_peer(authority) as notary, open_peer(authority) as liar:
        settings = federating(authority, peer, **{"federation.trusted_key_servers": [notary.name]})
        settings["federation.allow"] = [peer.name, notary.name]
        async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
            peer.is_down = True
            forged = liar.published() | {"server_name": peer.name}
            honest = peer.published()
            notary.answers["POST", QUERY] = {
                "server_keys": [honest, liar.vouches(honest), notary.vouches(forged)]
            }
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 401
    assert notary.count(QUERY) == 1


async def test_a_notary_may_say_that_a_key_is_still_valid_but_not_what_it_is(
    tmp_path: Path,
    dialect: Dialect,
    authority: CertificateAuthority,
    peer: Peer,
    clock: LaterClock,
) -> None:
    async with open_peer(authority) as notary:
        settings = federating(authority, peer, notary)
        settings["federation.trusted_key_servers"] = [notary.name]
        async with homeserver_in_process(tmp_path, dialect, 1, clock, **settings) as homeserver:
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
            peer.is_down = True
            clock.later_ms += 25 * HOUR_MS
            notary.answers["GET", KEYS] = notary.published(now_ms=clock.now_ms())
            right, other = peer.key, SigningKey.generate("p1")
            peer.key = other
            false = notary.vouches(peer.published(now_ms=clock.now_ms()))
            notary.answers["POST", QUERY] = {"server_keys": [false]}
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 401

            peer.key = right
            clock.later_ms += 61_000
            true = notary.vouches(peer.published(now_ms=clock.now_ms()))
            notary.answers["POST", QUERY] = {"server_keys": [true]}
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
            peer.key = other
            assert (await peer.asks(homeserver, "GET", ASKED)).status == 401


async def test_of_a_server_that_has_ever_new_keys_the_last_ones_are_kept(
    homeserver: HomeserverInProcess, peer: Peer, clock: LaterClock
) -> None:
    for day in range(5):
        old = SigningKey.generate("x").verify_key.public_key
        peer.old_keys = [
            OldKey(VerifyKey(f"ed25519:{day}_{n}", old), clock.now_ms() - n) for n in range(50)
        ]
        peer.answers["GET", KEYS] = peer.published(now_ms=clock.now_ms())
        assert (await peer.asks(homeserver, "GET", ASKED)).status == 200
        clock.later_ms += 25 * HOUR_MS
    kept = {each.key_id for each in await find_keys(homeserver.parts.services.db, peer.name)}
    assert len(kept) == 200
    assert {peer.key.key_id, "ed25519:4_49", "ed25519:1_0"} <= kept
    assert "ed25519:0_49" not in kept


async def test_the_server_vouches_for_keys_of_servers_it_speaks_with(
    homeserver: HomeserverInProcess, peer: Peer, stranger: Peer
) -> None:
    own = own_keys(await get(homeserver, KEYS))
    wanted: JsonObject = {
        peer.name: {"ed25519:p1": {"minimum_valid_until_ts": 0}},
        stranger.name: {},
        homeserver.server_name: {},
    }
    found = {answer["server_name"]: answer for answer in await query(homeserver, wanted)}
    assert set(found) == {peer.name, homeserver.server_name}
    vouched = found[peer.name]
    verify_signed_json(vouched, homeserver.server_name, own)
    verify_signed_json(vouched, peer.name, {peer.key.key_id: peer.key.verify_key})
    assert vouched["verify_keys"] == peer.published()["verify_keys"]
    assert stranger.asked == []

    (of_one,) = (await get(homeserver, f"{QUERY}/{quote(peer.name)}"))["server_keys"]
    assert of_one == vouched
    assert await get(homeserver, f"{QUERY}/{quote(stranger.name)}") == {"server_keys": []}
    assert peer.count(KEYS) == 1


async def test_a_notary_tells_what_it_has_of_a_server_that_is_gone(
    homeserver: HomeserverInProcess, peer: Peer, clock: LaterClock
) -> None:
    (before,) = await query(homeserver, {peer.name: {}})
    clock.later_ms += 100 * 24 * 3600 * 1000
    peer.is_down = True
    (after,) = await query(homeserver, {peer.name: {}})
    assert after["valid_until_ts"] == before["valid_until_ts"]
    assert peer.count(KEYS) == 2


async def test_a_notary_goes_on_vouching_for_a_key_that_its_server_has_dropped(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    dropped = peer.key.key_id
    (before,) = await query(homeserver, {peer.name: {dropped: {}}})
    peer.key = SigningKey.generate("p2")
    far = {"minimum_valid_until_ts": before["valid_until_ts"] + 1}
    (now,) = await query(homeserver, {peer.name: {peer.key.key_id: far}})
    assert set(now["verify_keys"]) == {peer.key.key_id}

    kept, last = await query(homeserver, {peer.name: {dropped: {}}})
    assert (kept["verify_keys"], kept["valid_until_ts"]) == (
        before["verify_keys"], before["valid_until_ts"]
    )  # fmt: skip
    assert last == now
    verify_signed_json(kept, homeserver.server_name, own_keys(await get(homeserver, KEYS)))
    path = f"{QUERY}/{quote(peer.name)}/{quote(dropped)}"
    assert (await get(homeserver, path))["server_keys"] == [kept, last]


async def test_a_notary_asks_anew_for_whom_what_it_has_is_not_enough(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    expired = peer.published(now_ms=SystemClock().now_ms() - 25 * HOUR_MS)
    peer.answers["GET", KEYS] = expired
    later = {"minimum_valid_until_ts": expired["valid_until_ts"] + 1}
    for count in (1, 2):
        (found,) = await query(homeserver, {peer.name: {peer.key.key_id: later}})
        assert found["valid_until_ts"] == expired["valid_until_ts"]
        assert peer.count(KEYS) == count

    async def refuses(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({}, status=400)

    peer.answers["GET", KEYS] = refuses
    for count in (3, 4):
        (found,) = await query(homeserver, {peer.name: {peer.key.key_id: later}})
        assert found["valid_until_ts"] == expired["valid_until_ts"]
        assert peer.count(KEYS) == count


async def test_a_notary_is_not_asked_for_everything_at_once(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    assert (await peer.asks(homeserver, "GET", ASKED)).status == 200  # whose keys are known
    too_many: JsonObject = {f"s{n}.test": {} for n in range(101)}
    keys: JsonObject = {f"ed25519:k{n}": {} for n in range(40_000)}
    wrong: list[Any] = [too_many, {peer.name: keys}, {"not a name": {}}, {"a.test": 1}, 7]
    for wanted in wrong:
        async with homeserver.http.post(
            homeserver.base_url + QUERY, json={"server_keys": wanted}
        ) as response:
            assert response.status == 400, list(wanted) if isinstance(wanted, dict) else wanted
