"""The tokens by which clients say how far they have read.

A sync token `s<epoch>.<pos>.<boot>-<n>` names a point of the one stream: `epoch` is made with the
database and changed by a restore, `pos` is the stream position, and `n` counts typing and presence
since `boot`, the random name of that counter. A page token `t<depth>.<pos>[.<bound>]` names a
point in a room's order of `(depth, pos)`; `bound` limits all following pages to positions up to
it. The `pos` of a sliding sync is a sync token with the number of the connection's state before
it: `c<number>.<sync token>`.

Tokens are opaque to clients: only these functions know the form.

Spec: client-server API, "Syncing"; the design is in docs/architecture.md.
"""

import re
from dataclasses import dataclass

from yizhan_server.protocol.errors import InvalidParam

# At most 18 digits, so that every number fits a 64-bit column.
_SYNC = re.compile(
    r"s([A-Za-z0-9_-]{1,64})\.([0-9]{1,18})\.([A-Za-z0-9_-]{1,64})-([0-9]{1,18})", re.ASCII
)
_SLIDING = re.compile(r"c([0-9]{1,18})\.(.+)", re.ASCII)
_PAGE = re.compile(r"t([0-9]{1,19})\.(-?[0-9]{1,18})(?:\.([0-9]{1,18}))?", re.ASCII)
_MAX_DEPTH = 2**63 - 1


@dataclass(frozen=True, slots=True)
class SyncToken:
    """A point of the stream, as /sync gives it out."""

    epoch: str
    position: int
    boot: str
    ephemeral: int

    def serialize(self) -> str:
        """Return the form that clients keep."""
        return f"s{self.epoch}.{self.position}.{self.boot}-{self.ephemeral}"


@dataclass(frozen=True, slots=True)
class PageToken:
    """A point of a room's history; positions below 0 are backfilled history."""

    depth: int
    position: int
    bound: int | None = None

    def serialize(self) -> str:
        """Return the form that clients keep."""
        bound = "" if self.bound is None else f".{self.bound}"
        return f"t{self.depth}.{self.position}{bound}"


@dataclass(frozen=True, slots=True)
class SlidingToken:
    """A point of the stream, and which state a sliding sync's connection had there."""

    connection: int
    sync: SyncToken

    def serialize(self) -> str:
        """Return the form that clients keep."""
        return f"c{self.connection}.{self.sync.serialize()}"


def parse_sync_token(text: str) -> SyncToken:
    """Return the token of a `since` parameter. Raises InvalidParam.

    That its epoch is another one, or its position not reached yet, is for the caller to notice.
    """
    match = _SYNC.fullmatch(text)
    if match is None:
        raise InvalidParam("This is not a sync token of this server.")
    epoch, position, boot, ephemeral = match.groups()
    return SyncToken(epoch, int(position), boot, int(ephemeral))


def parse_sliding_token(text: str) -> SlidingToken:
    """Return the token of a `pos` parameter. Raises InvalidParam."""
    match = _SLIDING.fullmatch(text)
    if match is None:
        raise InvalidParam("This is not a position of this server.")
    return SlidingToken(int(match[1]), parse_sync_token(match[2]))


def parse_page_token(text: str) -> PageToken:
    """Return the token of a page of history. Raises InvalidParam."""
    match = _PAGE.fullmatch(text)
    if match is None or int(match[1]) > _MAX_DEPTH:
        raise InvalidParam("This is not a pagination token of this server.")
    bound = match[3]
    return PageToken(int(match[1]), int(match[2]), None if bound is None else int(bound))


def parse_token(text: str) -> SyncToken | PageToken:
    """Return either kind of token, for endpoints that take both. Raises InvalidParam."""
    if text.startswith("c"):
        return parse_sliding_token(text).sync
    return parse_sync_token(text) if text.startswith("s") else parse_page_token(text)
