"""Numbered, forward-only schema changes, written once for both dialects.

A program keeps files `NNNN_name.sql` in a package of its own; each is applied once, in order,
in a transaction that also records its number. The files are SQLite's SQL within the subset
that this module can turn into PostgreSQL's:

| in the file           | on PostgreSQL                                  |
|-----------------------|------------------------------------------------|
| `INTEGER`             | `BIGINT` (64 bits on both)                     |
| `INTEGER PRIMARY KEY` | `BIGINT PRIMARY KEY`: give the number yourself |
| `BLOB`                | `BYTEA`                                        |
| `REAL`                | `DOUBLE PRECISION`                             |
| `TEXT`                | `TEXT COLLATE "C"` in tables: order by bytes   |
| `WITHOUT ROWID`       | dropped                                        |
| `STRICT`              | dropped                                        |

What goes further stands in sections: a line `-- dialect: sqlite` or `-- dialect: postgresql`
starts one, taken as it stands and only there; `-- dialect: all` ends it. No `AUTOINCREMENT`,
no `SERIAL`: numbers come from `Database.reserve` or are stream positions.
"""

from __future__ import annotations

import importlib.resources
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .database import OpeningRefused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.resources.abc import Traversable
    from types import ModuleType

Dialect = Literal["sqlite", "postgresql"]

FOUNDATION = """
CREATE TABLE IF NOT EXISTS yizhan_migration (
    version INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS yizhan_meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS yizhan_counter (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO yizhan_counter (name, value) VALUES ('position', 0) ON CONFLICT DO NOTHING;
"""
"""The tables of this package itself. `position` counts the stream; the other counters are
those of `reserve`, which the prefix `reserve:` keeps apart."""

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_SECTION = re.compile(r"^-- dialect: *(\w+) *$", re.MULTILINE)
_TO_POSTGRESQL = (
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
    (re.compile(r"\bREAL\b"), "DOUBLE PRECISION"),
    (re.compile(r"\bTEXT\b"), 'TEXT COLLATE "C"'),
    (re.compile(r"\)\s*(?:WITHOUT ROWID|STRICT)(?:\s*,\s*(?:WITHOUT ROWID|STRICT))?"), ")"),
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name, and its SQL as written."""

    version: int
    name: str
    sql: str

    def sql_for(self, dialect: Dialect) -> str:
        """Return the statements of this migration for one dialect."""
        return sql_for(self.sql, dialect)


def sql_for(sql: str, dialect: Dialect) -> str:
    """Turn a script of the common subset into one for `dialect`."""
    # split() with a group gives: text, name, text, name, text ...
    common, *sections = _SECTION.split(sql)
    parts = [_translated(common, dialect)]
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        if name == "all":
            parts.append(_translated(text, dialect))
        elif name not in {"sqlite", "postgresql"}:
            raise ValueError(f"unknown dialect in a migration: {name}")
        elif name == dialect:
            parts.append(text)
    return "".join(parts)


def _translated(sql: str, dialect: Dialect) -> str:
    if dialect == "postgresql":
        for pattern, replacement in _TO_POSTGRESQL:
            sql = pattern.sub(replacement, sql)
    return sql


def read_migrations(source: ModuleType | str | Path) -> list[Migration]:
    """Read the files of a package (or its name) or folder, ordered by number.

    ValueError when a number is missing or there twice.
    """
    folder: Traversable = source if isinstance(source, Path) else importlib.resources.files(source)
    found = []
    for file in folder.iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match is not None:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations in {source} are not numbered 0001, 0002, ... without gaps")
    return found


def pending(migrations: Sequence[Migration], applied: int, where: str) -> Sequence[Migration]:
    """Return what is still to be applied to the database `where`, which is at `applied`.

    OpeningRefused when the database is newer than the program.
    """
    if applied > len(migrations):
        raise OpeningRefused(
            f"The database {where} has schema version {applied}, but this program knows only"
            f" versions up to {len(migrations)}: a newer version of Yizhan has used it. Install"
            f" that version again, or restore a backup made before the upgrade."
            f" 数据库 {where} 的结构版本为 {applied}，而本程序只支持到 {len(migrations)}："
            "它已被较新版本的 Yizhan 使用过。请重新安装该版本，或恢复升级前的备份。"
        )
    return migrations[applied:]


def new_epoch() -> str:
    """Return a random name for a new history of stream positions: 8 characters of [a-z0-9]."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(8))
