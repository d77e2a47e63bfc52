"""Signatures of requests between servers: made, parsed in every form allowed, and refused."""

from typing import Any

import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.canonical_json import MAX_INTEGER, encode_lenient
from yizhan_server.protocol.errors import MatrixError
from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.request_signing import (
    MalformedAuthorization,
    RequestSignature,
    check_request_signature,
    parse_authorization,
    parse_content,
    sign_request,
    signed_object,
)
from yizhan_server.protocol.signing import InvalidSignature, SigningKey

ORIGIN = ServerName("a.test:8448")
HERE = ServerName("b.test")
KEY = SigningKey("ed25519:k1", b"k1".ljust(32, b"."))
KEYS = {KEY.key_id: KEY.verify_key}
REQUEST: dict[str, Any] = {
    "method": "PUT",
    "uri": "/_matrix/federation/v1/send/1?x=%20y",
    "content": {"pdus": []},
}

TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcXYZ", min_size=1, max_size=12)
VALUE = st.text(st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=24)
CONTENT = st.none() | st.dictionaries(
    st.text(max_size=5),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.lists(st.integers(-MAX_INTEGER, MAX_INTEGER), max_size=3),
    max_size=4,
)


def signed(**changes: Any) -> RequestSignature:
    """Return the signature of REQUEST from ORIGIN to HERE, with some of it changed."""
    header = sign_request(
        **{**REQUEST, "origin": ORIGIN, "destination": HERE, "key": KEY, **changes}
    )
    return parse_authorization(header)


def check(claimed: RequestSignature, **changes: Any) -> None:
    check_request_signature(claimed, **{**REQUEST, "destination": HERE, "keys": KEYS, **changes})


@given(
    st.sampled_from(("GET", "PUT", "POST")),
    st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=30),
    CONTENT,
)
def test_what_is_signed_is_accepted_and_is_what_the_reference_package_signs(
    method: str, path: str, content: dict[str, Any] | None
) -> None:
    request = {"method": method, "uri": "/" + path, "content": content}
    claimed = signed(**request)
    assert (claimed.origin, claimed.destination, claimed.key_id) == (ORIGIN, HERE, KEY.key_id)
    body = b"" if content is None else encode_lenient(content)
    check(claimed, method=method, uri="/" + path, content=parse_content(body))

    reference = signedjson.key.decode_signing_key_base64(
        "ed25519", "k1", KEY.serialize().split()[2]
    )
    expected = {"method": method, "uri": "/" + path, "origin": ORIGIN, "destination": HERE}
    if content is not None:
        expected["content"] = content  # type: ignore[assignment]  # a dict among strings
    made = signedjson.sign.sign_json(expected, ORIGIN, reference)
    assert made["signatures"][ORIGIN][KEY.key_id] == claimed.signature


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "POST"},
        {"uri": "/_matrix/federation/v1/send/2?x=%20y"},
        {"uri": "/_matrix/federation/v1/send/1?x=+y"},
        {"content": {"pdus": [{}]}},
        {"content": {}},
        {"content": None},
        {"destination": ServerName("c.test")},
        {"keys": {}},
        {"keys": {KEY.key_id: SigningKey("ed25519:k1", b"another".ljust(32, b".")).verify_key}},
    ],
    ids=str,
)
def test_another_request_or_another_key_is_refused(changes: dict[str, Any]) -> None:
    claimed = signed()
    check(claimed)
    with pytest.raises(InvalidSignature):
        check(claimed, **changes)


def test_a_request_of_another_origin_is_refused() -> None:
    claimed = signed()
    stolen = RequestSignature(ServerName("c.test"), HERE, claimed.key_id, claimed.signature)
    with pytest.raises(InvalidSignature):
        check(stolen)


@pytest.mark.parametrize("signature", ["", "x", "not base64!", "A" * 86, "ü"])
def test_a_signature_that_is_none_is_refused(signature: str) -> None:
    with pytest.raises(InvalidSignature):
        check(RequestSignature(ORIGIN, HERE, KEY.key_id, signature))


def test_a_server_that_names_no_destination_is_believed_and_one_that_strips_it_is_not() -> None:
    old = signed_object(method="GET", uri="/x", origin=ORIGIN, destination=None, content=None)
    claimed = RequestSignature(ORIGIN, None, KEY.key_id, KEY.sign(encode_lenient(old)))
    check(claimed, method="GET", uri="/x", content=None)

    stripped = RequestSignature(ORIGIN, None, KEY.key_id, signed().signature)
    with pytest.raises(InvalidSignature):
        check(stripped)


EXPECTED = RequestSignature(ServerName("a.test:8448"), ServerName("b.test"), "ed25519:k1", "AbC/+d")


@pytest.mark.parametrize(
    "header",
    [
        'X-Matrix origin="a.test:8448",destination="b.test",key="ed25519:k1",sig="AbC/+d"',
        'x-matrix   ORIGIN="a.test:8448" ,\tdestination=b.test  , Key="ed25519:k1",sig="AbC/+d"',
        'X-Matrix origin=a.test:8448,destination=b.test,key=ed25519:k1,sig="AbC/+d"',
        r'X-Matrix sig="Ab\C\/+d",key="ed25519\:k1",origin="a.test:8448",destination="b.test"',
        'X-Matrix ,origin = "a.test:8448",, destination= b.test,key=ed25519:k1,sig="AbC/+d", ',
        'X-Matrix origin=a.test:8448,x="a,b=\\"c",destination=b.test,key=ed25519:k1,sig="AbC/+d"',
        'X-Matrix origin=a.test:8448,destination=b.test,key=ed25519:k1,signature="AbC/+d"',
    ],
)
def test_every_form_that_the_specification_allows_is_read(header: str) -> None:
    assert parse_authorization(header) == EXPECTED


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer abc",
        "X-Matrix",
        "X-Matrix ",
        'X-Matrix origin="a.test",key="ed25519:k1"',
        'X-Matrix origin="a.test",sig="x"',
        'X-Matrix key="ed25519:k1",sig="x"',
        'X-Matrix origin="a.test",key="k1",sig="x"',
        'X-Matrix origin="a.test",key="ed25519:",sig="x"',
        'X-Matrix origin="a.test",key="ed25519:k 1",sig="x"',
        'X-Matrix origin="a test",key="ed25519:k1",sig="x"',
        'X-Matrix origin="",key="ed25519:k1",sig="x"',
        'X-Matrix origin="a.test",destination="",key="ed25519:k1",sig="x"',
        'X-Matrix origin="a.test",origin="b.test",key="ed25519:k1",sig="x"',
        'X-Matrix origin="a.test" key="ed25519:k1" sig="x"',
        'X-Matrix origin="a.test",key="ed25519:k1",sig="x',
        'X-Matrix origin="a.test",key="ed25519:k1",sig="x"y',
        'X-Matrix origin="a.test",key="ed25519:k1",sig=',
    ],
)
def test_what_is_not_the_scheme_is_refused(header: str) -> None:
    with pytest.raises(MalformedAuthorization):
        parse_authorization(header)


@given(st.dictionaries(TOKEN.map(str.lower), VALUE, max_size=5), st.data())
def test_any_quoted_value_arrives_as_it_was(others: dict[str, str], data: Any) -> None:
    signature = data.draw(VALUE)
    values = {**others, "origin": "a.test", "key": "ed25519:k1", "sig": signature}
    values.pop("destination", None)
    names = data.draw(st.permutations(list(values)))
    quoted = {n: v.replace("\\", "\\\\").replace('"', '\\"') for n, v in values.items()}
    header = "X-Matrix " + ",".join(f'{name}="{quoted[name]}"' for name in names)
    assert parse_authorization(header) == RequestSignature(
        ServerName("a.test"), None, "ed25519:k1", signature
    )


@given(st.text(max_size=60).map(lambda rest: "X-Matrix " + rest))
def test_any_header_is_read_or_refused(header: str) -> None:
    try:
        parse_authorization(header)
    except MalformedAuthorization:
        return


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"{", b"\xff", b'{"a": NaN}'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(MatrixError):
        parse_content(body)


def test_integers_of_any_size_and_floats_keep_their_spelling() -> None:
    content = {"big": 2**70, "float": 1e22, "list": [1.5]}
    claimed = signed(content=content)
    check(claimed, content=parse_content(encode_lenient(content)))
