r"""Glob matching in time that no pattern can blow up.

Translated to a regular expression, `*a*a*a*a*b` lets a user make every message of a room cost
seconds. Here each piece between two stars is sought once, from left to right, which is enough:
if any placement matches, the leftmost one of every piece does.

Spec: appendices, "Glob-style matching"; client-server API, `event_match`.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

Glob: TypeAlias = Callable[[str], bool]

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@lru_cache(maxsize=4096)
def compile_glob(pattern: str) -> Glob:
    """Return a test whether a whole lower-cased value matches `pattern` in any case."""
    pattern = pattern.lower()
    if "*" not in pattern and "?" not in pattern:
        return pattern.__eq__
    pieces = [_Piece(text) for text in pattern.split("*")]
    first, *middle, last = pieces if len(pieces) > 1 else (pieces[0], pieces[0])
    has_star = len(pieces) > 1

    def matches(value: str) -> bool:
        if not has_star:
            return len(value) == first.length and first.find(value, 0) == 0
        end = len(value) - last.length
        if not first.is_at(value, 0) or end < first.length or not last.is_at(value, end):
            return False
        position = first.length
        for piece in middle:
            position = piece.find(value, position)
            if position < 0:
                return False
            position += piece.length
        return position <= end

    return matches


@lru_cache(maxsize=4096)
def compile_word_glob(pattern: str) -> Glob:
    """Return a test whether a lower-cased value holds `pattern` between two word boundaries."""
    first, *rest = [_Piece(text) for text in pattern.lower().split("*")]

    def matches(value: str) -> bool:
        position = _find_word_start(first, value, also_end=not rest)
        if position < 0 or not rest:
            return position >= 0
        position += first.length
        for piece in rest[:-1]:
            position = piece.find(value, position)
            if position < 0:
                return False
            position += piece.length
        return _has_word_end(rest[-1], value, position)

    return matches


def contains_words(value: str, text: str) -> bool:
    """Tell whether a lower-cased value holds `text`, no pattern, between two word boundaries."""
    return _find_word_start(_Piece(text.lower(), is_glob=False), value, also_end=True) >= 0


class _Piece:
    """What stands between two stars: text in which `?` is any character."""

    __slots__ = ("_expression", "_text", "length")

    def __init__(self, text: str, *, is_glob: bool = True) -> None:
        self._text = text
        self.length = len(text)
        self._expression = (
            re.compile(".".join(re.escape(part) for part in text.split("?")), re.DOTALL)
            if is_glob and "?" in text
            else None
        )

    def find(self, value: str, start: int) -> int:
        """Return the first position of this piece at or after `start`, or -1."""
        if self._expression is None:
            return value.find(self._text, start)
        match = self._expression.search(value, start)
        return -1 if match is None else match.start()

    def is_at(self, value: str, position: int) -> bool:
        """Tell whether the piece stands at `position`."""
        if self._expression is None:
            return value.startswith(self._text, position) if position >= 0 else False
        return position >= 0 and self._expression.match(value, position) is not None


def _find_word_start(piece: _Piece, value: str, *, also_end: bool) -> int:
    position = piece.find(value, 0)
    while position >= 0:
        if _is_boundary(value, position) and (
            not also_end or _is_boundary(value, position + piece.length)
        ):
            return position
        position = piece.find(value, position + 1)
    return -1


def _has_word_end(piece: _Piece, value: str, start: int) -> bool:
    position = piece.find(value, start)
    if piece.length == 0:
        return position >= 0  # a star at the end reaches the end of the value
    while position >= 0:
        if _is_boundary(value, position + piece.length):
            return True
        position = piece.find(value, position + 1)
    return False


def _is_boundary(value: str, position: int) -> bool:
    return (
        position == 0
        or position == len(value)
        or value[position - 1] not in _WORD
        or value[position] not in _WORD
    )
