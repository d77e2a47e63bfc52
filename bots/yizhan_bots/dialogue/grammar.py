"""The command language: how a line of text is taken apart. Pure; knows no words of commands.

Full-width punctuation, digits and letters count as their plain forms. `key=value` and
`key：value` may stand in any order, and a value reaches to the next known key, so that it may
hold spaces. A decision is a verdict and a code; the opinion stands after a colon, and is
never guessed at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yizhan_bots.approvals.codes import fold_code
from yizhan_bots.approvals.desk import Verdict
from yizhan_bots.wording.values import MAX_TEXT, clean_line, fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_VERDICTS = {"1": Verdict.APPROVE, "2": Verdict.REJECT}
_VERDICTS |= dict.fromkeys(
    ("同意", "批准", "approve", "approved", "ok", "yes", "y"), Verdict.APPROVE
)
_VERDICTS |= dict.fromkeys(
    ("不同意", "驳回", "拒绝", "reject", "rejected", "no", "n"), Verdict.REJECT
)

# Longest first, or 不同意 would never be found; Latin words need a gap, Chinese ones do not.
_LATIN = "|".join(sorted((w for w in _VERDICTS if w.isascii()), key=len, reverse=True))
_CHINESE = "|".join(sorted((w for w in _VERDICTS if not w.isascii()), key=len, reverse=True))
_VERDICT = rf"(?P<verdict>(?:{_LATIN})(?=[\s.、:,])|{_CHINESE})[\s.、:,]*"
_CODE = r"(?P<code>[0-9a-tv-z]{4} ?[-_–—]? ?[0-9a-tv-z]{2})(?![0-9a-z])"
_DECISION = re.compile(_VERDICT + _CODE + r"(?P<rest>(?:[\s:,;；。.!].*)?)", re.DOTALL)
_NEARLY = re.compile(_VERDICT + r"(?P<code>[0-9a-z][0-9a-z_–—-]{2,9})\s*", re.DOTALL)
_OPINION = re.compile(r"\s*[:,;；。\n]\s*(?P<opinion>.*)", re.DOTALL)
_MXID = re.compile(r"@[0-9a-z._=/+-]+:[0-9a-z.:\[\]-]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on the task that `code` (folded, six characters) names."""

    verdict: Verdict
    code: str
    opinion: str
    """One line, cut to `MAX_TEXT`."""
    clear: bool = True
    """False when something follows the code that is not marked as an opinion, or a second
    decision does: then nothing is done."""


def parse_decision(text: str) -> Decision | None:
    """Return the decision that a message is, or None when it is none."""
    text = text.strip()
    match = _DECISION.fullmatch(fold(text))
    if match is None:
        return None
    code = fold_code(match["code"])
    if code is None:
        return None
    verdict = _VERDICTS[match["verdict"]]
    if not match["rest"].strip(" \t\r\n.。!"):
        return Decision(verdict, code, "")
    opinion = _OPINION.fullmatch(fold(text), match.start("rest"))
    if opinion is None:
        return Decision(verdict, code, "", clear=False)
    words = " ".join(clean_line(text[opinion.start("opinion") :]).split())[:MAX_TEXT]
    lines = fold(text[opinion.start("opinion") :]).splitlines()
    return Decision(verdict, code, words, clear=not any(map(_DECISION.match, lines)))


def parse_poll_answer(answer: str) -> Decision | None:
    """Return the decision that a poll answer's id is, as `cards.task_poll` made it."""
    code_text, _, verdict = answer.partition(":")
    code = fold_code(code_text)
    if code is None or len(code) != 6 or verdict not in {"approve", "reject"}:
        return None
    return Decision(Verdict(verdict), code, "")


def is_bare_verdict(text: str) -> bool:
    """Say whether a message is a verdict in words without a code."""
    folded = fold(text).strip(" 。.!")
    return folded in _VERDICTS and not folded.isdecimal()


def is_nearly_decision(text: str) -> bool:
    """Say whether a message is a verdict with something that should have been a code."""
    match = _NEARLY.fullmatch(fold(text).strip())
    return match is not None and any(map(str.isdigit, match["code"]))


@dataclass(frozen=True, slots=True)
class Assignments:
    """What a line gives: values by field, and text that belongs to none."""

    values: Mapping[str, str]
    stray: str


def parse_assignments(text: str, keys: Mapping[str, str]) -> Assignments:
    """Read `key=value` and `key：value`; `keys` maps folded keys to fields."""
    folded = fold(text)
    names = "|".join(sorted(map(re.escape, keys), key=len, reverse=True))
    known = list(re.finditer(rf"(?:(?<=[\s,;、])|^)({names})\s*[=:]", folded))
    values = {}
    for number, match in enumerate(known):
        end = known[number + 1].start() if number + 1 < len(known) else len(text)
        value = text[match.end() : end].strip(" \t\r\n\u3000,，;；、")
        # An unknown key would otherwise vanish into the value before it.
        foreign = re.search(r"\s(\w{1,12})=", fold(value))
        if foreign is not None:
            return Assignments({}, value[foreign.start() :].strip())
        values[keys[match[1]]] = value.strip("\"“”'")
    stray = text[: known[0].start()] if known else text
    return Assignments(values, stray.strip(" \t\r\n\u3000,，;；、"))


def find_mxid(text: str) -> str | None:
    """Return the Matrix user id that `text` is, or None."""
    match = _MXID.fullmatch(text.strip())
    return None if match is None else match[0]


def strip_address(text: str, bot_names: Iterable[str]) -> tuple[str, bool]:
    """Return the text without a leading `!` or mention of the bot, and whether there was one."""
    text = text.strip()
    if fold(text[:1]) == "!":
        return text[1:].strip(), True
    folded = fold(text)
    for name in bot_names:
        start = fold(name)
        for lead in (start, "@" + start):
            if folded.startswith(lead) and not folded[len(lead) : len(lead) + 1].isalnum():
                return strip_address(text[len(lead) :].strip(" \t\n:：,，"), ())[0], True
    return text, False


def parse_number(text: str) -> int | None:
    """Return the number that a message is, as for a menu, or None."""
    folded = fold(text).strip(" .、。)")
    return int(folded) if folded.isdecimal() and folded.isascii() and len(folded) <= 3 else None
