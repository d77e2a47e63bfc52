"""What a browser may do with a file: shown in place only when that cannot run anything.

Pure. Spec: client-server API, "Serving inline content"; RFC 6266, RFC 8187.
"""

from __future__ import annotations

from urllib.parse import quote

INLINE_TYPES = frozenset(
    (
        "text/css", "text/plain", "text/csv", "application/json", "application/ld+json",
        "image/jpeg", "image/gif", "image/png", "image/apng", "image/webp", "image/avif",
        "video/mp4", "video/webm", "video/ogg", "video/quicktime",
        "audio/mp4", "audio/webm", "audio/aac", "audio/mpeg", "audio/ogg", "audio/wave",
        "audio/wav", "audio/x-wav", "audio/x-pn-wav", "audio/flac", "audio/x-flac",
    )
)  # fmt: skip

# What RFC 8187 lets stand in an extended value beside letters and digits.
_ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"


def disposition(content_type: str, file_name: str | None) -> str:
    """Return the Content-Disposition of a file; its name holds no control characters."""
    essence = content_type.partition(";")[0].strip().lower()
    kind = "inline" if essence in INLINE_TYPES else "attachment"
    if file_name is None:
        return kind
    if file_name.isascii():
        escaped = file_name.replace("\\", "\\\\").replace('"', '\\"')
        return f'{kind}; filename="{escaped}"'
    return f"{kind}; filename*=UTF-8''{quote(file_name, safe=_ATTRIBUTE_CHARACTERS)}"
