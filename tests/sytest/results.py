"""Results of SyTest runs.

`results.py table RUN.tap RUN.err RUN.tsv` makes a line per test: file, name, result, why, separated
by tabs. `results.py compare RUN.tsv...` prints what of `tests/sytest-local.txt` did not pass in
these runs (of two, the later counts), `compare-all` what of `tests/sytest-all.txt`, with the share
that passed of each folder; status 1 below the share that is wanted. Where two tests of a file have
one name, it is listed twice.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

LISTS = Path(__file__).parent.parent
LOCAL = (LISTS / "sytest-local.txt", 0.98)
ALL = (LISTS / "sytest-all.txt", 0.97)
"""Which tests should pass, and how large a share has to."""

RESULT = re.compile(r"(not ok|ok) (\d+) (.*)")
STARTED = re.compile(r"    Test (\d+) ")
FILE = re.compile(r"(tests/.*\.pl):")
REMARK = re.compile(r" \(\d+ subtests\)$| # TODO .*$")


def read_lines(path: str) -> list[str]:
    """Return the lines of a file that need not be UTF-8 throughout."""
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def read_run(tap: str, err: str) -> list[tuple[str, str, str, str]]:
    """Return (file, name, result, why) of each test; only standard error tells the files."""
    files: dict[int, str] = {}
    current = "?"
    for line in read_lines(err):
        if match := FILE.fullmatch(line):
            current = match[1]
        elif match := STARTED.match(line):
            files[int(match[1])] = current
    rows = []
    lines = read_lines(tap)
    for index, line in enumerate(lines):
        if not (match := RESULT.fullmatch(line)):
            continue
        result, number, name, why = match[1], int(match[2]), match[3], ""
        if "# skip" in name:
            result = "skip"
            name, why = (part.strip() for part in name.split("# skip", 1))
        elif result == "not ok":
            notes = (text[2:] for text in lines[index + 1 : index + 12] if text.startswith("# "))
            why = next((n for n in notes if not n.startswith(("Started:", "Ended:"))), "")
        rows.append((files.get(number, "?"), REMARK.sub("", name), result, why[:200]))
    return rows


def write_table(tap: str, err: str, tsv: str) -> int:
    """Write the table of one run."""
    rows = read_run(tap, err)
    text = "".join("\t".join(part.replace("\t", " ") for part in row) + "\n" for row in rows)
    Path(tsv).write_text(text, encoding="utf-8")
    print(dict(Counter(row[2] for row in rows)))  # noqa: T201
    return 0


def compare(wanted: tuple[Path, float], *tables: str) -> int:
    """Print each test of the list that did not pass, and how many did of each folder."""
    results: dict[tuple[str, str, int], tuple[str, str]] = {}
    for path in tables:
        met: Counter[tuple[str, str]] = Counter()
        for line in read_lines(path):
            file, name, result, why = line.split("\t", 3)
            results[file, name, met[file, name]] = (result, why)
            met[file, name] += 1
    counts: Counter[str] = Counter()
    listed: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    tests, share = wanted
    met = Counter()
    for line in read_lines(str(tests)):
        file, name = line.split("\t")
        result, why = results.get((file, name, met[file, name]), ("not run", ""))
        met[file, name] += 1
        counts[result] += 1
        folder = file.split("/")[1]
        listed[folder] += 1
        passed[folder] += result == "ok"
        if result != "ok":
            print(result, file, name, why, sep="\t")  # noqa: T201
    for folder in sorted(listed):
        print(f"{folder}: {passed[folder]} of {listed[folder]}")  # noqa: T201
    total = counts.total()
    print(f"{counts['ok']} of {total} passed ({counts['ok'] / total:.1%})")  # noqa: T201
    return 0 if counts["ok"] >= share * total else 1


def main(words: list[str]) -> int:
    """Run what the first word names."""
    match words:
        case ["table", tap, err, tsv]:
            return write_table(tap, err, tsv)
        case ["compare", *tables] if tables:
            return compare(LOCAL, *tables)
        case ["compare-all", *tables] if tables:
            return compare(ALL, *tables)
    print(__doc__, file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
