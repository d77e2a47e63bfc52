"""Somebody invited by address turns out to be of another server."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from yizhan_server.protocol.room_version import ROOM_VERSIONS
from yizhan_server.protocol.signing import SigningKey, sign_event, sign_json
from yizhan_testing.departments import departments
from yizhan_testing.homeserver import homeserver_in_process
from yizhan_testing.identity_server import TOKEN, IdentityServer, identity_server
from yizhan_testing.peer import federating
from yizhan_testing.peer_rooms import V1
from yizhan_testing.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp import web

    from yizhan_testing.certificates import CertificateAuthority
    from yizhan_testing.databases import Dialect
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.peer import Peer

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


async def test_a_server_gets_nobody_invited_by_a_proof_that_is_forged(
    tmp_path: Path, dialect: Dialect, authority: CertificateAuthority, peer: Peer
) -> None:
    async with identity_server(authority) as directory:
        settings = federating(
            authority, peer, **{
                "identity.allow": [directory.name], "outbound.allow": ["127.0.0.1"],
                "outbound.trusted_ca_files": [str(authority.file)],
            },
        )  # fmt: skip
        async with homeserver_in_process(tmp_path, dialect, **settings) as homeserver:
            alice = await homeserver.person("alice")
            room = await alice.creates_room()
            other_room = await alice.creates_room()
            await invites_by_address(alice, room, directory)
            token, user_id = directory.kept[0]["token"], f"@bob:{peer.name}"
            proof = directory.signed(token, user_id)
            forger = SigningKey.generate("0")
            event: dict[str, Any] = {
                "type": "m.room.member", "room_id": room, "sender": alice.user_id,
                "state_key": user_id,
                "content": {
                    "membership": "invite",
                    "third_party_invite": {"display_name": "", "signed": proof},
                },
            }  # fmt: skip
            invited: list[dict[str, Any]] = []

            async def take(request: web.BaseRequest) -> dict[str, Any]:
                invite = orjson.loads(await request.read())["event"]
                invited.append(invite)
                version = ROOM_VERSIONS["12"]
                return {"event": sign_event(invite, version, peer.name, peer.key)}

            peer.handlers_below["/_matrix/federation/v2/invite/"] = take

            def with_proof(signed: object) -> dict[str, Any]:
                invite = {"display_name": "", "signed": signed}
                return {**event, "content": {"membership": "invite", "third_party_invite": invite}}

            async def asks(wish: dict[str, Any], where: str = room) -> tuple[int, str | None]:
                path = f"/_matrix/federation/v1/exchange_third_party_invite/{quote(where)}"
                answer = await peer.asks(homeserver, "PUT", path, wish)
                return answer.status, answer.json.get("errcode")

            carol = f"@carol:{peer.name}"
            elsewhere = "@bob:elsewhere.example"
            forbidden = [
                # Signed by somebody else, in the name of the identity server or in another's.
                with_proof(sign_json({"mxid": user_id, "token": token}, directory.name, forger)),
                with_proof(sign_json({"mxid": user_id, "token": token}, peer.name, forger)),
                with_proof({"mxid": user_id, "token": token}),
                with_proof({**proof, "token": "token-7"}),
                with_proof({**proof, "token": 7}),
                # The proof is of another user, or altered, or of somebody elsewhere.
                {**event, "state_key": carol},
                {**with_proof({**proof, "mxid": carol}), "state_key": carol},
                {**with_proof(directory.signed(token, elsewhere)), "state_key": elsewhere},
                # Another token of the same server.
                with_proof(directory.signed("token-1", user_id)),
            ]
            for wish in forbidden:
                assert await asks(wish) == (403, "M_FORBIDDEN"), wish
            content = event["content"]
            for malformed in (
                {}, {**event, "type": "m.room.name"}, {**event, "content": []},
                {**event, "content": {**content, "membership": "join"}},
                {**event, "content": {**content, "third_party_invite": "x"}},
                {**event, "room_id": other_room},
            ):  # fmt: skip
                assert (await asks(malformed))[0] == 400, malformed
            assert await asks({**event, "room_id": other_room}, other_room) == (403, "M_FORBIDDEN")
            # The identity server no longer stands by its key.
            directory.stands_by_key = False
            assert await asks(event) == (403, "M_FORBIDDEN")
            directory.stands_by_key = True
            assert invited == []
            # Who invites is whoever did, whatever the event says.
            assert (await asks({**event, "sender": user_id}))[0] == 200
            assert [each["sender"] for each in invited] == [alice.user_id]
            members = await state(alice, room)
            assert members["m.room.member", user_id]["membership"] == "invite"
            assert ("m.room.member", carol) not in members
            # Nor does the proof lift a ban, or outlive what it proves.
            ban = {"user_id": user_id}
            await alice.post(f"/v3/rooms/{quote(room)}/ban", ban)
            assert await asks(event) == (403, "M_FORBIDDEN")
            await alice.post(f"/v3/rooms/{quote(room)}/unban", ban)
            await alice.sets(room, "m.room.third_party_invite", {}, token)
            assert await asks(event) == (403, "M_FORBIDDEN")
            assert len(invited) == 1


async def test_a_stranger_who_claims_bindings_has_other_servers_asked_within_bounds(
    homeserver: HomeserverInProcess, peer: Peer, alice: Person
) -> None:
    exchange = f"{V1}/exchange_third_party_invite/"
    asked: list[str] = []

    async def refuses(request: web.BaseRequest) -> dict[str, Any]:
        asked.append(request.path)
        return {}

    peer.handlers_below[exchange] = refuses
    claimed = {"room_id": "!x:a.test", "sender": f"@anybody:{peer.name}"}

    async def claims(user_id: str, count: int) -> int:
        signed = {"mxid": user_id, "token": "t", "signatures": {}}
        body = {
            "medium": "email", "address": ADDRESS, "mxid": user_id,
            "invites": [{**claimed, "signed": signed}] * count,
        }  # fmt: skip
        url = f"{homeserver.base_url}{V1}/3pid/onbind"
        async with homeserver.http.put(url, json=body) as response:
            return response.status

    assert await claims(alice.user_id, 101) == 400
    assert await claims(f"@mallory:{peer.name}", 5) == 403
    assert asked == []
    assert await claims(alice.user_id, 2) == 200
    assert len(asked) == 2
