"""Tokens: what we give out we read back, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.stream_token import (
    PageToken,
    SyncToken,
    parse_page_token,
    parse_sync_token,
    parse_token,
)

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
NUMBERS = st.integers(min_value=0, max_value=10**18 - 1)
SYNC_TOKENS = st.builds(SyncToken, NAMES, NUMBERS, NAMES, NUMBERS)
PAGE_TOKENS = st.builds(
    PageToken,
    st.integers(min_value=0, max_value=2**63 - 1),
    st.integers(min_value=-(10**18) + 1, max_value=10**18 - 1),
    st.none() | NUMBERS,
)


@given(SYNC_TOKENS)
def test_a_sync_token_survives_the_client(token: SyncToken) -> None:
    assert parse_sync_token(token.serialize()) == token
    assert parse_token(token.serialize()) == token


@given(PAGE_TOKENS)
def test_a_page_token_survives_the_client(token: PageToken) -> None:
    assert parse_page_token(token.serialize()) == token
    assert parse_token(token.serialize()) == token


def test_the_forms_are_those_of_the_design() -> None:
    assert SyncToken("e", 12, "boot", 3).serialize() == "se.12.boot-3"
    assert PageToken(7, -5).serialize() == "t7.-5"
    assert PageToken(7, 5, 9).serialize() == "t7.5.9"


WRONG = [
    "",
    "s",
    "t",
    "s123",
    "se.1.b",
    "se.-1.b-1",
    "se.1.b-",
    "s.1.b-1",
    "se.1.-1",
    "se.1.b-1\n",
    "se.1.b-1.2",
    "se.٣.b-1",
    f"se.{10**18}.b-1",
    "s" + "e" * 65 + ".1.b-1",
    "t1",
    "t1.",
    "t-1.1",
    "t1.1.",
    "t1.1.-1",
    "t1.1.1.1",
    f"t{2**63}.1",
    "t1.--1",
    "x1.1",
    "12_34_56",
    "\0",
]


@pytest.mark.parametrize("text", WRONG)
def test_other_texts_are_refused_with_a_matrix_error(text: str) -> None:
    for parse in (parse_sync_token, parse_page_token, parse_token):
        with pytest.raises(InvalidParam) as refused:
            parse(text)
        assert refused.value.status == 400


@given(st.text())
def test_no_text_crashes_the_parser(text: str) -> None:
    try:
        token = parse_token(text)
    except InvalidParam:
        return
    assert parse_token(token.serialize()) == token


def test_the_two_kinds_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(InvalidParam):
        parse_page_token("se.1.b-1")
    with pytest.raises(InvalidParam):
        parse_sync_token("t1.1")
