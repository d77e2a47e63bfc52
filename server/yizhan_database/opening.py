"""From a URL to an open, migrated database."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from .database import OpeningRefused
from .migrations import read_migrations
from .sqlite import open_sqlite

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random
    from types import ModuleType

    from .database import Database


async def open_database(
    url: str,
    migrations: ModuleType | str | Path,
    *,
    restless: Random | None = None,
) -> Database:
    """Open the database at `url`, make it when it is a missing SQLite file, and migrate it.

    `url` is `sqlite:///absolute/path` or `postgresql://user@host/name`. `migrations` is the
    package (or its name) or folder that holds the `NNNN_name.sql` files. With `restless`, for
    tests, reads on SQLite yield to the event loop at random, as they would on PostgreSQL.

    OpeningRefused when another process holds the SQLite file, or the database is newer than
    the program, or the URL is not one of ours. DatabaseUnavailable when it cannot be reached.
    """
    known = read_migrations(migrations)
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and not parts.netloc and parts.path.startswith("/"):
        return await open_sqlite(unquote(parts.path), known, restless=restless)
    if parts.scheme in {"postgresql", "postgres"}:
        # Imported here so that an installation on SQLite never loads the driver (8 MB).
        from .postgresql import open_postgresql  # noqa: PLC0415

        return await open_postgresql(url, known)
    raise OpeningRefused(
        f"The database URL {parts.scheme}:... is not understood: write"
        " sqlite:///absolute/path/to/file or postgresql://user@host/name."
        f" 无法识别数据库地址 {parts.scheme}:...：请写 sqlite:///文件的绝对路径"
        " 或 postgresql://用户@主机/库名。"
    )
