"""One small contract for durable data, kept by SQLite and by PostgreSQL. No Matrix in here.

Reads are `row`, `rows` and `scan`. A write is a `Transaction` that records statements and is
then submitted; one writer commits many of them with one fsync and gives out the stream
positions inside the commit, so that commit order is position order.

Reading order: `transaction` and `database` (the contract), `jobs`, `sqlite` and
`sqlite_writer`, `postgresql` and `postgresql_plan`, `migrations`, `in_list`, `opening`.
"""

from .database import (
    CommitUnknown,
    Database,
    DatabaseUnavailable,
    GuardFailed,
    LaneFailed,
    OpeningRefused,
    Row,
    StatementRefused,
)
from .in_list import in_list
from .opening import open_database
from .transaction import Commit, Lane, Pos, Transaction, Value

__all__ = [
    "Commit",
    "CommitUnknown",
    "Database",
    "DatabaseUnavailable",
    "GuardFailed",
    "Lane",
    "LaneFailed",
    "OpeningRefused",
    "Pos",
    "Row",
    "StatementRefused",
    "Transaction",
    "Value",
    "in_list",
    "open_database",
]
