"""The services that handlers may call, built once by `app.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Services:
    """One field per service; a handler takes what it needs from here."""
