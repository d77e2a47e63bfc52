"""The language of what the command line says: Chinese or English, as the environment asks."""

import os
from typing import Literal

Language = Literal["zh", "en"]


def find_language() -> Language:
    """Choose Chinese when the locale of the environment does, else English."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if locale := os.environ.get(name):
            return "zh" if locale.lower().startswith("zh") else "en"
    return "en"


def say(zh: str, en: str) -> str:
    """Return whichever of the two sentences the environment's locale asks for."""
    return zh if find_language() == "zh" else en
