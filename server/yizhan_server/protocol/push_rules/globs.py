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

# Between two characters of which one belongs to no word, and at both ends. By an expression, for a
# search in Python, place by place, would let one pattern cost a hundred times as much.
_BOUNDARY_BEFORE = "(?:(?<![A-Za-z0-9_])|(?![A-Za-z0-9_]))"
_BOUNDARY_AFTER = "(?:(?![A-Za-z0-9_])|(?<![A-Za-z0-9_]))"


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
    first, *rest = pattern.lower().split("*")
    if not rest:
        if "?" not in first:
            return lambda value: contains_words(value, first)
        whole = re.compile(_BOUNDARY_BEFORE + _expression(first) + _BOUNDARY_AFTER, re.DOTALL)
        return lambda value: whole.search(value) is not None
    start = re.compile(_BOUNDARY_BEFORE + _expression(first), re.DOTALL)
    middle = [_Piece(text) for text in rest[:-1]]
    # A star at the end reaches the end of the value.
    end = re.compile(_expression(rest[-1]) + _BOUNDARY_AFTER if rest[-1] else "", re.DOTALL)

    def matches(value: str) -> bool:
        begun = start.search(value)
        if begun is None:
            return False
        position = begun.end()
        for piece in middle:
            position = piece.find(value, position)
            if position < 0:
                return False
            position += piece.length
        return end.search(value, position) is not None

    return matches


def contains_words(value: str, text: str) -> bool:
    """Tell whether a lower-cased value holds `text`, no pattern, between two word boundaries."""
    text = text.lower()
    # Nearly no message holds it, and an expression would be made for each of many names.
    if text not in value:
        return False
    expression = _BOUNDARY_BEFORE + re.escape(text) + _BOUNDARY_AFTER
    return re.search(expression, value) is not None


class _Piece:
    """What stands between two stars: text in which `?` is any character."""

    __slots__ = ("_compiled", "_text", "length")

    def __init__(self, text: str) -> None:
        self._text = text
        self.length = len(text)
        self._compiled = re.compile(_expression(text), re.DOTALL) if "?" in text else None

    def find(self, value: str, start: int) -> int:
        """Return the first position of this piece at or after `start`, or -1."""
        if self._compiled is None:
            return value.find(self._text, start)
        match = self._compiled.search(value, start)
        return -1 if match is None else match.start()

    def is_at(self, value: str, position: int) -> bool:
        """Tell whether the piece stands at `position`."""
        if self._compiled is None:
            return value.startswith(self._text, position) if position >= 0 else False
        return position >= 0 and self._compiled.match(value, position) is not None


def _expression(text: str) -> str:
    return ".".join(re.escape(part) for part in text.split("?"))
