"""Logging of every program: the standard library's, with fields.

A call writes a constant message and puts its values into `extra`; what belongs to everything
that happens inside a block (request id, user id) is set once by `fields`. Never tokens,
pushkeys, message content or key material.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, TextIO

from typing_extensions import override

from yizhan_config.settings import Logging

_context: ContextVar[Mapping[str, object]] = ContextVar("log_fields", default=MappingProxyType({}))

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(section: Logging, stream: TextIO = sys.stderr) -> None:
    """Send the records of the whole process to `stream`, replacing earlier handlers."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLines() if section.format == "json" else _TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(section.level.upper())
    # One line per request at `info` would drown what is said about the requests that matter.
    logging.getLogger("aiohttp.access").setLevel(max(root.level, logging.WARNING))


@contextmanager
def fields(**values: object) -> Iterator[None]:
    """Add `values` to every record written inside the block, tasks started in it included."""
    before = _context.set({**_context.get(), **values})
    try:
        yield
    finally:
        _context.reset(before)


def _fields_of(record: logging.LogRecord) -> dict[str, object]:
    own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {**_context.get(), **own}


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class _TextLines(logging.Formatter):
    """`2026-11-22T09:30:00.125+00:00 WARNING yizhan_server.rooms message key=value ...`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = (
            f"{_time_of(record)} {record.levelname} {record.name} {_one_line(record.getMessage())}"
        )
        for name, value in _fields_of(record).items():
            line += f" {name}={_one_line(str(value))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            line += "\n" + record.stack_info
        return line


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        document = {
            **{name: _plain(value) for name, value in _fields_of(record).items()},
            "time": _time_of(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _one_line(text: str) -> str:
    # What strangers send must not be able to forge a line of its own.
    return text.encode("unicode_escape").decode() if not text.isprintable() else text
