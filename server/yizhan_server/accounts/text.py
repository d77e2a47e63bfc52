"""Short texts that clients choose and that become keys or columns of the database."""

from __future__ import annotations

from yizhan_server.protocol.errors import InvalidParam


def check_text(value: str, what: str, *, max_bytes: int = 255, allow_empty: bool = False) -> str:
    """Return `value`, or answer M_INVALID_PARAM when it cannot be stored on every database.

    PostgreSQL knows no NUL, and a lone surrogate is not text at all.
    """
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise InvalidParam(f"{what} is not valid Unicode") from None
    if "\0" in value:
        raise InvalidParam(f"{what} holds a NUL")
    if size > max_bytes:
        raise InvalidParam(f"{what} is longer than {max_bytes} bytes")
    if not size and not allow_empty:
        raise InvalidParam(f"{what} is empty")
    return value
