"""Canonical JSON: byte-identical to the reference package, and strict where it must be."""

import json
from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.canonical_json import (
    MAX_INTEGER,
    MAX_NESTING,
    NotCanonical,
    check_nesting,
    check_strict,
    encode_canonical,
    encode_lenient,
    parse_exactly,
    parse_json,
)
from yizhan_server.protocol.errors import NotJson

INTEGERS = st.integers(min_value=-MAX_INTEGER, max_value=MAX_INTEGER)
CANONICAL = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(CANONICAL)
def test_the_encoding_is_that_of_the_reference_package(value: Any) -> None:
    check_strict(value)
    encoded = encode_canonical(value)
    assert encoded == canonicaljson.encode_canonical_json(value)
    assert encoded == encode_lenient(value)
    assert parse_json(encoded, strict=True) == value
    assert parse_exactly(encoded) == value


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("{}", "{}"),
        ('{"one": 1, "two": "Two"}', '{"one":1,"two":"Two"}'),
        ('{"b":"2","a":"1"}', '{"a":"1","b":"2"}'),
        ('{"a": "日本語"}', '{"a":"日本語"}'),
        ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
        ('{"a": "\\u65E5"}', '{"a":"日"}'),
        ('{"a": null}', '{"a":null}'),
        ('{"a": -0}', '{"a":0}'),
        ('{"c": "\\u007f\\u001f\\n\\/\\""}', '{"c":"\x7f\\u001f\\n/\\""}'),
    ],
)
def test_examples_of_the_specification(text: str, canonical: str) -> None:
    assert encode_canonical(parse_json(text)) == canonical.encode()


def test_keys_are_in_the_order_of_code_points_not_of_utf_16() -> None:
    assert (
        encode_canonical({"\U0001f600": 1, "\ue000": 2}) == '{"\ue000":2,"\U0001f600":1}'.encode()
    )


@pytest.mark.parametrize("value", [MAX_INTEGER, -MAX_INTEGER, 0, True, None, "", [], {}, {"": []}])
def test_strict_accepts(value: Any) -> None:
    check_strict({"deep": [{"er": value}]})


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        0.5,
        float("nan"),
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        2**64,
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        b"bytes",
        (1, 2),
        {1, 2},
    ],
)
def test_strict_refuses(value: Any) -> None:
    with pytest.raises(NotCanonical) as refused:
        check_strict({"deep": [{"er": value}]})
    assert refused.value.body()["errcode"] == "M_BAD_JSON"


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def test_strict_allows_just_so_much_nesting_and_what_it_allows_can_be_encoded() -> None:
    check_strict(nested(MAX_NESTING))
    encode_canonical({"response": {"around": {"it": nested(MAX_NESTING)}}})
    with pytest.raises(NotCanonical):
        check_strict(nested(MAX_NESTING + 1))
    with pytest.raises(NotCanonical):
        encode_canonical(nested(1000))
    with pytest.raises(NotCanonical):
        encode_lenient(nested(100_000))
    check_nesting(nested(MAX_NESTING))
    with pytest.raises(NotCanonical):
        check_nesting(nested(MAX_NESTING + 1))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"nan",
        b"NaN",
        b"Infinity",
        b'"\\ud800"',
        b'"\xff"',
        b"[" * 100_000,
        b"01",
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_json_is_refused_by_both_parsers(data: bytes) -> None:
    with pytest.raises(NotJson) as refused:
        parse_json(data)
    assert refused.value.body()["errcode"] == "M_NOT_JSON"
    with pytest.raises(NotJson):
        parse_exactly(data)


@pytest.mark.parametrize("data", [b"[1.5]", b"[1e2]", b"[18446744073709551616]", b"[-1.0]"])
def test_strict_parsing_refuses_floats_and_integers_that_became_floats(data: bytes) -> None:
    assert isinstance(parse_json(data)[0], float)
    with pytest.raises(NotCanonical):
        parse_json(data, strict=True)


def test_old_rooms_keep_numbers_exactly() -> None:
    value = parse_exactly(b'{"big": 18446744073709551616, "float": 1e16}')
    assert value["big"] == 2**64
    assert encode_lenient(value) == b'{"big":18446744073709551616,"float":1e+16}'


@pytest.mark.parametrize("data", [b"1e999", b"-1e999", b"1" * 5000])
def test_numbers_beyond_all_measure_are_no_json_even_for_old_rooms(data: bytes) -> None:
    with pytest.raises(NotJson):
        parse_exactly(data)


@pytest.mark.parametrize("value", [object(), "\ud800", float("inf"), {"a": b"bytes"}])
def test_both_encoders_refuse_what_is_not_json(value: Any) -> None:
    with pytest.raises(NotCanonical):
        encode_lenient(value)
    if not isinstance(value, float):  # floats are for `check_strict` to find
        with pytest.raises(NotCanonical):
            encode_canonical(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_old_rooms_spell_floats_as_python_does(value: float) -> None:
    assert encode_lenient(value) == json.dumps(value).encode()


@given(st.binary())
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    try:
        value = parse_json(data, strict=True)
    except (NotJson, NotCanonical):
        return
    assert parse_json(encode_canonical(value)) == value
