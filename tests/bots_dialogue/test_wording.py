"""Every sentence exists in both languages, with the same placeholders."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from yizhan_bots.approvals import forms
from yizhan_bots.wording import Sentence, approvals, dialogue, values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def sentences(module: ModuleType) -> Iterator[tuple[str, Sentence]]:
    for name, value in vars(module).items():
        if isinstance(value, Sentence):
            yield name, value
        elif isinstance(value, dict) and name.isupper():
            yield from ((f"{name}.{k}", v) for k, v in value.items() if isinstance(v, Sentence))


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def test_both_languages_say_the_same() -> None:
    found = [pair for module in (approvals, dialogue, values) for pair in sentences(module)]
    assert len(found) > 100
    for name, sentence in found:
        assert placeholders(sentence.zh) == placeholders(sentence.en), name
        assert sentence.zh.strip(), name
        assert sentence.en.strip(), name


def test_every_form_is_worded_in_both_languages() -> None:
    for form in forms.FORMS.values():
        worded = [form.title]
        for field in form.fields:
            worded += [field.label, field.question, *field.choices]
        for sentence in worded:
            assert not sentence.zh.isascii()
            assert sentence.en.isascii()
