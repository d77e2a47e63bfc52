"""Writes the table of operations in `docs/conformance.md`, from the schemas and the proofs.

    .venv/bin/python -m yizhan_testing.conformance_page

The rest of the page is written by hand. A test compares the page with what this would write.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from yizhan_testing.conformance import Operation, Proof, proofs, specification

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
BEGIN = "<!-- operations: written by yizhan_testing.conformance_page -->\n"
END = "<!-- end of operations -->\n"


def with_operations(page: str) -> str:
    """Return the page with its table of operations written anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{_tables()}\n{END}{after}"


def _tables() -> str:
    operations = specification().operations
    refused = [operation for operation in operations if proofs()[operation.id].answer]
    sentence = (
        f"{len(operations)} operations: {len(operations) - len(refused)} with an answer of success "
        f"that fits its schema, {len(refused)} that are refused on purpose and say so.\n"
    )
    in_order = sorted(operations, key=lambda operation: operation.tag or "Others")
    sections = [
        f"### {tag}\n\n| operation | path | proved by |\n|---|---|---|\n"
        + "".join(map(_row, group))
        for tag, group in groupby(in_order, key=lambda operation: operation.tag or "Others")
    ]
    return sentence + "\n" + "\n".join(sections)


def _row(operation: Operation) -> str:
    name = f"`{operation.id}`"
    if operation.deprecated:
        name += ", deprecated"
    if operation.since:
        name += f", since v{operation.since}"
    path = operation.path.removeprefix("/_matrix")
    return f"| {name} | `{operation.method} {path}` | {_proof(proofs()[operation.id])} |\n"


def _proof(proof: Proof) -> str:
    file, _, name = proof.test.partition("::")
    sentence = re.sub(r"^test_", "", name).replace("_", " ")
    link = f"[{sentence}](../{file})"
    return link if not proof.answer else f"{link}: `{proof.answer}`, since {proof.reason}"


if __name__ == "__main__":
    PAGE.write_text(with_operations(PAGE.read_text("utf-8")), "utf-8")
