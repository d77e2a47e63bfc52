"""Certificate authorities that are trusted besides the system's, such as an institution's own."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from yizhan_config.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def trusting_context(files: Iterable[Path], key: str) -> ssl.SSLContext:
    """Return what servers' certificates are checked with; `key` is the setting with the PEM files.

    Raises ConfigurationError.
    """
    context = ssl.create_default_context()
    for file in files:
        try:
            context.load_verify_locations(file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(
                f"{key} 中的 {file} 不是可用的 PEM 证书文件（{error}）；请检查路径和内容。",
                f"{file} in {key} is no usable PEM file of certificates ({error}); "
                "check its path and content.",
                key=key,
            ) from error
    return context
