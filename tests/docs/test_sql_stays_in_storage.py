"""SQL stands in the packages that are made for it, and nowhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).parents[2] / "server/yizhan_server"

STATEMENT = re.compile(
    r"\s*(?:SELECT\s.+\sFROM|INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM"
    r"|CREATE\s+(?:TABLE|INDEX|UNIQUE)|ALTER\s+TABLE|DROP\s+TABLE|WITH\s+\w+\s+AS)\s",
    re.DOTALL,
)


def strings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize(
    "statement",
    ["SELECT nid\n FROM room WHERE nid = ?", "UPDATE room SET ver = ?", "INSERT INTO a VALUES (1)"],
)
def test_statements_are_recognised(statement: str) -> None:
    assert list(filter(STATEMENT.match, strings(f"db.row({statement!r})")))


def test_only_the_storage_package_of_the_homeserver_holds_sql() -> None:
    strays = [
        f"{path.relative_to(SERVER)}: {text[:60]}"
        for path in sorted(SERVER.rglob("*.py"))
        if path.relative_to(SERVER).parts[0] != "storage"
        for text in strings(path.read_text("utf-8"))
        if STATEMENT.match(text)
    ]
    assert strays == []
