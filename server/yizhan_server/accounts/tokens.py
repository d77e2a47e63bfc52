"""Secrets that clients hold: made here, kept only as digests.

The prefixes let a person, and a secret scanner, see what a leaked string is.
"""

from __future__ import annotations

import hashlib
import secrets

ACCESS = "yat_"
REFRESH = "yrt_"
LOGIN = "ylt_"
OPENID = "yot_"
MAIL = "ymt_"

_BYTES = 32


def make_token(prefix: str) -> str:
    """Return a new unguessable token (256 bits)."""
    return prefix + secrets.token_urlsafe(_BYTES)


def digest_of(token: str) -> bytes:
    """Return what is stored of a token. SHA-256 suffices: there is nothing to guess."""
    # A header may hold any bytes; they arrive as lone surrogates and must not raise here.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
