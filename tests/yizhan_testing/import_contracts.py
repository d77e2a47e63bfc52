"""A kind of contract for import-linter: these modules import nothing but what is listed.

import-linter can forbid modules by name; a package that must stay pure, or that must know none of
ours, is better told what it *may* import: whatever comes later is then forbidden already.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output
from typing_extensions import override


class OnlyImports(Contract):
    """`source_modules`, with all that is in them, import only themselves and `allowed_modules`.

    The standard library is always allowed. Direct imports count, also those inside functions;
    `ignore_imports` is not offered: an exception is written into the list, where readers look.
    """

    type_name = "only_imports"

    source_modules = fields.ListField(subfield=fields.StringField())
    allowed_modules = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    @override
    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find the imports that leave the allowed modules."""
        output.verbose_print(verbose, f"Looking at what {self.source_modules} import...")
        sources = cast("list[str]", self.source_modules)
        allowed = [*sources, *cast("list[str]", self.allowed_modules)]
        strays = sorted(
            (importer, imported)
            for importer in graph.modules
            if _is_within(importer, sources)
            for imported in graph.find_modules_directly_imported_by(importer)
            if imported.partition(".")[0] not in sys.stdlib_module_names
            and not _is_within(imported, allowed)
        )
        return ContractCheck(kept=not strays, metadata={"strays": strays})

    @override
    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each import that is not allowed."""
        for importer, imported in check.metadata["strays"]:
            output.print_error(f"- {importer} imports {imported}", bold=False)
        output.new_line()


def _is_within(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
