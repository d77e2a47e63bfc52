"""Every operation of the specification has a route and a test, and the page says which.

That the test really gets the answer is looked at where it runs: `yizhan_testing.conformance`.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from yizhan_server.api.all_routes import ROUTES
from yizhan_server.api.discovery import VERSIONS
from yizhan_server.api.routing import Router
from yizhan_testing.conformance import proofs, specification
from yizhan_testing.conformance_page import PAGE, with_operations

ROOT = Path(__file__).parents[2]


@cache
def marks_of_tests(file: str) -> dict[str, set[str]]:
    """The tests of a file, each with the marks that it has."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {
        node.name: {ast.unparse(mark) for mark in node.decorator_list}
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_operation_has_a_route() -> None:
    router = Router(list(ROUTES))
    for operation in specification().operations:
        path = re.sub(r"\{(\w+)\}", r"some-\1", operation.path)
        router.find(operation.method, path)  # raises 404 or 405


def test_every_operation_has_a_proof_and_nothing_else_has() -> None:
    assert {operation.id for operation in specification().operations} == proofs().keys()


def test_what_proves_an_operation_is_a_test_of_the_fast_suite() -> None:
    for proof in proofs().values():
        file, _, name = proof.test.partition("::")
        assert (ROOT / file).is_file(), f"{proof.operation}: {file} does not exist"
        tests = marks_of_tests(file)
        assert name in tests, f"{proof.operation}: {proof.test} does not exist"
        assert not {"pytest.mark.slow", "pytest.mark.long"} & tests[name], proof.test


def test_a_refusal_says_why() -> None:
    for proof in proofs().values():
        assert bool(proof.answer) == bool(proof.reason), proof.operation


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text("utf-8")
    assert page == with_operations(page), (
        "run .venv/bin/python -m yizhan_testing.conformance_page, which writes its table"
    )


def test_the_page_speaks_of_every_version_that_is_advertised() -> None:
    rows = re.findall(
        r"^\| (v1\.\d+|r0\.\d\.\d)(?: to (v1\.\d+))? \|", PAGE.read_text("utf-8"), re.MULTILINE
    )
    assert {version for row in rows for version in row if version} <= set(VERSIONS)
    assert VERSIONS[-1] in {version for row in rows for version in row}
