"""Globs: the meaning of a regular expression, without its running time."""

import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yizhan_server.protocol.push_rules.globs import (
    compile_glob,
    compile_word_glob,
    contains_words,
)

# Few letters, so that patterns often match; "-" is no word character, "_" is one.
PATTERNS = st.text("aab*?-_", max_size=8)
VALUES = st.text("aab-_ ", max_size=10)
NOT_INSIDE_A_WORD = r"(?:(?<![A-Za-z0-9_])|(?![A-Za-z0-9_]))"


def as_expression(pattern: str) -> str:
    pieces = {"*": ".*", "?": "."}
    return "".join(pieces.get(character, re.escape(character)) for character in pattern)


@given(PATTERNS, VALUES)
def test_a_glob_matches_as_its_regular_expression_would(pattern: str, value: str) -> None:
    expected = re.fullmatch(as_expression(pattern), value, re.DOTALL) is not None
    assert compile_glob(pattern)(value) == expected


@given(PATTERNS, VALUES)
def test_a_word_glob_matches_as_its_regular_expression_would(pattern: str, value: str) -> None:
    expression = f"{NOT_INSIDE_A_WORD}{as_expression(pattern)}{NOT_INSIDE_A_WORD}"
    expected = re.search(expression, value, re.DOTALL) is not None
    assert compile_word_glob(pattern)(value) == expected


@given(st.text("ab*?-_", max_size=6), VALUES)
def test_words_without_pattern_match_literally(text: str, value: str) -> None:
    expression = f"{NOT_INSIDE_A_WORD}{re.escape(text)}{NOT_INSIDE_A_WORD}"
    assert contains_words(value, text) == (re.search(expression, value) is not None)


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("lunc?*", "lunch plans", True),
        ("lunc?*", "lunch", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("LUNCH", "lunch", True),
        ("*", "", True),
        ("?", "", False),
        ("*", "line\nbreak", True),
        ("a*a", "a", False),
    ],
)
def test_examples_of_whole_values(pattern: str, value: str, matches: bool) -> None:
    assert compile_glob(pattern)(value) is matches


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("ex*ple", "an example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "an exciting triple-whammy", True),
        ("ex*ple", "examples", False),
        ("cake", "pancake", False),
        ("cake", "a cake_", False),
        ("cake", "cake!", True),
        ("@room", "hi @room: lunch", True),
        ("开会", "今天开会了", True),
        ("c?ke", "no coke", True),
    ],
)
def test_examples_of_words(pattern: str, value: str, matches: bool) -> None:
    assert compile_word_glob(pattern)(value) is matches


def test_no_pattern_makes_a_message_cost_seconds() -> None:
    body = "a" * 60_000
    started = process_time()
    for pattern in ("a*" * 250 + "b", "*a" * 250 + "?b", "a" * 511 + "b", "?" * 500 + "b"):
        assert not compile_word_glob(pattern)(body)
        assert not compile_glob(pattern)(body)
    assert process_time() - started < 5
