"""Bodies as HTML forms and OAuth clients send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from yizhan_server.api.routing import read_body
from yizhan_server.oauth.errors import invalid_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from yizhan_server.api.routing import Call

MAX_FORM_BYTES = 65_536
_MAX_FIELDS = 50


async def read_form(call: Call[Any]) -> dict[str, str]:
    """Return the fields of a urlencoded body, or answer invalid_request."""
    if call.request.content_type != "application/x-www-form-urlencoded":
        raise invalid_request("The body must be application/x-www-form-urlencoded")
    try:
        text = (await read_body(call.request, MAX_FORM_BYTES)).decode()
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise invalid_request("The body is not a form") from None
    return check_single(pairs)


def read_query(call: Call[Any]) -> dict[str, str]:
    """Return the parameters of the URL, or answer invalid_request."""
    return check_single(list(call.request.query.items()))


def check_single(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the fields by name; invalid_request for one that is given twice or holds NUL.

    Of two values a proxy may judge one and the server use the other (RFC 6749 section 3.1).
    """
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields:
            raise invalid_request("A parameter is given twice")
        if "\0" in name or "\0" in value:
            raise invalid_request("A parameter holds a NUL character")
        fields[name] = value
    return fields
