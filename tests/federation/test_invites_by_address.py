"""Somebody invited by address turns out to be of another server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from yizhan_server.protocol.signing import SigningKey
from yizhan_testing.certificates import CertificateAuthority
from yizhan_testing.databases import Dialect
from yizhan_testing.departments import departments
from yizhan_testing.identity_server import TOKEN, identity_server

ADDRESS = "bob@work.example"


async def test_whoever_proves_to_have_the_address_is_invited_across_servers(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority
) -> None:
    async with identity_server(authority) as directory:
        settings: dict[str, Any] = {
            "identity.allow": [directory.name],
            "outbound.allow": ["127.0.0.1"],
            "outbound.trusted_ca_files": [str(authority.file)],
        }
        folder = tmp_path / "departments"
        folder.mkdir()
        async with departments(folder, dialect, 2, None, **settings) as (a, b):
            alice, bob = await a.person("alice"), await b.person("bob")
            key = folder / "department-0" / "secrets" / "signing.key"
            directory.homeserver_key = SigningKey.parse(key.read_text()).verify_key
            room = await alice.creates_room()
            invite = {
                "id_server": directory.name, "id_access_token": TOKEN,
                "medium": "email", "address": ADDRESS,
            }  # fmt: skip
            await alice.post(f"/v3/rooms/{quote(room)}/invite", invite)

            true_key, directory.key = directory.key, SigningKey.generate("0")
            assert await directory.tells_of_binding(b.base_url, ADDRESS, bob.user_id) == 403
            directory.key = true_key
            assert room not in (await bob.syncs()).body.get("rooms", {}).get("invite", {})

            assert await directory.tells_of_binding(b.base_url, ADDRESS, bob.user_id) == 200
            assert room in (await bob.syncs()).body["rooms"]["invite"]
            await bob.joins(room)
            member = await alice.get(
                f"/v3/rooms/{quote(room)}/state/m.room.member/{quote(bob.user_id)}"
            )
            assert member["membership"] == "join"
