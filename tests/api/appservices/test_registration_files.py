"""Registration files are read as the specification has them, and refused in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from yizhan_config.errors import ConfigurationError
from yizhan_server.appservices.registered import Appservices
from yizhan_server.appservices.registration import load_registrations
from yizhan_server.protocol.identifiers import ServerName
from yizhan_testing.appservice import Bridge, write_registration

if TYPE_CHECKING:
    from pathlib import Path

HERE = ServerName("test.example")


def registration(**changes: Any) -> dict[str, Any]:
    return Bridge(url="http://127.0.0.1:1234").registration(**changes)


def load(folder: Path, *values: Any) -> Appservices:
    files = [
        write_registration(folder / f"{number}.yaml", each) for number, each in enumerate(values)
    ]
    return Appservices(load_registrations(files, HERE))


def test_a_registration_says_who_owns_what(tmp_path: Path) -> None:
    namespaces = {
        "users": [
            {"regex": "@_bridge_.*", "exclusive": True},
            {"regex": "@watched_.*", "exclusive": False},
        ],
        "aliases": [{"regex": "#_bridge_.*", "exclusive": False}],
        "rooms": [{"regex": "!abc:.*", "exclusive": False}],
    }
    (service,) = load(tmp_path, registration(namespaces=namespaces, protocols=["irc"]))
    assert service.sender == "@_bridge_bot:test.example"
    assert service.has_user("@_bridge_li:test.example")
    assert service.owns_user("@_bridge_li:test.example")
    assert service.has_user("@watched_li:test.example")
    assert not service.owns_user("@watched_li:test.example")
    assert not service.has_user("@_bridge_li:elsewhere.example")
    assert not service.has_user("@somebody:test.example")
    assert service.has_alias("#_bridge_hall:test.example")
    assert not service.owns_alias("#_bridge_hall:test.example")
    assert service.has_room("!abc:test.example")
    assert not service.has_room("!xyz:test.example")
    assert service.protocols == ("irc",)


def test_a_service_may_want_no_traffic(tmp_path: Path) -> None:
    (service,) = load(tmp_path, registration(url=None))
    assert service.url is None
    assert Appservices([service]).hosts() == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:29318/", "127.0.0.1:29318"),
        ("http://[::1]:29318", "[::1]:29318"),
        ("https://bridge.internal/irc", "bridge.internal:443"),
    ],
)
def test_only_the_hosts_of_the_services_are_reached(tmp_path: Path, url: str, host: str) -> None:
    services = load(tmp_path, registration(url=url))
    assert services.hosts() == [host]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": ""}, "id "),
        ({"as_token": 5}, "as_token "),
        ({"hs_token": None}, "hs_token "),
        ({"url": "ftp://bridge"}, "url "),
        ({"url": "bridge:1234"}, "url "),
        ({"sender_localpart": "Bridge Bot"}, "sender_localpart "),
        ({"rate_limited": "no"}, "rate_limited "),
        ({"receive_ephemeral": 1}, "receive_ephemeral "),
        ({"protocols": "irc"}, "protocols "),
        ({"namespaces": []}, "namespaces "),
        ({"namespaces": {"users": {}}}, "namespaces.users "),
        ({"namespaces": {"users": ["@x"]}}, "namespaces.users "),
        ({"namespaces": {"aliases": [{"exclusive": True}]}}, "namespaces.aliases "),
        ({"namespaces": {"rooms": [{"regex": "(", "exclusive": True}]}}, "namespaces.rooms "),
    ],
)
def test_a_wrong_key_is_named_in_both_languages(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, registration(**changes))
    assert says in refused.value.zh
    assert "应用服务注册文件" in refused.value.zh
    assert refused.value.en.startswith(says)
    assert "0.yaml" in refused.value.en


@pytest.mark.parametrize("text", ["{", "- a list", "", "\0"])
def test_what_is_no_registration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load_registrations([file], HERE)
    assert "broken.yaml" in refused.value.zh
    assert "broken.yaml" in refused.value.en


def test_a_file_that_is_missing_or_open_to_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as missing:
        load_registrations([tmp_path / "none.yaml"], HERE)
    assert "no secret file" in missing.value.en
    file = write_registration(tmp_path / "open.yaml", registration())
    file.chmod(0o644)
    with pytest.raises(ConfigurationError) as exposed:
        load_registrations([file], HERE)
    assert "chmod 600" in exposed.value.en


@pytest.mark.parametrize("same", ["id", "as_token", "sender_localpart"])
def test_two_services_differ_in_id_token_and_sender(tmp_path: Path, same: str) -> None:
    other = registration(
        id="two", as_token="another token", sender_localpart="_other_bot", namespaces={}
    )
    load(tmp_path, registration(), other)
    other[same] = registration()[same]
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, registration(), other)
    assert f"the same {same}" in refused.value.en


def test_a_service_does_not_own_the_sender_of_another(tmp_path: Path) -> None:
    other = registration(
        id="two", as_token="another token", sender_localpart="_bridge_two", namespaces={}
    )
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, registration(), other)
    assert "@_bridge_two:test.example" in refused.value.en
    assert "@_bridge_two:test.example" in refused.value.zh
