"""The positions of sliding sync."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.errors import InvalidParam
from yizhan_server.protocol.stream_token import (
    SlidingToken,
    SyncToken,
    parse_sliding_token,
    parse_token,
)


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_position_reads_back_and_is_a_token_of_pages(connection: int, position: int) -> None:
    token = SlidingToken(connection, SyncToken("epoch", position, "boot", 3))
    assert parse_sliding_token(token.serialize()) == token
    assert parse_token(token.serialize()) == token.sync


@pytest.mark.parametrize(
    "text", ["", "c", "c1", "c1.", "c1.x", "1.se.1.b-1", "c-1.se.1.b-1", f"c{'9' * 19}.se.1.b-1"]
)
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidParam):
        parse_sliding_token(text)
