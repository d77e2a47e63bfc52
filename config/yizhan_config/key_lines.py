"""The line on which each key of a TOML or JSON document stands.

The standard parsers forget positions, and an error that names the line saves its reader a search.
Both functions expect text that the parser has already accepted.
"""

import re
from collections.abc import Iterator

KeyLines = dict[tuple[str, ...], int]

_WORD = re.compile(
    r'''
      """ (?: \\. | [^\\] )*? "{3,5}       # multi-line strings first: they may hold anything
    | \'\'\' .*? \'{3,5}
    | " (?: \\. | [^"\\\n] )* "
    | ' [^'\n]* '
    | \# [^\n]*
    | \n
    | [\[\]{}=.,:]
    | [^\s\[\]{}=.,:"'\#]+
    ''',
    re.VERBOSE | re.DOTALL,
)


def find_toml_key_lines(text: str) -> KeyLines:
    """Map each key and table of a TOML document (inline tables excepted) to its line."""
    lines: KeyLines = {}
    table: tuple[str, ...] = ()
    path: list[str] = []
    depth = 0
    in_value = in_header = False
    for word, line in _words(text):
        if word == "\n":
            if depth == 0:
                path, in_value, in_header = [], False, False
        elif word.startswith("#"):
            continue
        elif in_value:
            depth += (word in "[{") - (word in "]}")
        elif word == "[":
            in_header = True
        elif word == "]":
            table = tuple(path)
            lines.setdefault(table, line)
        elif word == "=" and not in_header:
            lines.setdefault((*table, *path), line)
            in_value = True
        elif word != ".":
            path.append(_unquoted(word))
    return lines


def find_json_key_lines(text: str) -> KeyLines:
    """Map each key of a JSON document to its line."""
    lines: KeyLines = {}
    path: list[str] = []
    key, key_line = "", 0
    for word, line in _words(text):
        if word == ":":
            lines.setdefault((*path[1:], key), key_line)
        elif word in "{[":
            path.append(key)  # the outermost object pushes an empty name, left out above
        elif word in "}]":
            path.pop()
        elif word != "\n":
            key, key_line = _unquoted(word), line
    return lines


def _words(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _WORD.finditer(text):
        yield match.group(), line
        line += match.group().count("\n")


def _unquoted(word: str) -> str:
    return word[1:-1] if word[0] in "\"'" else word
