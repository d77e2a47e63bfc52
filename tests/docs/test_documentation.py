"""What the documentation promises is there, and what must not stand in the repository does not."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")

# A letter in brackets keeps each expression from matching itself here.
FORBIDDEN = {
    "a path of one machine": re.compile(r"/([w]ork|[t]mp)/[a-z][\w.-]*|/([h]ome|[r]oot)/\w+"),
    "a host of a package registry": re.compile(
        r"[p]ypi\.org|[p]ythonhosted\.org|npm[j]s\.org|[n]pmmirror|[t]una\.tsinghua"
    ),
    "a private key": re.compile(r"[B]EGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/]{20}"),
}


@cache
def files() -> list[Path]:
    """The files that are, or are about to be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return ""


def pages() -> list[Path]:
    return [path for path in files() if path.suffix == ".md"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and others make them."""
    made = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.lower())
        made.add(plain.strip().replace(" ", "-"))
    return made


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in pages():
        for target in LINK.findall(CODE.sub("", FENCE.sub("", page.read_text("utf-8")))):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = unquote(target).partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or not there.is_relative_to(ROOT):
                broken.append(f"{named(page)}: {target}")
            elif anchor and anchor not in anchors(there):
                broken.append(f"{named(page)}: {target} (no such heading)")
    assert broken == []


def test_every_page_can_be_reached_from_the_readme_or_contributing() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / name for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md")]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.is_file() or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [
            (page.parent / unquote(target).partition("#")[0]).resolve()
            for target in LINK.findall(page.read_text("utf-8"))
        ]
    assert [named(page) for page in pages() if page not in seen] == []


def test_paths_named_in_the_documentation_exist() -> None:
    wanted = re.compile(r"`((?:server|bridges|bots|config|tests|docs)/[\w./-]+)`")
    missing = [
        f"{named(page)}: {path}"
        for page in pages()
        for path in wanted.findall(page.read_text("utf-8"))
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_every_module_of_our_packages_says_what_it_is() -> None:
    silent = [
        named(path)
        for path in files()
        if path.suffix == ".py"
        and re.match(r"(server|bridges|bots|config|tests)/yizhan_|bench/", named(path))
        and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    index = (ROOT / "docs/adr/README.md").read_text("utf-8")

    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        title = path.read_text("utf-8").splitlines()[0].removeprefix("# ")
        assert f"- [{title}]({path.name})" in index
        assert title.startswith(f"{int(path.name[:4])}. ")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_in_the_repository_depends_on_one_machine(what: str) -> None:
    found = [
        f"{named(path)}: {match[0]}"
        for path in files()
        for match in FORBIDDEN[what].finditer(text_of(path))
    ]
    assert found == []
