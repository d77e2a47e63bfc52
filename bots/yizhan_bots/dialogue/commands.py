"""The words of the command language: what each command is called, its number in the menu.

One table; menu, help, matching and suggestions all read it. A new form or verb is a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from yizhan_bots.approvals.forms import EXPENSE, LEAVE, TRIP, Form
from yizhan_bots.wording import dialogue as wording
from yizhan_bots.wording.values import fold

if TYPE_CHECKING:
    from yizhan_bots.wording import Language, Sentence


class Verb(Enum):
    """What a command does."""

    FORM = "form"
    NEW = "new"
    TODO = "todo"
    MINE = "mine"
    SHOW = "show"
    WITHDRAW = "withdraw"
    URGE = "urge"
    STATISTICS = "statistics"
    TUTORIAL = "tutorial"
    LANGUAGE = "language"
    TRUST = "trust"
    HELP = "help"
    CANCEL = "cancel"
    HELLO = "hello"


CHANGING = frozenset({Verb.FORM, Verb.NEW, Verb.WITHDRAW, Verb.URGE, Verb.TRUST})
"""What must not be carried out late."""


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the table. `words`: the first of each language is what is suggested."""

    verb: Verb
    label: Sentence
    zh: tuple[str, ...]
    en: tuple[str, ...]
    number: int | None = None
    form: Form | None = None
    administrators: bool = False
    """Shown to administrators only (whoever sends it, the gate is elsewhere)."""

    def word(self, language: Language) -> str:
        """Return what a person would send for it."""
        return (self.zh if language == "zh" else self.en)[0]


def _form(form: Form, number: int) -> Command:
    zh = tuple(w for w in form.words if not w.isascii())
    en = tuple(w for w in form.words if w.isascii())
    return Command(
        Verb.FORM,
        form.title,
        (form.title.zh, *zh),
        (form.title.en.lower(), *en),
        number,
        form,
    )


COMMANDS = (
    _form(LEAVE, 1),
    _form(EXPENSE, 2),
    Command(
        Verb.TODO,
        wording.TODO_LABEL,
        ("待办", "待审批", "我的待办", "审批"),
        ("todo", "to do", "list", "tasks", "approvals"),
        3,
    ),
    Command(
        Verb.MINE,
        wording.MINE_LABEL,
        ("我发起的", "我发起", "我的申请", "我的"),
        ("mine", "my requests", "me"),
        4,
    ),
    _form(TRIP, 5),
    Command(
        Verb.SHOW,
        wording.SHOW_LABEL,
        ("进度", "详情", "查进度", "查看"),
        ("show", "status", "details", "track"),
        6,
    ),
    Command(
        Verb.WITHDRAW,
        wording.WITHDRAW_LABEL,
        ("撤回", "撤回申请", "撤销"),
        ("withdraw", "revoke"),
        7,
    ),
    Command(Verb.URGE, wording.URGE_LABEL, ("催办", "催一下"), ("urge", "remind"), 8),
    Command(Verb.STATISTICS, wording.STATISTICS_LABEL, ("统计",), ("stats", "statistics"), 9),
    Command(Verb.TUTORIAL, wording.TUTORIAL_LABEL, ("教程", "练习"), ("tutorial", "practice"), 10),
    Command(Verb.LANGUAGE, wording.LANGUAGE_LABEL, ("语言",), ("language", "lang"), 11),
    Command(
        Verb.TRUST,
        wording.TRUST_LABEL,
        ("成员 信任", "信任", "恢复信任"),
        ("member trust", "trust"),
        12,
        administrators=True,
    ),
    Command(
        Verb.HELP,
        wording.HELP_LABEL,
        ("菜单", "帮助", "目录"),
        ("help", "menu", "?"),
        0,
    ),
    Command(Verb.NEW, wording.NEW_LABEL, ("新建", "申请", "新申请"), ("new", "new request")),
    Command(Verb.CANCEL, wording.HELP_LABEL, ("取消", "退出", "算了"), ("cancel", "quit", "stop")),
    Command(
        Verb.HELLO,
        wording.HELP_LABEL,
        ("你好", "您好", "在吗", "早上好"),
        ("hello", "hi", "hey", "start"),
    ),
)
_NOUNS = ("审批", "批", "approve", "approval", "approvals")
_AFTER_NOUN = {Verb.TODO, Verb.MINE, Verb.SHOW, Verb.WITHDRAW, Verb.URGE, Verb.STATISTICS, Verb.NEW}
_NEW_WORDS = ("新建", "申请", "new")
_CJK = r"\u3400-\u9fff"


def _phrases() -> list[tuple[str, Command]]:
    phrases = []
    for command in COMMANDS:
        words = (*command.zh, *command.en)
        phrases += [(word, command) for word in words]
        if command.verb in _AFTER_NOUN:
            phrases += [(f"{noun} {word}", command) for noun in _NOUNS for word in words]
        if command.verb is Verb.FORM:
            for new in _NEW_WORDS:
                phrases += [(f"{new} {word}", command) for word in words]
                phrases += [(f"{noun} {new} {w}", command) for noun in _NOUNS for w in words]
    return phrases


def _pattern(phrase: str) -> re.Pattern[str]:
    words = [fold(word) for word in phrase.split()]
    pattern = re.escape(words[0])
    for before, after in pairwise(words):
        # Chinese is written without spaces: 审批待办 is 审批 待办.
        gap = r"\s+" if before.isascii() and after.isascii() else r"\s*"
        pattern += gap + re.escape(after)
    return re.compile(rf"{pattern}(?=$|[\s:,，。!?！？]|(?<=[{_CJK}])[0-9a-z@])")


_PATTERNS = [
    (_pattern(phrase), command)
    for phrase, command in sorted(_phrases(), key=lambda row: -len(row[0]))
]
_BY_NUMBER = {command.number: command for command in COMMANDS if command.number is not None}


def match_command(text: str) -> tuple[Command, str] | None:
    """Return the command that `text` begins with and the rest of the text, or None."""
    folded = fold(text)
    for pattern, command in _PATTERNS:
        match = pattern.match(folded)
        if match is not None:
            return command, text[match.end() :].strip(" \t\r\n\u3000:：,，。!！?？")
    return None


def command_numbered(number: int) -> Command | None:
    """Return the command with that number in the menu, or None."""
    return _BY_NUMBER.get(number)


def nearest_commands(text: str, language: Language) -> tuple[str, str]:
    """Return the two commands whose words are most like `text`, as the person would send them."""
    # Comparing costs the product of both lengths; what is longer resembles no command.
    folded = fold(text[:40])

    def likeness(command: Command) -> float:
        return max(_likeness(folded, fold(word)) for word in (*command.zh, *command.en))

    offered = [c for c in COMMANDS if c.number is not None and not c.administrators]
    first, second, *_ = sorted(offered, key=likeness, reverse=True)
    return first.word(language), second.word(language)


def _likeness(text: str, word: str) -> float:
    if len(word) > 1 and word in text:
        return 1 + len(word) / 100
    return SequenceMatcher(None, text, word).ratio()
