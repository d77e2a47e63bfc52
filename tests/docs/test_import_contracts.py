"""The contracts of .importlinter cover every package, and its own kind of contract can fail."""

import configparser
import tomllib
from pathlib import Path

import pytest
from grimp import ImportGraph

from yizhan_testing.import_contracts import OnlyImports

ROOT = Path(__file__).parents[2]
FOLDERS = ("server", "bridges", "bots", "config", "tests")


def packages() -> set[str]:
    return {
        init.parent.name
        for folder in FOLDERS
        for init in (ROOT / folder).glob("yizhan_*/__init__.py")
    }


def graph(*imports: tuple[str, str]) -> ImportGraph:
    made = ImportGraph()
    for importer, imported in imports:
        made.add_import(importer=importer, imported=imported)
    return made


def kept(imports: ImportGraph) -> bool:
    contract = OnlyImports(
        name="pure",
        session_options={},
        contract_options={"source_modules": ["ours.pure"], "allowed_modules": ["orjson"]},
    )
    return contract.check(imports, verbose=False).kept


@pytest.mark.parametrize("imported", ["ours.pure.other", "orjson", "hashlib", "collections"])
def test_a_pure_module_may_import_its_package_the_library_and_what_is_listed(imported: str) -> None:
    assert kept(graph(("ours.pure.one", imported), ("ours.impure", "aiohttp")))


@pytest.mark.parametrize("imported", ["ours.impure", "ours.purer", "aiohttp", "ours"])
def test_a_pure_module_may_import_nothing_else(imported: str) -> None:
    assert not kept(graph(("ours.pure.one", "orjson"), ("ours.pure.one", imported)))


def test_every_package_is_under_the_contracts() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", encoding="utf-8")

    assert set(contracts["importlinter"]["root_packages"].split()) == packages()


def test_every_package_that_a_person_installs_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    in_wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]

    assert packages() - {"yizhan_testing"} <= {Path(each).name for each in in_wheel}


def test_no_package_begins_directly_in_a_mandated_folder() -> None:
    # Such a package would be called `server` or `config` and collide with everybody else's.
    assert [each for each in FOLDERS if (ROOT / each / "__init__.py").exists()] == []
