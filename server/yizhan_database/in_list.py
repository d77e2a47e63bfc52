"""List parameters for `IN`, in the one form that both dialects understand."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .transaction import Pos

if TYPE_CHECKING:
    from collections.abc import Collection

    from .transaction import Value

MAX_LIST_ARGUMENTS = 30_000
"""SQLite allows 32,766 parameters in a statement, PostgreSQL 32,767."""


def in_list(sql: str, *args: Value | Pos | Collection[Value]) -> tuple[Any, ...]:
    """Return `(sql, *args)` with each `??` and its list argument made into placeholders.

    To be spread into a call:

        await db.rows(*in_list("SELECT ... WHERE nid IN (??) AND pos <= ?", nids, limit))

    Plain arguments stay where they are. An argument that is a list, tuple, set, frozenset or
    dict view belongs to the next `??`. An empty list matches nothing (so does `NOT IN`: ask
    before). Lists are padded to a power of two with their last value, so that few different
    statements are prepared. ValueError above 30,000 values in all.
    """
    flat: list[Any] = []
    sizes: list[int] = []
    for arg in args:
        if arg is None or isinstance(arg, (int, float, str, bytes, Pos)):
            flat.append(arg)
            continue
        values: list[Any] = list(arg) or [None]
        size = 1 << (len(values) - 1).bit_length()
        if size > MAX_LIST_ARGUMENTS:
            size = len(values)
        flat += values
        flat += values[-1:] * (size - len(values))
        sizes.append(size)
    if len(flat) > MAX_LIST_ARGUMENTS:
        raise ValueError(f"{len(flat)} values are too many for one statement; read in portions")
    return (_statement(sql, *sizes), *flat)


@lru_cache(2000)
def _statement(sql: str, *sizes: int) -> str:
    first, *rest = sql.split("??")
    if len(rest) != len(sizes):
        raise ValueError(f"the statement and its lists do not fit: {sql}")
    return first + "".join(
        ",".join("?" * size) + part for size, part in zip(sizes, rest, strict=True)
    )
