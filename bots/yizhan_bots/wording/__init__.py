"""Everything that a person reads from the bot, in Chinese and in English, side by side.

A `Sentence` holds both languages next to each other, so that whoever changes one sees the
other; a test compares their placeholders. Nothing here decides anything. `dates` reads and
writes days and amounts in both languages; `dialogue` and `approvals` hold the sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing to say, as templates for `str.format`. Values are never templates."""

    zh: str
    en: str

    def __call__(self, language: Language, **values: object) -> str:
        """Return the sentence in one language with its placeholders filled in."""
        return (self.zh if language == "zh" else self.en).format_map(values)


__all__ = ["Language", "Sentence"]
