import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    # NAME==VERSION and nothing else: no URL, no path, no range.
    matches = [re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9A-Za-z.+!]+)", pin) for pin in pins]
    assert None not in matches, pins
    return {normal(match[1]): match[2] for match in matches if match}


def test_every_dependency_is_pinned_to_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    names = {normal(re.split(r"[\[;<>=! ]", requirement)[0]) for requirement in wanted}
    assert names - set(pinned()) == set()


def test_what_builds_a_dependency_that_comes_as_source_is_pinned() -> None:
    assert "setuptools" in pinned()


def test_what_builds_the_project_is_pinned_to_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["build-system"]["requires"] == [f"hatchling=={pinned()['hatchling']}"]
