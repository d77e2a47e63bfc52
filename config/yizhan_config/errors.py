"""The one error of configuration: a sentence that says what is wrong, where, and the remedy."""

from typing_extensions import override

from yizhan_config.language import say

EXIT_STATUS = 78
"""EX_CONFIG of sysexits.h: a program ends with it when starting again cannot help."""


class ConfigurationError(Exception):
    """A setting, secret or file that must be corrected by the administrator.

    Programs print `str(error)`, which follows the locale, and exit with `EXIT_STATUS`.
    """

    def __init__(self, zh: str, en: str, *, key: str = "", line: int | None = None) -> None:
        super().__init__(zh, en)
        self.zh = zh
        self.en = en
        self.key = key
        self.line = line

    @override
    def __str__(self) -> str:
        return say(self.zh, self.en)
