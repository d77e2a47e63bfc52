"""Somebody invited by address turns out to be of another server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from yizhan_server.protocol.signing import SigningKey
from yizhan_testing.departments import departments
from yizhan_testing.identity_server import TOKEN, IdentityServer, identity_server
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person

ADDRESS = "bob@work.example"


@asynccontextmanager
async def departments_with_a_directory(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority
) -> AsyncIterator[tuple[HomeserverInProcess, HomeserverInProcess, IdentityServer]]:
    """Two departments, and an identity server that knows the first."""
    async with identity_server(authority) as directory:
        settings: dict[str, Any] = {
            "identity.allow": [directory.name],
            "outbound.allow": ["127.0.0.1"],
            "outbound.trusted_ca_files": [str(authority.file)],
        }
        folder = tmp_path / "departments"
        folder.mkdir()
        async with departments(folder, dialect, 2, None, **settings) as (a, b):
            key = folder / "department-0" / "secrets" / "signing.key"
            directory.homeserver_key = SigningKey.parse(key.read_text()).verify_key
            yield a, b, directory


async def invites_by_address(inviter: Person, room: str, directory: IdentityServer) -> None:
    invite = {
        "id_server": directory.name, "id_access_token": TOKEN,
        "medium": "email", "address": ADDRESS,
    }  # fmt: skip
    await inviter.post(f"/v3/rooms/{quote(room)}/invite", invite)


async def state(reader: Person, room: str) -> dict[tuple[str, str], dict[str, Any]]:
    events: Any = await reader.get(f"/v3/rooms/{quote(room)}/state")
    return {(event["type"], event["state_key"]): event["content"] for event in events}


async def membership(reader: Person, room: str, of: Person) -> object:
    member = (await state(reader, room)).get(("m.room.member", of.user_id), {})
    return member.get("membership")


async def test_whoever_proves_to_have_the_address_is_invited_across_servers(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority
) -> None:
    async with departments_with_a_directory(tmp_path, dialect, authority) as (a, b, directory):
        alice, bob = await a.person("alice"), await b.person("bob")
        room = await alice.creates_room()
        await invites_by_address(alice, room, directory)

        true_key, directory.key = directory.key, SigningKey.generate("0")
        assert await directory.tells_of_binding(b.base_url, ADDRESS, bob.user_id) == 403
        directory.key = true_key
        assert room not in (await bob.syncs()).body.get("rooms", {}).get("invite", {})

        assert await directory.tells_of_binding(b.base_url, ADDRESS, bob.user_id) == 200
        assert room in (await bob.syncs()).body["rooms"]["invite"]
        await bob.joins(room)
        assert await membership(alice, room, bob) == "join"


async def test_a_server_in_the_room_invites_itself_and_the_inviters_learns_of_it(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority
) -> None:
    # "If the invited homeserver is in the room the invite came from, it can auth the event and
    # send it": in the name of somebody whose own server has then yet to hear of it.
    async with departments_with_a_directory(tmp_path, dialect, authority) as (a, b, directory):
        alice, bob = await a.person("alice"), await b.person("bob")
        carol = await b.person("carol")
        room = await alice.creates_room(invite=[carol])
        await carol.joins(room)
        await invites_by_address(alice, room, directory)

        async def announced() -> None:
            assert "m.room.third_party_invite" in {kind for kind, _ in await state(carol, room)}

        await until(carol, announced)
        assert await directory.tells_of_binding(b.base_url, ADDRESS, bob.user_id) == 200

        async def alice_learns() -> None:
            assert await membership(alice, room, bob) == "invite"

        await until(alice, alice_learns)
        await bob.joins(room)

        async def alice_sees_bob() -> None:
            assert await membership(alice, room, bob) == "join"

        await until(alice, alice_sees_bob)
