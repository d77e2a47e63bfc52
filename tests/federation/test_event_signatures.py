"""Signatures of events: every one that is required, by keys that were valid at the time."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from yizhan_server.app import MIGRATIONS
from yizhan_server.federation_client.key_ring import KeyRing
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.room_version import V1, V4, V5, V12, RoomVersion
from yizhan_server.protocol.server_keys import OldKey
from yizhan_server.protocol.signing import (
    InvalidSignature,
    SigningKey,
    hash_and_sign_event,
    sign_json,
)
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect, opened_fresh
from yizhan_testing.homeserver import (
    HomeserverInProcess,
    homeserver_in_process,
    served,
    settings_for,
)
from yizhan_testing.peer import Peer, federating, open_peer

KEYS = "/_matrix/key/v2/server"
HOUR_MS = 3_600_000

JsonObject = dict[str, Any]


def now() -> int:
    return time.time_ns() // 1_000_000


def event(
    name: str,
    key: SigningKey,
    version: RoomVersion = V12,
    *,
    ts_ms: int | None = None,
    **fields: Any,
) -> JsonObject:
    """Return a message of somebody on the server `name`, signed with `key`."""
    raw = {
        "type": "m.room.message", "room_id": "!r:x.test", "sender": f"@a:{name}", "content": {},
        "origin_server_ts": now() if ts_ms is None else ts_ms, "depth": 1,
        "prev_events": [], "auth_events": [], **fields,
    }  # fmt: skip
    if version is V1:
        raw.setdefault("event_id", f"$1:{name}")
    return hash_and_sign_event(raw, version, ServerName(name), key)


def ring(homeserver: HomeserverInProcess) -> KeyRing:
    return homeserver.parts.services.key_ring


async def test_right_signatures_pass_and_others_are_told_apart(
    homeserver: HomeserverInProcess, peer: Peer, stranger: Peer
) -> None:
    good = event(peer.name, peer.key)
    altered = good | {"depth": 2}
    faults = await ring(homeserver).check_events(
        [
            good,
            altered,
            good | {"content": {"body": "redactable, which the hash tells, not the signature"}},
            event(peer.name, SigningKey.generate("p1")),
            event(stranger.name, stranger.key),
            good | {"signatures": {}},
            good | {"signatures": 7},
            good | {"sender": f"@a:{stranger.name}"},
            event(homeserver.server_name, peer.key),
        ],
        V12,
    )
    assert [fault is None for fault in faults] == [
        True, False, True, False, False, False, False, False, False
    ]  # fmt: skip
    assert peer.count(KEYS) == 1
    assert stranger.asked == []


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_whatever_an_event_is_it_has_an_answer(homeserver: HomeserverInProcess) -> None:
    events: list[Any] = [
        {}, {"type": "x"}, {"type": "m.room.member", "sender": "@a:b", "content": []},
        {"type": 1, "sender": 2, "content": {}, "origin_server_ts": 3},
        {"type": "x", "sender": "@a:b", "content": {}, "origin_server_ts": "3"},
        {"type": "x", "sender": "@a:b", "content": {}, "origin_server_ts": 10**30,
         "signatures": {"b": {"ed25519:x": "y"}}},
        {"type": "x", "sender": "@a:b", "content": {"x": 10**30}, "origin_server_ts": 1,
         "signatures": {"b": {"ed25519:x": 7, "": 1}}},
    ]  # fmt: skip
    for version in (V1, V5, V12):
        faults = await ring(homeserver).check_events(events, version)
        assert all(isinstance(fault, InvalidSignature) for fault in faults)
    assert await ring(homeserver).check_events([], V12) == []


async def test_many_events_of_many_servers_fetch_each_key_once(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority
) -> None:
    async with (
        open_peer(authority) as one,
        open_peer(authority) as two,
        open_peer(authority) as gone,
    ):
        gone.is_down = True
        settings = federating(authority, one, two, gone)
        async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
            peers = [one, two, gone]
            events = [
                event(peers[n % 3].name, peers[n % 3].key, ts_ms=now() - n) for n in range(180)
            ]
            faults = await ring(homeserver).check_events(events, V12)
        assert [fault is None for fault in faults] == [n % 3 != 2 for n in range(180)]
        assert [peer.count(KEYS) for peer in peers] == [1, 1, 1]


async def test_an_expired_key_proves_what_it_signed_before_only_where_the_room_asks(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    old = SigningKey.generate("old")
    peer.old_keys.append(OldKey(old.verify_key, now() - HOUR_MS))
    before, after = now() - 2 * HOUR_MS, now()
    for version, valid in ((V5, False), (V12, False), (V4, True), (V1, True)):
        faults = await ring(homeserver).check_events(
            [event(peer.name, old, version, ts_ms=ts) for ts in (before, after)], version
        )
        assert [fault is None for fault in faults] == [True, valid], version.identifier
        # A key is not good for what is signed beyond the time that its server has vouched for.
        (fault,) = await ring(homeserver).check_events(
            [event(peer.name, peer.key, version, ts_ms=now() + 30 * HOUR_MS)], version
        )
        assert (fault is None) is valid


async def test_a_key_that_is_listed_no_more_still_proves_what_it_signed(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    settings = settings_for(tmp_path, **federating(authority, peer))
    sent = event(peer.name, peer.key, ts_ms=now())
    async with opened_fresh(dialect, MIGRATIONS, tmp_path, random.Random(1)) as db:
        async with served(settings, db) as homeserver:
            assert await ring(homeserver).check_events([sent], V12) == [None]
        before, peer.key = peer.key, SigningKey.generate("p2")
        async with served(settings, db) as homeserver:
            new = event(peer.name, peer.key, ts_ms=now())
            assert await ring(homeserver).check_events([new, sent], V12) == [None, None]
            late = event(peer.name, before, ts_ms=now() + HOUR_MS)
            assert await ring(homeserver).check_events([late], V12) != [None]


async def test_both_servers_of_a_restricted_join_have_to_have_signed(
    tmp_path: Path, homeserver: HomeserverInProcess, peer: Peer
) -> None:
    here = homeserver.server_name
    join = event(
        peer.name, peer.key, type="m.room.member", state_key=f"@a:{peer.name}",
        content={"membership": "join", "join_authorised_via_users_server": f"@b:{here}"},
    )  # fmt: skip
    (fault,) = await ring(homeserver).check_events([join], V12)
    assert fault is not None
    own = SigningKey.parse((tmp_path / "secrets/signing.key").read_text())
    both = hash_and_sign_event(join, V12, ServerName(here), own)
    assert await ring(homeserver).check_events([both], V12) == [None]


async def test_a_signed_object_is_checked_with_its_servers_key(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    signed = sign_json({"a": 1}, peer.name, peer.key)
    await ring(homeserver).check_json(signed, peer.name)
    for wrong in (signed | {"a": 2}, {"a": 1}, signed | {"a": 1.5}):
        with pytest.raises(InvalidSignature):
            await ring(homeserver).check_json(wrong, peer.name)


@pytest.mark.parametrize("dialect", ["sqlite"])
async def test_keys_for_an_event_are_found_by_their_ids(
    homeserver: HomeserverInProcess, peer: Peer
) -> None:
    ids = [peer.key.key_id, "ed25519:policy_server"]
    found = await ring(homeserver).keys_for_event(peer.name, ids, now(), V12)
    assert found == {peer.key.key_id: peer.key.verify_key}
    assert peer.count(KEYS) == 1
    # It may have that key by now, and is asked once more.
    assert await ring(homeserver).keys_for_event(peer.name, ids[1:], now(), V12) == {}
    assert peer.count(KEYS) == 2
