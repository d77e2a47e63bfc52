"""Server access control lists, case by case as the specification orders them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.identifiers import ServerName
from yizhan_server.protocol.server_acl import NO_ACL, ServerAcl

ALL: dict[str, Any] = {"allow": ["*"]}
NAMES = st.from_regex(r"[a-zA-Z0-9.-]{1,20}(:[0-9]{1,5})?", fullmatch=True).map(ServerName)


@pytest.mark.parametrize(
    ("content", "server", "allowed"),
    [
        (ALL, "a.test", True),
        (ALL, "a.test:8448", True),
        (ALL, "1.2.3.4", True),
        ({}, "a.test", False),
        ({"deny": ["b.test"]}, "a.test", False),
        ({"allow": ["a.test"]}, "a.test", True),
        ({"allow": ["a.test"]}, "A.Test:1", True),
        ({"allow": ["A.TEST"]}, "a.test", True),
        ({"allow": ["a.test"]}, "b.a.test", False),
        ({"allow": ["a.test"]}, "axtest", False),
        ({"allow": ["*.test"]}, "b.a.test", True),
        ({"allow": ["*.test"]}, "test", False),
        ({"allow": ["?.test"]}, "a.test", True),
        ({"allow": ["?.test"]}, "ab.test", False),
        (ALL | {"deny": ["evil.test"]}, "evil.test", False),
        (ALL | {"deny": ["evil.test"]}, "evil.test:8448", False),
        (ALL | {"deny": ["evil.test:8448"]}, "evil.test:8448", True),
        (ALL | {"deny": ["*evil.test"]}, "not.evil.test", False),
        ({"allow": ["a.test"], "deny": ["*"]}, "a.test", False),
        (ALL | {"allow_ip_literals": False}, "1.2.3.4", False),
        (ALL | {"allow_ip_literals": False}, "1.2.3.4:8448", False),
        (ALL | {"allow_ip_literals": False}, "[::1]", False),
        (ALL | {"allow_ip_literals": False}, "[2001:db8::1]:8448", False),
        (ALL | {"allow_ip_literals": False}, "1.2.3.4.test", True),
        (ALL | {"allow_ip_literals": False}, "4.test:8448", True),
        (ALL | {"allow_ip_literals": "no"}, "1.2.3.4", True),
        (ALL | {"allow_ip_literals": 0}, "1.2.3.4", True),
        ({"allow": ["[::1]"]}, "[::1]:8448", True),
        ({"allow": "*"}, "a.test", False),
        ({"allow": [7, None, {}, "a.test"]}, "a.test", True),
        (ALL | {"deny": "*"}, "a.test", True),
        (ALL | {"deny": [7, "a.test"]}, "a.test", False),
    ],
)
def test_the_list_is_read_as_the_specification_orders(
    content: dict[str, Any], server: str, *, allowed: bool
) -> None:
    assert ServerAcl(content).is_allowed(ServerName(server)) is allowed


@given(NAMES)
def test_a_room_without_a_list_shuts_nobody_out(server: ServerName) -> None:
    assert NO_ACL.is_allowed(server)


@given(NAMES, NAMES)
def test_a_port_never_matters(server: ServerName, other: ServerName) -> None:
    host = server.partition(":")[0]
    acl = ServerAcl({"allow": [host], "deny": [other.partition(":")[0]]})
    assert acl.is_allowed(server) is acl.is_allowed(ServerName(host))
    assert acl.is_allowed(ServerName(host)) is (host.lower() != other.partition(":")[0].lower())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["allow", "deny", "allow_ip_literals"]), inner)
        ),
    ).filter(lambda value: isinstance(value, dict)),
    NAMES,
)
def test_any_content_has_an_answer(content: dict[str, Any], server: ServerName) -> None:
    assert ServerAcl(content).is_allowed(server) in (True, False)
