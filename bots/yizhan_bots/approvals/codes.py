"""The code that a decision must carry: four characters of the task, two bound to its content.

A homeserver can show an encrypted 同意 as the answer to another message (the relation is in
clear), hold it back until another request is open, or deliver it again. It cannot change the
text inside. So the text itself names the task, and the last two characters, an HMAC of the
request's digest under a secret of the task, fail when the request is no longer the one that
the approver was shown. Crockford's base 32 without I, L, O and U; what is easily mistaken is
folded when read.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
SHORT_LENGTH = 4
CODE_LENGTH = 6
_FOLD = str.maketrans("OIL", "011", "- _–—")


def fold_code(text: str) -> str | None:
    """Return what was typed as four or six characters of `ALPHABET`, or None."""
    code = text.upper().translate(_FOLD)
    if len(code) in {SHORT_LENGTH, CODE_LENGTH} and all(char in ALPHABET for char in code):
        return code
    return None


def new_short() -> str:
    """Return four random characters."""
    return "".join(secrets.choice(ALPHABET) for _ in range(SHORT_LENGTH))


def new_id(now_ms: int) -> str:
    """Return a ULID: 26 characters, sortable by time."""
    number = now_ms << 80 | secrets.randbits(80)
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def code_of(secret: bytes, task_id: str, short: str, request_digest: str) -> str:
    """Return the six characters that decide the task as long as the request stays the same.

    The task's own secret is derived from the installation's, so that nothing that gives a code
    away stands in the events.
    """
    task_secret = hmac.digest(secret, b"yizhan/task-secret/v1\n" + task_id.encode(), "sha256")
    bound = hmac.digest(task_secret, request_digest.encode(), hashlib.sha256)
    return short + ALPHABET[bound[0] & 31] + ALPHABET[bound[1] & 31]


def show_code(code: str) -> str:
    """Return a code as people read it: `7K2M-93`."""
    return f"{code[:SHORT_LENGTH]}-{code[SHORT_LENGTH:]}"
