"""A real Synapse and this server believe each other's keys and signatures, over real TLS."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from yizhan_server.protocol.identifiers import ServerName, UserID
from yizhan_server.protocol.signing import SigningKey, VerifyKey, verify_signed_json
from yizhan_testing.beside_synapse import signs_in, start_synapse
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.crypto_identity import CryptoDevice
from yizhan_testing.homeserver import HomeserverInProcess, Person, homeserver_in_process
from yizhan_testing.media import encoded, gradient, uploads
from yizhan_testing.synapse import Synapse
from yizhan_testing.synapse_rooms import go_through_rooms

JsonObject = dict[str, Any]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # Synapse may have to be installed


@asynccontextmanager
async def over_tls(
    homeserver: HomeserverInProcess, authority: CertificateAuthority, bound: socket.socket
) -> AsyncIterator[None]:
    """Serve the homeserver on a bound socket too, as its port for other servers."""
    runner = web.ServerRunner(web.Server(homeserver.parts.wrapper), shutdown_timeout=1)
    await runner.setup()
    try:
        context = authority.server_context("127.0.0.1")
        await web.SockSite(runner, bound, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


async def test_a_synapse_and_this_server_ask_each_other(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    here = f"127.0.0.1:{bound.getsockname()[1]}"
    synapse = await start_synapse(tmp_path / "synapse", authority)
    try:
        async with (
            homeserver_in_process(
                tmp_path, "sqlite",
                **{
                    "server_name": here,
                    "federation.allow": [synapse.server_name],
                    "federation.private_addresses": ["127.0.0.1"],
                    "federation.trusted_ca_files": [str(authority.file)],
                },
            ) as homeserver,
            over_tls(homeserver, authority, bound),
        ):  # fmt: skip
            alice = await homeserver.person("alice")
            zhang = await signs_in(synapse, homeserver.http, "zhang")
            await asks_us(zhang, alice, here)
            await asked_by_us(homeserver, synapse, zhang)
            await vouch_for_each_other(homeserver, synapse)
            key = SigningKey.parse((tmp_path / "secrets/signing.key").read_text())
            await go_through_rooms(homeserver, synapse, zhang, key)
    finally:
        await synapse.stop()


async def asks_us(zhang: Person, alice: Person, here: str) -> None:
    """Everything that Synapse asks here on behalf of its user is answered."""
    profile = await zhang.get(f"/v3/profile/{quote(alice.user_id)}")
    assert profile["displayname"] == "alice"

    device = CryptoDevice(alice.user_id, alice.device_id)
    keys = device.one_time_keys("A")
    await alice.post("/v3/keys/upload", {"device_keys": device.keys(), "one_time_keys": keys})
    found = await zhang.post("/v3/keys/query", {"device_keys": {alice.user_id: []}})
    assert found["failures"] == {}
    assert found["device_keys"][alice.user_id][alice.device_id]["keys"] == device.keys()["keys"]
    wanted = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
    claimed = await zhang.post("/v3/keys/claim", wanted)
    assert claimed["one_time_keys"][alice.user_id][alice.device_id] == keys

    room = await alice.creates_room(
        name="局务会", preset="public_chat", visibility="public", room_alias_name="meeting"
    )
    listed = await zhang.get("/v3/publicRooms", server=here)
    assert [entry["room_id"] for entry in listed["chunk"]] == [room]
    alias = await zhang.get(f"/v3/directory/room/{quote(f'#meeting:{here}', safe='')}")
    assert (alias["room_id"], alias["servers"][0]) == (room, here)

    picture = encoded(gradient(300, 200))
    mxc = await uploads(alice, picture, "image/png", filename="图.png")
    url = f"{zhang.base_url}/_matrix/client/v1/media/download/{mxc}"
    headers = {"Authorization": f"Bearer {zhang.token}"}
    async with zhang.http.get(url, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "image/png"
        assert await response.read() == picture


async def asked_by_us(homeserver: HomeserverInProcess, synapse: Synapse, zhang: Person) -> None:
    """Synapse answers what this server has signed."""
    queries = homeserver.parts.federation_client.queries
    there = ServerName(synapse.server_name)
    profile = await queries.profile(there, UserID(zhang.user_id))
    assert profile["displayname"] == "zhang"
    devices = await queries.user_devices(there, UserID(zhang.user_id))
    assert devices.user_id == zhang.user_id


async def vouch_for_each_other(homeserver: HomeserverInProcess, synapse: Synapse) -> None:
    """Each, as a notary, hands on the other's keys, with signatures that are right."""
    own = homeserver.parts.services.notary.publish()
    client = homeserver.parts.federation_client.keys
    there = ServerName(synapse.server_name)
    theirs = await client.server_keys(there)
    here = ServerName(homeserver.server_name)

    (told,) = await client.notary_keys(there, {here: {}})
    assert told["verify_keys"] == own["verify_keys"]
    verify_signed_json(told, there, keys_of(theirs))
    verify_signed_json(told, here, keys_of(own))

    url = f"{homeserver.base_url}/_matrix/key/v2/query/{quote(there)}"
    async with homeserver.http.get(url) as response:
        (told,) = (await response.json())["server_keys"]
    assert told["verify_keys"] == theirs["verify_keys"]
    verify_signed_json(told, here, keys_of(own))


def keys_of(published: JsonObject) -> dict[str, VerifyKey]:
    return {
        key_id: VerifyKey.from_base64(key_id, fields["key"])
        for key_id, fields in published["verify_keys"].items()
    }
