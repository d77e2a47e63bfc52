"""How text becomes tokens that can be searched for.

A run of letters and digits is a token; of scripts that put no spaces between words (Chinese,
Japanese, Korean syllables, Thai and their neighbours) every character is one, and a word of them
is sought as its characters in a row. So no dictionary decides what can be found.
"""

from __future__ import annotations

import re
import unicodedata

MAX_TOKEN = 60
MAX_PHRASES = 20

# Letters of scripts without spaces, one by one; else runs of letters and digits with their marks.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b"  # radicals, iteration marks
    "\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"  # ideographs, hangul
    "\U00020000-\U0003ffff"
)
_TOKEN = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a text in order; full width and letter case make no difference."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return [found[:MAX_TOKEN] for found in _TOKEN.findall(folded)]


def phrases_of(term: str) -> list[list[str]]:
    """Return what a search term asks for: each of its words as a phrase of tokens."""
    phrases = [tokens_of(word) for word in term.split()]
    return [phrase for phrase in phrases if phrase][:MAX_PHRASES]


def words_of(term: str) -> list[str]:
    """Return the words of a search term as they stand, for clients to mark."""
    return [word for word in term.split() if tokens_of(word)][:MAX_PHRASES]
