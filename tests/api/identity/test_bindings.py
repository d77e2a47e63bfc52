"""Publishing one's address at an identity server, and taking it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from yizhan_testing.identity_server import TOKEN

if TYPE_CHECKING:
    from yizhan_testing.homeserver import HomeserverInProcess, Person
    from yizhan_testing.identity_server import IdentityServer

ADDRESS = {"medium": "email", "address": "alice@work.example"}


def binding(directory: IdentityServer, **more: str) -> dict[str, Any]:
    return {
        "id_server": directory.name,
        "id_access_token": TOKEN,
        "sid": "1",
        "client_secret": "secret",
        **more,
    }


async def test_what_was_published_is_taken_back_where_it_was_published(
    directory: IdentityServer, alice: Person
) -> None:
    directory.verified["1"] = ADDRESS["address"]
    await alice.post("/v3/account/3pid/bind", binding(directory))
    assert directory.bound == {ADDRESS["address"]: alice.user_id}
    answer = await alice.post("/v3/account/3pid/unbind", ADDRESS)
    assert answer == {"id_server_unbind_result": "success"}
    assert directory.bound == {}

    answer = await alice.post("/v3/account/3pid/unbind", ADDRESS)
    assert answer == {"id_server_unbind_result": "no-support"}
    directory.bound[ADDRESS["address"]] = alice.user_id
    named = {**ADDRESS, "id_server": directory.name}
    answer = await alice.post("/v3/account/3pid/delete", named)
    assert answer == {"id_server_unbind_result": "success"}
    assert directory.bound == {}


async def test_the_end_of_an_account_takes_back_what_it_published(
    directory: IdentityServer, alice: Person, bob: Person
) -> None:
    for person, sid in ((alice, "1"), (bob, "2")):
        directory.verified[sid] = f"{sid}@work.example"
        await person.post("/v3/account/3pid/bind", binding(directory, sid=sid))
    auth = {"type": "m.login.password", "password": "correct horse"}
    ended = await alice.post("/v3/account/deactivate", {"auth": auth})
    assert ended == {"id_server_unbind_result": "success"}
    assert directory.bound == {"2@work.example": bob.user_id}

    directory.can_unbind = False
    ended = await bob.post("/v3/account/deactivate", {"auth": auth})
    assert ended == {"id_server_unbind_result": "no-support"}


async def test_so_does_the_end_that_an_administrator_puts_to_it(
    homeserver: HomeserverInProcess, directory: IdentityServer, alice: Person
) -> None:
    directory.verified["1"] = ADDRESS["address"]
    await alice.post("/v3/account/3pid/bind", binding(directory))
    boss = await homeserver.person("boss", admin=True)
    ended = await boss.post(f"/_synapse/admin/v1/deactivate/{alice.user_id}", {})
    assert ended == {"id_server_unbind_result": "success"}
    assert directory.bound == {}


async def test_what_an_identity_server_refuses_is_refused(
    directory: IdentityServer, alice: Person
) -> None:
    refused = await alice.refused("POST", "/v3/account/3pid/bind", binding(directory))
    assert (refused.status, refused.errcode) == (400, "M_SESSION_NOT_VALIDATED")
    named = {**ADDRESS, "id_server": directory.name}
    refused = await alice.refused("POST", "/v3/account/3pid/unbind", named)
    assert refused.errcode == "M_NOT_FOUND"
    elsewhere = binding(directory, id_server="elsewhere.example")
    refused = await alice.refused("POST", "/v3/account/3pid/bind", elsewhere)
    assert (refused.status, refused.errcode) == (400, "M_SERVER_NOT_TRUSTED")
    unreachable = binding(directory, id_server="127.0.0.1:1")
    refused = await alice.refused("POST", "/v3/account/3pid/bind", unreachable)
    assert refused.errcode == "M_SERVER_NOT_TRUSTED"
