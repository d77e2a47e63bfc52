"""The command line's options, with errors and help in the reader's language.

argparse speaks English only, which is why these few lines are here instead.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from yizhan_config.language import say


class UsageError(Exception):
    """What was typed cannot be understood; the message says what to type."""


@dataclass(frozen=True)
class Option:
    """One `--name [VALUE]`, with its explanation."""

    name: str
    zh: str
    en: str
    value: str = ""
    required: bool = False
    repeated: bool = False


@dataclass
class Arguments:
    """What was typed: values by option name without the dashes, and the words in between."""

    values: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def find(self, name: str) -> str | None:
        """Return the value of an option, the last one if given twice, or None."""
        given = self.values.get(name)
        return given[-1] if given else None

    def has(self, name: str) -> bool:
        """Whether the option was given."""
        return name in self.values


def parse(typed: Sequence[str], options: Sequence[Option]) -> Arguments:
    """Read `--name value`, `--name=value` and flags; anything else is a UsageError."""
    known = {option.name: option for option in options}
    result = Arguments()
    rest = list(typed)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        option = known.get(name) if word.startswith("--") else None
        if option is None:
            raise UsageError(_unknown(word, list(known)))
        if option.value and not equals:
            if not rest or rest[0].startswith("--"):
                usage = f"--{option.name} {option.value}"
                raise UsageError(say(f"缺少一个值：{usage}", f"a value is missing: {usage}"))
            value = rest.pop(0)
        elif equals and not option.value:
            raise UsageError(say(f"--{name} 不带值", f"--{name} takes no value"))
        result.values.setdefault(name, []).append(value)
    for option in options:
        if option.required and not result.has(option.name):
            usage = f"--{option.name} {option.value}"
            raise UsageError(say(f"缺少 {usage}", f"{usage} is missing"))
    return result


def take(typed: Sequence[str], names: Sequence[str]) -> Arguments:
    """Pick the options `names`, each with a value, from anywhere; the rest stays as `words`."""
    result = Arguments()
    rest = list(typed)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--" or not word.startswith("--") or name not in names:
            result.words.append(word)
            if word == "--":
                break
            continue
        if not equals:
            if not rest:
                raise UsageError(say(f"缺少一个值：--{name}", f"a value is missing: --{name}"))
            value = rest.pop(0)
        result.values.setdefault(name, []).append(value)
    result.words += rest
    return result


def describe(options: Sequence[Option]) -> str:
    """Return one line of help for each option."""
    usages = [f"--{option.name} {option.value}".rstrip() for option in options]
    width = max(len(usage) for usage in usages)
    lines = (
        f"  {usage:<{width}}  {say(option.zh, option.en)}"
        for usage, option in zip(usages, options, strict=True)
    )
    return "\n".join(lines)


def _unknown(word: str, names: list[str]) -> str:
    near = difflib.get_close_matches(word.lstrip("-").partition("=")[0], names, n=1)
    if near:
        return say(
            f"不认识 {word}；您要写的可能是 --{near[0]}",
            f"{word} is unknown; perhaps you meant --{near[0]}",
        )
    usage = " ".join(f"--{name}" for name in names)
    return say(f"不认识 {word}；可用：{usage}", f"{word} is unknown; there are: {usage}")
