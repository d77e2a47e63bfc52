"""This server and a real Synapse, each a process of its own, that federate over real TLS.

    async with beside_synapse(folder) as (homeserver, synapse):
        alice, zhang = await homeserver.person("alice"), await signs_in(synapse, http, "zhang")

Each is named by an address and a port. Both can be stopped, and started again on their data.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.homeserver import Homeserver, Person, configure
from yizhan_testing.synapse import Synapse, free_port


@asynccontextmanager
async def beside_synapse(folder: Path) -> AsyncIterator[tuple[Homeserver, Synapse]]:
    """Run both until the block ends."""
    authority = CertificateAuthority(folder)
    synapse = await start_synapse(folder / "synapse", authority)
    own = folder / "yizhan"
    own.mkdir()
    port = free_port()
    name = f"127.0.0.1:{port}"
    certificate, key = authority.issue("127.0.0.1")
    configure(
        own,
        **{
            "server_name": f'"{name}"',
            # The same after a restart, since people keep the address.
            "listen.client": f'"127.0.0.1:{free_port()}"',
            "listen.tls": f'"{name}"',
            "tls.certificate": f'"{certificate}"',
            "tls.key": f'"{key}"',
            "federation.allow": f'["{synapse.server_name}"]',
            "federation.private_addresses": '["127.0.0.1"]',
            "federation.trusted_ca_files": f'["{authority.file}"]',
        },
    )
    homeserver = Homeserver(own)
    homeserver.server_name = name
    try:
        await homeserver.resume()
        yield homeserver, synapse
    finally:
        await homeserver.stop()
        await synapse.stop()


async def start_synapse(folder: Path, authority: CertificateAuthority) -> Synapse:
    """Start a Synapse that is named by its address and serves other servers there."""
    port = free_port()
    certificate, key = authority.issue("127.0.0.1")
    client_port = free_port()
    listeners = [
        {"port": client_port, "type": "http", "bind_addresses": ["127.0.0.1"],
         "resources": [{"names": ["client"]}]},
        {"port": port, "type": "http", "tls": True, "bind_addresses": ["127.0.0.1"],
         "resources": [{"names": ["federation"]}]},
    ]  # fmt: skip
    options = {
        "listeners": listeners,
        "tls_certificate_path": str(certificate),
        "tls_private_key_path": str(key),
        "federation_custom_ca_list": [str(authority.file)],
        "ip_range_blocklist": [],
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "allow_public_rooms_over_federation": True,
        # Otherwise it answers a first /sync again as it did before, for two minutes.
        "caches": {"sync_response_cache_duration": 0},
    }
    synapse = Synapse(folder, f"127.0.0.1:{port}", options)
    synapse.port = client_port
    synapse.base_url = f"http://127.0.0.1:{client_port}"
    synapse.configure()
    await synapse.run()
    return synapse


async def signs_in(synapse: Synapse, http: aiohttp.ClientSession, localpart: str) -> Person:
    user_id = await synapse.register(localpart, "correct horse")
    body = {"type": "m.login.password", "password": "correct horse",
            "identifier": {"type": "m.id.user", "user": user_id}}  # fmt: skip
    url = f"{synapse.base_url}/_matrix/client/v3/login"
    async with http.post(url, json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
    return Person(http, synapse.base_url, user_id, answer["device_id"], answer["access_token"], "")
