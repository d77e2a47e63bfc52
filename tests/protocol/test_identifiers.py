"""Identifiers: what the grammar allows, what we allow for new accounts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.identifiers import (
    InvalidIdentifier,
    ServerName,
    check_new_localpart,
    is_user_id,
    localpart_of,
    parse_event_id,
    parse_room_alias,
    parse_room_id,
    parse_server_name,
    parse_user_id,
    server_name_of,
)

HASH = "Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ"


@pytest.mark.parametrize(
    "name",
    [
        "matrix.org",
        "matrix.org:8888",
        "1.2.3.4",
        "1.2.3.4:1234",
        "[1234:5678::abcd]",
        "[1234:5678::abcd]:5678",
        "[::ffff:1.2.3.4]",
        "localhost",
        "UPPER.example",
        "a" * 255,
    ],
)
def test_server_names_of_the_grammar_are_accepted(name: str) -> None:
    assert parse_server_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":8448",
        "host:",
        "host:123456",
        "host:٣",
        "ho st",
        "host/path",
        "host\n",
        "hôte",
        "[::1",
        "[zz::1]",
        "[1:2:3]",
        "[::1]x",
        "a" * 256,
        "a_b",
    ],
)
def test_other_server_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_server_name(name)


@pytest.mark.parametrize(
    "user_id",
    [
        "@alice:example.org",
        "@:example.org",
        "@Ünïcode name\t:example.org",
        "@张三:example.org:8448",
        "@a/b+c=d_e-f.g:1.2.3.4",
        "@x:[::1]:80",
        "@" + "a" * 242 + ":example.org",
    ],
)
def test_user_ids_are_accepted_with_historical_localparts(user_id: str) -> None:
    assert parse_user_id(user_id) == user_id
    assert is_user_id(user_id)


@pytest.mark.parametrize(
    "user_id",
    [
        "alice:example.org",
        "@alice",
        "@alice:",
        "@a\0b:example.org",
        "@a\ud800:example.org",
        "@alice:exam ple.org",
        "@" + "a" * 243 + ":example.org",
        "@" + "张" * 81 + ":example.org",
        "#alice:example.org",
        "",
        "@",
    ],
)
def test_other_user_ids_are_refused(user_id: str) -> None:
    with pytest.raises(InvalidIdentifier):
        parse_user_id(user_id)
    assert not is_user_id(user_id)


def test_what_is_not_a_string_is_no_user_id() -> None:
    assert not is_user_id(None)
    assert not is_user_id({"@alice:example.org": 1})


def test_room_ids_have_a_domain_or_are_a_hash() -> None:
    assert parse_room_id("!opaque:example.org") == "!opaque:example.org"
    assert parse_room_id("!" + HASH) == "!" + HASH
    for wrong in ("!opaque", "!" + HASH + "x", "!" + HASH[:-1] + "+", "opaque:example.org", "!:"):
        with pytest.raises(InvalidIdentifier):
            parse_room_id(wrong)


def test_event_ids_have_a_domain_or_are_a_hash_in_either_alphabet() -> None:
    for right in ("$1:example.org", "$" + HASH, "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"):
        assert parse_event_id(right) == right
    for wrong in ("$short", "$" + HASH + "=", "$a\0:example.org", "", "!" + HASH):
        with pytest.raises(InvalidIdentifier):
            parse_event_id(wrong)


def test_aliases_take_any_letters() -> None:
    assert parse_room_alias("#会议室:example.org") == "#会议室:example.org"
    for wrong in ("#会议室", "#a\0:example.org", "会议室:example.org"):
        with pytest.raises(InvalidIdentifier):
            parse_room_alias(wrong)


def test_parts_of_identifiers() -> None:
    assert localpart_of("@alice:example.org:8448") == "alice"
    assert server_name_of("@alice:example.org:8448") == "example.org:8448"
    assert server_name_of("@x:[::1]:80") == "[::1]:80"
    assert server_name_of("!" + HASH) is None


@given(st.from_regex(r"[a-z0-9._=/+-]{1,40}", fullmatch=True))
def test_new_accounts_may_have_every_name_of_todays_grammar(localpart: str) -> None:
    user_id = check_new_localpart(localpart, ServerName("example.org"))
    assert parse_user_id(user_id) == f"@{localpart}:example.org"
    assert localpart_of(user_id) == localpart


@pytest.mark.parametrize("localpart", ["", "Alice", "a b", "a:b", "á", "a\n", "张三", "a" * 250])
def test_new_accounts_may_not_have_other_names(localpart: str) -> None:
    with pytest.raises(InvalidIdentifier):
        check_new_localpart(localpart, ServerName("example.org"))


@given(st.text())
def test_parsing_returns_its_argument_or_refuses_it(text: str) -> None:
    for parse in (parse_user_id, parse_room_id, parse_event_id, parse_room_alias):
        try:
            parsed = parse(text)
        except InvalidIdentifier:
            continue
        assert parsed == text
        assert len(text.encode()) <= 255
